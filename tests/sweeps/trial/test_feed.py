"""What Ray Data brings to workers: the same images as without Ray."""

from __future__ import annotations

import pytest
import torch

from mollify_core.recipe import Recipe
from mollify_core.training_data import training_data
from mollify_core.worker import Worker
from mollify_sweeps.trial import feed

pytestmark = pytest.mark.xdist_group("ray")
RECIPE = Recipe().with_(dataset="digits", augment=("crop",), train_fraction=0.3)


@pytest.fixture(scope="module")
def started_ray():
    import ray

    from mollify_sweeps.cluster.connection import connect

    connect(None)
    yield
    ray.shutdown()


@pytest.mark.parametrize("fraction", [0.0, 0.5])
def test_the_images_come_from_the_object_store_as_they_are(fraction, digits, started_ray):
    recipe = RECIPE.with_(judging_fraction=fraction)
    shards, info = feed.datasets(digits, recipe)
    assert shards.keys() == {"fit", "validation"}
    alone = training_data(recipe, digits)
    data = feed.training_data(info, Worker(), lambda name: shards[name].iterator())
    assert torch.equal(data.fit.images, alone.fit.images)
    assert torch.equal(data.fit.labels, alone.fit.labels)
    assert torch.equal(data.validation.cells, alone.validation.cells)
    assert torch.equal(data.validation.labels, alone.validation.labels)
    assert data.validation.choosing == alone.validation.choosing
    assert (data.validation.choosing < len(data.validation)) == (fraction > 0)
    assert feed.training_data(info, Worker(), lambda name: None) is data  # kept for the next trial
    again = feed._pull(shards["fit"].iterator())
    assert again.images.data_ptr() == data.fit.images.data_ptr()  # all trials of a machine share one copy
