"""How many trials share a device: measured with real processes."""

from __future__ import annotations

import os
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace

import pytest

from mollify_core.errors import ConfigError
from mollify_core.measure.validation import CELLS
from mollify_core.recipe import Recipe
from mollify_sweeps.cluster.workers import Workers
from mollify_sweeps.plan import packing
from mollify_sweeps.plan.options import Resources
from mollify_sweeps.plan.packing import Measured
from mollify_sweeps.plan.rehearsal import apart, resident_bytes

RECIPE = Recipe().with_(dataset="digits", network="resnet8", batch_size=16, augment=())


@pytest.mark.slow
def test_real_trials_are_measured(digits, monkeypatch):
    monkeypatch.setattr(packing, "SECONDS", 0.3)
    sample = digits.tensors("train").select(list(range(16)))
    found = packing.measure(RECIPE, sample, digits.spec, 2, 1, "cpu")
    assert (found.trials, found.threads) == (2, 1)
    assert found.images_per_second > 0
    assert 100e6 < found.memory < 10e9
    # What a trial holds beside a step counts: its cells of validation, on a GPU also its images.
    beside = resident_bytes(digits.spec, 10**6, 10**5, gpu=False)
    assert beside == 10**5 * CELLS * 3 * 32 * 32
    assert resident_bytes(digits.spec, 10**6, 10**5, gpu=True) - beside == 10**6 * 3 * 32 * 32
    more = packing.measure(RECIPE, sample, digits.spec, 1, 1, "cpu", 10**9)
    assert more.memory - found.memory > 0.8e9


def test_what_uses_a_gpu_runs_apart():
    assert apart(os.getpid) != os.getpid()
    with pytest.raises(BrokenProcessPool):
        apart(os._exit, 1)


def test_a_trial_that_dies_is_one_sentence(digits):
    sample = digits.tensors("train").select(list(range(16)))
    broken = RECIPE.with_(repeat=5)  # 16 images cannot be repeated five times
    with pytest.raises(ConfigError, match=r"Cannot measure 1 trials at once .*--cpus-per-worker"):
        packing.measure(broken, sample, digits.spec, 1, 1, "cpu")


@pytest.mark.parametrize(
    ("speeds", "memory", "free", "cpus", "words"),
    [
        ({1: 100.0, 2: 180.0}, 1, 100, 1, "2 trials at once train 1.80 times"),
        ({1: 100.0, 2: 104.0}, 1, 100, 2, "a second trial at once brings nothing"),
        ({1: 100.0, 2: 180.0}, 50, 100, 2, "a second trial at once brings nothing"),  # it would not fit
    ],
)
def test_the_choice(speeds, memory, free, cpus, words, monkeypatch, digits):
    monkeypatch.setattr(
        packing, "measure", lambda r, s, d, trials, threads, *_: Measured(trials, threads, speeds[trials], memory)
    )
    monkeypatch.setattr(packing, "_free", lambda gpu: free)
    monkeypatch.setattr(packing.torch.cuda, "is_available", lambda: False)
    chosen = packing.choose(RECIPE, digits.tensors("train"), digits.spec, 2, 100, 10)
    assert (chosen.cpus, chosen.gpus) == (cpus, 0)
    assert words in chosen.why


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"address": "auto"}, "on this machine"),
        ({"workers": Workers(1, 2)}, "trials of one worker"),
        ({"cpus": 2}, "without --cpus-per-worker"),
        ({"gpus": 0.5}, "without --cpus-per-worker and --gpus-per-worker"),
    ],
)
def test_where_it_cannot_be(given, words):
    packed = Resources(pack=True)
    assert packing.wanted(packed)
    assert not packing.wanted(replace(packed, pack=False, **given))
    with pytest.raises(ConfigError, match=words):
        packing.wanted(replace(packed, **given))
