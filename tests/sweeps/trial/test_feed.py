"""What Ray Data brings to workers: the same images as without Ray."""

from __future__ import annotations

import dataclasses
import threading
import time

import numpy as np
import pytest
import ray
import torch

from mollify_core.datasets import prepare, shards
from mollify_core.recipe import Recipe
from mollify_core.steps import Steps
from mollify_core.training_data import training_data
from mollify_core.worker import Worker
from mollify_sweeps.trial import feed

pytestmark = pytest.mark.xdist_group("ray")
RECIPE = Recipe().with_(dataset="digits", augment=("crop",), train_fraction=0.3)


@pytest.fixture(scope="module")
def started_ray():
    from mollify_sweeps.cluster.connection import connect

    connect(None)
    yield
    ray.shutdown()


@pytest.mark.parametrize("fraction", [0.0, 0.5])
def test_the_images_come_from_the_object_store_as_they_are(fraction, digits, started_ray):
    recipe = RECIPE.with_(judging_fraction=fraction)
    handed, info = feed.datasets(digits, recipe)
    assert handed.keys() == {"fit", "validation"}
    alone = training_data(recipe, digits)
    data = feed.training_data(info, Worker(), lambda name: handed[name].iterator())
    assert torch.equal(data.fit.images, alone.fit.images)
    assert torch.equal(data.fit.labels, alone.fit.labels)
    assert torch.equal(data.validation.cells, alone.validation.cells)
    assert torch.equal(data.validation.labels, alone.validation.labels)
    assert data.validation.choosing == alone.validation.choosing
    assert (data.validation.choosing < len(data.validation)) == (fraction > 0)
    assert feed.training_data(info, Worker(), lambda name: None) is data  # kept for the next trial
    again, _ = feed._pull(handed["fit"].iterator())
    assert again.images.data_ptr() == data.fit.images.data_ptr()  # all trials of a machine share one copy


@pytest.mark.parametrize("way", ["resident", "stream"])
def test_groups_come_along_and_divide_validation_as_they_do_without_ray(way, digits, tmp_path, started_ray):
    prepared = digits if way == "resident" else prepare("digits", cache_dir=tmp_path, feed="stream")
    groups = np.random.default_rng(0).integers(0, 150, prepared.manifest["counts"]["train"])
    prepared = dataclasses.replace(prepared, groups={"train": groups})
    recipe = RECIPE.with_(judging_fraction=0.5, split_seed=1 if way == "resident" else 2)  # nothing kept of before
    handed, info = feed.datasets(prepared, recipe)
    alone = training_data(recipe, prepared)
    data = feed.training_data(info, Worker(), lambda name: handed[name].iterator())
    assert torch.equal(data.validation.labels, alone.validation.labels)
    assert torch.equal(data.validation.groups, alone.validation.groups)
    assert data.validation.choosing == alone.validation.choosing
    judged = data.judged_groups
    assert len(judged) == len(data.validation) - data.validation.choosing
    assert not set(judged) & set(data.validation.groups[: data.validation.choosing].tolist())


@pytest.mark.slow
def test_streamed_images_are_what_they_are_without_ray(tmp_path, monkeypatch, started_ray):
    """Also while the trial holds every CPU; a pipeline that nobody reads any more ends."""
    monkeypatch.setattr(shards, "GROUP_BYTES", 64 * 3 * 32**2)
    monkeypatch.setattr(shards, "GROUPS", 3)
    prepared = prepare("digits", cache_dir=tmp_path, feed="stream")
    recipe = RECIPE.with_(judging_fraction=0.5, train_fraction=1.0)
    handed, info = feed.datasets(prepared, recipe)
    alone = training_data(recipe, prepared)
    data = feed.training_data(info, Worker(), lambda name: handed[name].iterator(), 2)
    assert torch.equal(data.validation.first.cells, alone.validation.first.cells)
    assert torch.equal(data.validation.labels, alone.validation.labels)
    steps = Steps(len(alone.fit), 100, 1)
    held = ray.remote(lambda: time.sleep(600)).options(num_cpus=ray.cluster_resources()["CPU"]).remote()
    for epoch in range(2):
        pairs = zip(*(d.fit.batches(0, 2, epoch, steps, 0) for d in (data, alone)), strict=True)
        assert all(torch.equal(a.images, b.images) and torch.equal(a.labels, b.labels) for a, b in pairs)
    batches = data.fit.batches(0, 3, 0, steps, 0)
    next(batches)
    batches.close()
    assert [t.name for t in threading.enumerate() if t.name == "stream"] == []

    def forward(images: torch.Tensor) -> torch.Tensor:
        return images[:, 0, 8, :10].float()

    rows = range(len(data.validation))
    assert torch.equal(data.validation.measure(forward, rows), alone.validation.measure(forward, rows))
    ray.cancel(held, force=True)
