"""Ray Data shards: every image once over all workers, and the same images as without Ray."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mollify_core.recipe import Recipe
from mollify_core.train import training_data
from mollify_core.training import split_rows
from mollify_core.worker import Worker
from sweeps import feed

RECIPE = Recipe().with_(dataset="digits", augment=("crop",), train_fraction=0.3)


@pytest.fixture(scope="module")
def started_ray():
    import ray

    from sweeps.engine import connect

    connect(None)
    yield
    ray.shutdown()


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_shards(workers, digits, started_ray):
    shards, info = feed.datasets(digits, RECIPE, workers)
    assert shards.keys() == {"validation", *(f"fit-{r}" for r in range(workers))}
    train = digits.tensors("train")
    fit, _ = split_rows(train.labels.numpy(), RECIPE, digits.fingerprint)
    alone = training_data(RECIPE, digits)
    sizes, images = [], []
    for rank in range(workers):
        worker = Worker(rank, workers)
        data = feed.training_data(info, worker, lambda name: shards[name].iterator())
        assert data.fit_total == len(fit) == len(alone.fit)
        assert torch.equal(data.fit.images, train.images[fit[rank::workers]])
        assert torch.equal(data.fit.labels, train.labels[fit[rank::workers]])
        assert torch.equal(data.validation.cells, alone.validation.cells)
        assert feed.training_data(info, worker, lambda name: None) is data  # kept for the next trial
        sizes.append(len(data.fit))
        images.append(data.fit.images)
    assert max(sizes) - min(sizes) <= 1
    assert sum(sizes) == len(fit)
    if workers == 1:
        assert torch.equal(images[0], alone.fit.images)
        np.testing.assert_array_equal(data.fit.labels, alone.fit.labels)
