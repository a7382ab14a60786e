"""Training on real digits: it learns, resumes to the same bits, and several workers equal one."""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
import os
import pickle
import signal
import threading
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from pyarrow import fs
from torch import nn

from mollify_core import checkpoint, networks, rng
from mollify_core.batch import Batch, make_batch, times
from mollify_core.corruptions.heldout import HELDOUT, corrupt
from mollify_core.datasets.split import judging_rows
from mollify_core.errors import CheckpointError, ConfigError, NonFiniteLossError, Preempted
from mollify_core.matching import distortions
from mollify_core.measure.validation import (
    CELLS,
    OBJECTIVES,
    ValidationSet,
    epoch_images,
    judging_note,
    ranking_note,
    validation_means,
)
from mollify_core.mollification import schedule
from mollify_core.normalise import Normalise
from mollify_core.optimisation import learning_rate
from mollify_core.presets import PLAIN
from mollify_core.recipe import Recipe
from mollify_core.steps import Parts, Steps, check_steps, joining, split
from mollify_core.train import main as train_main
from mollify_core.training import Training
from mollify_core.training_data import TrainingData, split_rows, training_data
from mollify_core.worker import Worker

pytestmark = pytest.mark.usefixtures("one_thread")
SMALL = Recipe().with_(
    dataset="digits",
    network="resnet8",
    augment=("crop",),
    validation_fraction=0.01,
    train_fraction=0.06,
    batch_size=32,
    epochs=3,
    lr=0.05,
)
JUDGED = {"validation_fraction": 0.02, "judging_fraction": 0.5, "train_fraction": 0.03, "precision": "float32"}
VARIANTS = {
    "paper": {},
    "plain": {"p_clean": 1.0},
    "noise": {"noise_share": 1.0, "max_noise": 0.6, "beta_a": 2.0},
    "blur": {"noise_share": 0.0, "max_blur": 5.0, "smoothing": 0.5},
    "float32": {"precision": "float32", "augment": ("flip", "crop")},
    "uniform": {"scaling": "uniform", "augment": ()},
    "nesterov": {"nesterov": True, "weight_decay": 0.0},
    "no momentum": {"momentum": 0.0},
    "ragged": {"batch_size": 50},
    "all roles": {"noise_share": 0.3, "both_share": 0.3, "pure_share": 0.2},
    "ld": {"label_mode": "ld", "loss": "bce"},
    "la": {"label_mode": "la", "loss": "bce", "augment": ("cutmix",)},
    "lm": {"label_mode": "lm", "augment": ("flip", "crop", "trivialaugment", "mixup")},
    "nce": {"loss": "nce", "augment": ("rotate", "resized_crop")},
    "nmi labels": {"label_source": "nmi", "bins": 16},
    "repeat": {"repeat": 4, "augment": ("mixup",)},
    "none": {"method": "none", "label": "hard"},
    "matching": {"method": "matching", "p_undistorted": 0.2},
    "matching, fixed": {"method": "matching", "label": "fixed", "augment": ("cutmix",)},
    "matching, hard": {"method": "matching", "label": "hard"},
    "matching, others": {"method": "matching", "spread": "others", "corrected": True, "bins": 8},
    "matching, uncoupled": {"method": "matching", "label": "uncoupled"},
    "soft crop": {"method": "soft-crop", "augment": ("flip", "soft-erasing", "soft-noise"), "reweight": True},
    "soft trivialaugment": {"method": "soft-trivialaugment", "augment": ("flip", "cutmix"), "label_mode": "ld"},
    "mollified, softened": {"augment": ("soft-crop", "erasing", "mixup"), "min_confidence": 0.3},
    "soft, uncoupled": {"method": "soft-noise", "label": "uncoupled", "patch_side": 1.0, "patch_deviation": 0.1},
    "adamw": {"optimizer": "adamw", "lr": 1e-3, "warmup_epochs": 1, "clip_norm": 1.0},
    "ema": {"ema": 0.9, "label_smoothing": 0.1},
    "judged": JUDGED,
    "final_bn": {"network": "presnet18", "final_bn": True, "train_fraction": 0.03},
}


def same(a: dict, b: dict) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


@pytest.mark.parametrize("variant", [pytest.param(n, marks=[pytest.mark.slow] * (n == "final_bn")) for n in VARIANTS])
def test_resumes_bit_equal(variant, digits, tmp_path):
    recipe = SMALL.with_({**VARIANTS[variant], "epochs": 2})
    data = training_data(recipe, digits)
    whole = Training(recipe, data)
    reports = [e.metrics for e in whole.run()]

    first = Training(recipe, data)
    first.run_epoch()
    path = checkpoint.save(fs.LocalFileSystem(), str(tmp_path), first.state())
    torch.rand(7)  # what others draw must not matter
    second = Training(recipe, data, state=checkpoint.load(fs.LocalFileSystem(), path))
    resumed = [e.metrics for e in second.run()]

    assert same(whole.network.state_dict(), second.network.state_dict())
    timing = ("seconds", "images_per_second")
    assert {k: v for k, v in resumed[-1].items() if k not in timing} == {
        k: v for k, v in reports[-1].items() if k not in timing
    }
    (metrics, images), (again, images_again) = whole.final(), second.final()
    assert metrics == again
    np.testing.assert_equal(images, images_again)


def stop_after(steps: int) -> Callable[[], bool]:
    calls = itertools.count(1)
    return lambda: next(calls) >= steps


def less_timing(metrics: dict) -> dict:
    return {k: v for k, v in metrics.items() if k not in ("seconds", "images_per_second")}


STOPPED = {
    **{name: VARIANTS[name] for name in ("paper", "ragged", "repeat", "matching", "adamw", "ema")},
    "dropout": {"network": "allconvnet10", "train_fraction": 0.05},
    "dropout of channels": {"network": "googlenet", "train_fraction": 0.03},
}


@pytest.mark.parametrize(
    "variant", [pytest.param(name, marks=[pytest.mark.slow] * (name == "dropout of channels")) for name in STOPPED]
)
def test_stopped_in_mid_epoch_it_resumes_bit_equal(variant, digits, tmp_path):
    recipe = SMALL.with_({"epochs": 2, **STOPPED[variant]})
    data = training_data(recipe, digits)
    whole = Training(recipe, data)
    report = whole.run_epoch().metrics

    state = None
    for steps in (1, 1):  # stopped twice, so that a resumed epoch is stopped too
        torch.rand(7)
        part = Training(recipe, data, state=state)
        with pytest.raises(Preempted):
            part.run_epoch(stop_after(steps))
        path = checkpoint.save(fs.LocalFileSystem(), str(tmp_path), part.state())
        state = checkpoint.load(fs.LocalFileSystem(), path)
    assert path.endswith("epoch-0000-step-000002")
    last = Training(recipe, data, state=state)
    resumed = last.run_epoch(lambda: False).metrics
    assert same(whole.network.state_dict(), last.network.state_dict())
    assert less_timing(resumed) == less_timing(report)
    assert last.state().progress is None


def test_asked_at_the_last_step_only_validation_is_left(digits):
    data = training_data(SMALL, digits)
    whole, part = Training(SMALL, data), Training(SMALL, data)
    expected = whole.run_epoch().metrics
    steps = -(-len(data.fit) // 32)
    with pytest.raises(Preempted):
        part.run_epoch(stop_after(steps))
    assert part.state().step == steps
    assert less_timing(part.run_epoch().metrics) == less_timing(expected)


@pytest.mark.parametrize("accumulate", [2, 3])
@pytest.mark.parametrize(
    "changes", [{}, {"augment": ("mixup",), "clip_norm": 0.5}, {"method": "matching", "repeat": 2}]
)
def test_a_batch_in_parts_gives_the_gradient_of_the_whole(accumulate, changes, digits, monkeypatch):
    monkeypatch.setattr(networks, "build", _build)
    recipe = SMALL.with_({"precision": "float32", "batch_size": 48, **changes})
    data = training_data(recipe, digits)
    whole, parts = Training(recipe, data), Training(recipe, data, accumulate=accumulate)
    seen: dict[Training, list] = {whole: [], parts: []}
    for training, inputs in seen.items():
        training.network.register_forward_pre_hook(lambda _, x, inputs=inputs: inputs.append(x[0].clone()))
    for training in seen:
        count = 48 // recipe.mollify.repeat
        training._step(0, data.fit.select(torch.arange(count)), count, 1.0)
    assert [len(x) for x in seen[parts]] == [48 // accumulate] * accumulate
    together = torch.cat(seen[parts]).flatten(1)
    assert sorted(together.tolist()) == sorted(seen[whole][0].flatten(1).tolist())
    for name, p in whole.network.named_parameters():
        torch.testing.assert_close(parts.network.get_parameter(name).grad, p.grad, rtol=1e-4, atol=1e-6)
    reports = [t.run_epoch().metrics for t in seen]
    assert reports[1]["train_loss"] == pytest.approx(reports[0]["train_loss"], rel=1e-3)
    assert reports[1]["corrupted_nll"] == pytest.approx(reports[0]["corrupted_nll"], rel=1e-2)


def _parts_of(recipe: Recipe, digits, parts: int) -> list[list]:
    """The parts of many batches, as the network would see them."""
    images = digits.tensors("train").select(range(64))
    normalise = Normalise.make("normal", digits.spec.mean, digits.spec.std, "cpu")
    keys = ((recipe.seed, 0, step, 0) for step in range(200))
    batches = [(make_batch(images.images, images.labels, 10, recipe, normalise, *key), key) for key in keys]
    return [split(batch, 64 // parts, rng.generator(*key, "parts")) for batch, key in batches]


def test_every_part_of_a_batch_is_in_law_a_batch(digits):
    """Rows are ordered by their roles, so contiguous parts would hold all of one role: batch norm would see another
    population than on as many workers."""
    recipe = SMALL.with_(p_clean=0.3)
    cut, whole = _parts_of(recipe, digits, 2), _parts_of(recipe, digits, 1)
    clean = np.array([[float((part.strength == 0).float().mean()) for part in parts] for parts in cut])
    strength = np.array([[float(part.strength.mean()) for part in parts] for parts in cut])
    assert clean.mean(axis=0) == pytest.approx([0.3, 0.3], abs=0.03)
    assert strength[:, 0].mean() == pytest.approx(strength[:, 1].mean(), abs=0.02)
    assert clean.var(axis=0) == pytest.approx(0.3 * 0.7 / 32, rel=0.4)  # of 32 independent rows
    assert abs(np.corrcoef(clean.T)[0, 1]) < 0.25
    for parts, (batch,) in zip(cut, whole, strict=True):  # each row keeps its image, label and strength
        both = [torch.cat([getattr(part, name) for part in parts]) for name in ("x", "labels", "strength")]
        rows = torch.cdist(both[0].flatten(1), batch.x.flatten(1)).argmin(1)
        assert rows.unique().numel() == 64
        assert torch.equal(both[1], batch.labels[rows])
        assert torch.equal(both[2], batch.strength[rows])


@pytest.mark.parametrize(("rows", "size", "sizes"), [(64, 32, [32, 32]), (33, 32, [17, 16]), (3, 1, [3]), (1, 1, [1])])
def test_parts_are_even_and_none_is_one_image(rows, size, sizes, digits):
    batch = Batch(torch.rand(rows, 1, 8, 8), torch.zeros(rows, dtype=torch.int64), None, torch.rand(rows))
    parts = split(batch, size, rng.generator(0))
    assert [len(part.x) for part in parts] == sizes
    assert all(part.soft is None for part in parts)


def test_parts_are_remembered_from_when_on(digits, tmp_path):
    recipe = SMALL.with_(precision="float32")
    data = training_data(recipe, digits)
    first = Training(recipe, data)
    first.run_epoch()
    path = checkpoint.save(fs.LocalFileSystem(), str(tmp_path), first.state())
    state = checkpoint.load(fs.LocalFileSystem(), path)
    halves = Training(recipe, data, state=state, accumulate=2)
    assert halves.state().meta["accumulate"] == [[0, 0, 1], [1, 0, 2]]
    metrics = [less_timing(epoch.metrics) for epoch in halves.run()]
    known = Parts.read(json.loads(json.dumps(halves.state().meta["accumulate"])))
    again = [less_timing(epoch.metrics) for epoch in Training(recipe, data, accumulate=known).run()]
    assert again[1:] == metrics
    assert [known.at(0, 9), known.at(1, 0), known.at(2, 5)] == [1, 2, 2]


def test_accumulate_is_checked(digits):
    with pytest.raises(ConfigError, match=r"`accumulate` to be at least 1, .* but got 0"):
        Training(SMALL, training_data(SMALL, digits), accumulate=0)
    for wrong in ("2", [], [[0, 0]], [[1, 0, 2]], [[0, 0, 1], [0, 0, "x"]], [[0, 0, 1], [3, 0, 0]], 1.5, None):
        with pytest.raises(ConfigError, match="`accumulate` to be"):
            Parts.read(wrong)


@pytest.mark.parametrize("workers", [1, 2, 3])
@pytest.mark.parametrize("images", [64, 65, 66, 67, 68, 69, 70, 129])
def test_no_part_of_one_image_under_batch_norm(images, workers):
    """presnet18 shrinks images of 8 pixels to one: batch norm finds no variance in one value, so the last step joins
    the one before where it would leave a worker a single image, or none. Every image is still in a step once."""
    recipe, shape = SMALL.with_(network="presnet18", batch_size=32), (10, (1, 8, 8))
    steps = Steps.of(recipe, images, workers, *shape)
    shares = [[steps.share(step, rank) for rank in range(workers)] for step in range(len(steps))]
    assert sorted(row for step in shares for share in step for row in share) == list(range(images))
    assert min(len(share) for step in shares for share in step) > 1
    assert steps.joined == (0 < images % 32 < 2 * workers)
    told = joining(recipe, images, [workers], *shape)
    assert (f"the last {images % 32} of {images} images join the step before: presnet18" in told) == steps.joined
    apart = Steps.of(recipe.with_(network="resnet8"), images, workers, *shape)  # its last maps have several pixels
    assert (apart.joined, len(apart)) == (False, -(-images // 32))


def test_one_image_alone_is_refused_where_nothing_can_be_joined():
    recipe = SMALL.with_(network="presnet18", batch_size=32)
    for images, workers in ((64, (1, 2, 32)), (65, (17,)), (1, (1,)), (3, (2,))):
        with pytest.raises(ConfigError, match=r"Expected at least two images for .*, but \d+ images in batches of 32"):
            check_steps(recipe, images, workers, 10, (1, 8, 8))
        check_steps(recipe.with_(network="resnet8"), images, workers, 10, (1, 8, 8))
    for images, workers in ((64, (1, 2)), (65, (1,)), (34, (2,)), (2, (1,))):
        check_steps(recipe, images, workers, 10, (1, 8, 8))


@pytest.mark.parametrize("accumulate", [1, 3, 33])
def test_a_joined_step_is_trained_in_parts_of_two_images_or_more(accumulate, digits, monkeypatch):
    recipe = SMALL.with_(network="presnet18", batch_size=16, epochs=1)
    data = training_data(recipe, digits)
    fit = data.fit.select(np.arange(33))
    data = dataclasses.replace(data, fit=dataclasses.replace(fit, images=fit.images[:, :, :8, :8]), validation=None)
    training, seen = Training(recipe, data, accumulate=accumulate), []
    forward = training.network.forward
    monkeypatch.setattr(training.network, "forward", lambda x: seen.append(len(x)) or forward(x))
    (epoch,) = training.run()
    assert sum(seen) == 33
    assert min(seen) > 1
    assert (seen == [16, 17]) == (accumulate == 1)
    assert math.isfinite(epoch.metrics["train_loss"])


def test_validation_that_is_not_finite_is_told(digits, monkeypatch):
    """An epoch may end well and leave a network that overflows where its batch norm uses running statistics."""
    training = Training(SMALL, training_data(SMALL, digits))
    (norm, *_) = (module for module in training.network.modules() if isinstance(module, nn.BatchNorm2d))
    norm.register_forward_hook(lambda module, _, out: out if module.training else out * float("nan"))
    with pytest.raises(
        NonFiniteLossError, match="Expected finite outputs in validation after epoch 0, but got nan"
    ) as e:
        training.run_epoch()
    assert e.value.epoch == 0
    assert pickle.loads(pickle.dumps(e.value)).times == ()


def test_learns_and_reports(digits):
    recipe = SMALL.with_(train_fraction=1.0, validation_fraction=0.1, batch_size=16, p_clean=1.0)
    training = Training(recipe, training_data(recipe, digits))
    epochs = list(training.run())
    assert [e.index for e in epochs] == [0, 1, 2]
    assert epochs[-1].metrics["train_loss"] < 0.5 * epochs[0].metrics["train_loss"]
    metrics, per_image = training.final()
    assert metrics["clean_error"] < 0.3  # chance is 0.9; six seeds gave 0.06 to 0.12
    assert set(OBJECTIVES) <= set(metrics)
    assert set(OBJECTIVES) <= set(epochs[0].metrics)
    for kind in ("clean", "corrupted"):
        for name in ("nll", "error"):
            assert per_image[f"{kind}_{name}"].mean() == pytest.approx(metrics[f"{kind}_{name}"], rel=1e-5)


def test_seed_decides(digits):
    def train(**changes):
        recipe = SMALL.with_(epochs=1, **changes)
        training = Training(recipe, training_data(recipe, digits))
        training.run_epoch()
        return training.network.state_dict()

    assert same(train(), train())
    assert not same(train(), train(seed=1))


def test_repeat_gives_every_image_its_copies(digits):
    images = digits.tensors("train").select(range(16))
    normalise = Normalise.make("normal", digits.spec.mean, digits.spec.std, "cpu")
    batch = make_batch(images.images, images.labels, 10, SMALL.with_(repeat=4, p_clean=1.0), normalise, 0, 0, 0, 0)
    plain = normalise(images.images).flatten(1)
    owner = torch.cdist(batch.x.flatten(1), plain).argmin(1)
    assert owner.bincount().tolist() == [4] * 16
    assert torch.equal(batch.labels, images.labels[owner])


def test_not_finite_is_told_with_its_place(digits):
    recipe = SMALL.with_(lr=1e30)
    with pytest.raises(NonFiniteLossError, match="epoch 0, step") as error:
        list(Training(recipe, training_data(recipe, digits)).run())
    assert error.value.epoch == 0
    assert error.value.step >= 1
    times = error.value.times
    assert 0 < len(times) <= 32
    assert f"(t from {min(times):.3g} to {max(times):.3g})" in str(error.value)
    again = pickle.loads(pickle.dumps(error.value))
    assert (str(again), again.epoch, again.step, again.times) == (str(error.value), 0, error.value.step, times)


def test_the_times_that_are_told_are_those_that_were_drawn():
    key = (SMALL.seed, 0, 5, 0)
    drawn = schedule.draw(32, 32, SMALL.mollify, rng.generator(*key, "mollify"))
    t = torch.tensor(times(32, 32, SMALL, *key))
    assert torch.equal(schedule.noise_level(t[: len(drawn.noise)], SMALL.mollify.max_noise), drawn.noise)
    assert torch.equal(schedule.blur_scale(t[drawn.start :], SMALL.mollify.min_blur, 32), drawn.blur)
    matched = SMALL.with_(method="matching")
    d = distortions.draw(32, rng.generator(*key, "distort"), p_clean=matched.matching.p_undistorted).d
    assert times(32, 32, matched, *key) == d.tolist()
    assert times(32, 32, SMALL.with_(p_clean=1.0), *key) == times(32, 32, SMALL.with_(method="none"), *key) == []


def test_learning_rate_is_the_papers_cosine():
    recipe = SMALL.with_(lr=0.2, epochs=10, final_lr=0.01)
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.2)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=10, eta_min=0.01)
    for epoch in range(10):
        assert learning_rate(recipe, epoch) == pytest.approx(scheduler.get_last_lr()[0], rel=1e-6)
        optimizer.step()
        scheduler.step()
    warm = recipe.with_(warmup_epochs=2)
    assert learning_rate(warm, 0, 0.5) == pytest.approx(0.05)
    assert learning_rate(warm, 1, 1.0) == pytest.approx(0.2)
    assert learning_rate(warm, 2, 0.1) == pytest.approx(0.2)


def test_split_never_shares_an_image(digits):
    labels = digits.tensors("train").labels.numpy()
    fit, validation = split_rows(labels, SMALL, digits)
    assert not set(fit) & set(validation)
    assert len(fit) == pytest.approx(SMALL.data.train_fraction * (len(labels) - len(validation)), abs=10)
    more, same_validation = split_rows(labels, SMALL.with_(train_fraction=0.5), digits)
    assert set(fit) < set(more)
    np.testing.assert_array_equal(validation, same_validation)


def test_plain_training_said_in_two_ways_is_one_training(digits):
    """As mollification of no image, which is how recipes of format 1 said it, and as it is said now."""
    old = SMALL.with_(p_clean=1.0, epochs=1, label_smoothing=0.1)
    new = old.with_(PLAIN)
    data = training_data(old, digits)
    first = Training(old, data)
    second = Training(new, data, state=first.state())
    assert less_timing(first.run_epoch().metrics) == less_timing(second.run_epoch().metrics)
    assert same(first.network.state_dict(), second.network.state_dict())


def test_a_checkpoint_of_another_recipe_is_refused(digits):
    data = training_data(SMALL, digits)
    state = Training(SMALL, data).state()
    with pytest.raises(CheckpointError, match="another recipe"):
        Training(SMALL.with_(lr=0.01), data, state=state)


def test_validation_subsample(digits):
    images = digits.tensors("test")
    whole = ValidationSet.make(images, seed=0)
    assert whole.cells.shape[0] == CELLS
    assert epoch_images(45_000, 5_000) * CELLS == pytest.approx(0.15 * 45_000, rel=0.01)
    assert epoch_images(100, 40) == 40
    weights = torch.randn(3 * 32 * 32, 10, generator=torch.Generator().manual_seed(0))

    def forward(x):
        return x.flatten(1).float() @ weights / 1e4

    everything = whole.measure(forward, range(len(whole)))
    odd, even = (whole.measure(forward, range(r, len(whole), 2)) for r in (1, 0))
    torch.testing.assert_close(odd + even, everything)
    clean = whole.measure(forward, range(50))[:1, :50]
    torch.testing.assert_close(clean, everything[:1, :50])
    means = validation_means(everything, whole.labels)
    assert means["clean_error"] != means["corrupted_error"]


@pytest.mark.parametrize("fraction", [0.0, 0.5])
def test_the_images_that_choose_come_first_in_the_order_of_all(fraction, digits):
    images = digits.tensors("test").select(range(60))
    judging = judging_rows(images.labels.numpy(), fraction, 3, "print")
    validation = ValidationSet.make(images, seed=3, judging=judging)
    # As version 0.1 drew it: its sweeps go on with the same images.
    order = torch.randperm(60, generator=torch.Generator().manual_seed(rng.derive(3, "validation order")))
    expected = torch.tensor(sorted(order.tolist(), key=set(judging.tolist()).__contains__))
    assert validation.choosing == 60 - len(judging)
    assert torch.equal(expected, order) == (fraction == 0)
    assert torch.equal(validation.labels, images.labels[expected])
    assert torch.equal(validation.cells[0], images.images[expected])
    assert torch.equal(validation.cells[1], corrupt(images.images[expected], HELDOUT[0], 1, seed=3))


def test_images_that_only_judge_change_no_value_of_a_trial(digits):
    recipe = SMALL.with_({**JUDGED, "epochs": 1})
    data = training_data(recipe, digits)
    first, n = data.validation.choosing, len(data.validation)
    assert 0 < first < n
    assert first < epoch_images(len(data.fit), n), "an epoch's value could be of all"
    labels = torch.cat([data.validation.labels[:first], (data.validation.labels[first:] + 1) % 10])
    found = []
    for of in (data, dataclasses.replace(data, validation=dataclasses.replace(data.validation, labels=labels))):
        training = Training(recipe, of)
        epoch = training.run_epoch().metrics
        metrics, images = training.final()
        assert {name: epoch[name] for name in metrics} == metrics  # the subsample is all that choose
        assert len(images["clean_nll"]) == n - first
        assert images["bins"][:, 0].sum(axis=1).tolist() == [n - first] * CELLS
        found.append((metrics, images))
    (metrics, images), (others, other_images) = found
    assert metrics == others
    assert all((images[name] != other_images[name]).any() for name in ("clean_nll", "corrupted_nll"))
    values = training.validate()
    assert validation_means(values[:, :first], data.validation.labels[:first]) == metrics
    np.testing.assert_array_equal(values[0, first:, 0].numpy(), other_images["clean_nll"])


def test_few_images_are_warned_of():
    assert judging_note(500, 500) == ""
    assert "the 400 that judge cannot tell apart errors closer than about 4.9 points" in judging_note(500, 400)
    assert "the 100 that choose cannot tell apart errors closer than about 9.8 points" in judging_note(100, 400)
    assert "No validation image only judges" in judging_note(10, 0)


def test_few_images_for_ranking_by_calibration_are_warned_of():
    names = ("corrupted_debiased_ece", "clean_debiased_ece", "corrupted_nll")
    assert ranking_note(names, 2000, 2000) == ""
    assert ranking_note(("corrupted_nll",), 10, 10) == ""
    assert "corrupted_debiased_ece needs 500, against the 321 that prune." in ranking_note(names[:1], 2500, 321)
    said = ranking_note(names, 499, None)
    assert "needs 500, against the 499 that choose; clean_debiased_ece needs 2000, against the 499" in said


# ---- several workers


class NoBatchNorm(nn.Sequential):
    """A small network whose gradient is a mean over images: no statistic of the batch enters."""

    def __init__(self, classes: int) -> None:
        features = nn.Conv2d(3, 8, 3, stride=4), nn.ReLU(), nn.Conv2d(8, 16, 3), nn.ReLU()
        super().__init__(*features, nn.Flatten(), nn.LazyLinear(classes))


def _build(name, num_classes, image_shape, **options):
    network = NoBatchNorm(num_classes)
    network(torch.zeros(1, *image_shape))
    return network


def _together(target: Callable[..., None], world: int, *args: Any) -> None:
    """Runs target(rank, *args) in so many processes at once, each of which has to end well."""
    context = mp.get_context("fork")
    processes = [context.Process(target=target, args=(rank, *args)) for rank in range(world)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
        assert process.exitcode == 0


def sums_of(images: torch.Tensor) -> list[int]:
    """A number for each image by which it is known again."""
    return [zlib.crc32(image.numpy().tobytes()) for image in images]


def _train_rank(rank: int, world: int, recipe: Recipe, data: TrainingData, out: str) -> None:
    torch.set_num_threads(1)
    networks.build = _build
    if world > 1:
        os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29513"}
        dist.init_process_group("gloo", rank=rank, world_size=world)
    training = Training(recipe, data, Worker(rank, world))
    seen: list[list[int]] = []
    step = training._step

    def recording(index, shown, in_step, weight):
        seen.append(sums_of(shown.images))
        return step(index, shown, in_step, weight)

    training._step = recording  # type: ignore[method-assign]
    found = {"metrics": training.run_epoch().metrics, "final": training.final()}
    torch.save({"state": training.network.state_dict(), "seen": seen, **found}, f"{out}/{world}-{rank}.pt")
    if world > 1:
        dist.destroy_process_group()


@pytest.mark.parametrize(("world", "batch_size"), [(2, 256), (2, 11), (2, 2), (3, 256), (3, 10), (3, 127)])
def test_several_workers_equal_one(world, batch_size, digits, tmp_path):
    """They share each step's images evenly, the very ones that one worker would train on; with one step an epoch, the
    gradient is the joined batch's.

    129 images make the last step ragged; where it has fewer images than there are workers, each takes all of it.
    Batches that are no multiple of the workers have a larger share here and there.
    """
    plain = {"p_clean": 1.0, "augment": ()}
    recipe = SMALL.with_({**JUDGED, **plain, "batch_size": batch_size, "train_fraction": 0.2})
    data = training_data(recipe, digits)
    data = dataclasses.replace(data, fit=data.fit.select(np.arange(129)))
    for size in (1, world):
        args = (size, recipe, data, str(tmp_path))
        _together(_train_rank, size, *args)
    one = torch.load(tmp_path / "1-0.pt", weights_only=False)
    first, *others = (torch.load(tmp_path / f"{world}-{rank}.pt", weights_only=False) for rank in range(world))
    assert sorted(itertools.chain(*one["seen"])) == sorted(sums_of(data.fit.images))
    for step, images in enumerate(one["seen"]):
        shares = [rank["seen"][step] for rank in (first, *others)]
        if len(images) < world:
            assert shares == [images] * world
            continue
        assert sorted(itertools.chain(*shares)) == sorted(images)
        assert max(map(len, shares)) - min(map(len, shares)) <= 1
    for other in others:
        assert same(first["state"], other["state"])
        assert first["metrics"]["corrupted_nll"] == other["metrics"]["corrupted_nll"]
        np.testing.assert_equal(first["final"], other["final"])
    for name in ("train_loss", "train_error"):
        assert first["metrics"][name] == pytest.approx(one["metrics"][name], rel=1e-2, abs=1e-6)
    if batch_size == 256:
        for name, value in one["state"].items():
            torch.testing.assert_close(first["state"][name], value, rtol=1e-5, atol=1e-6)
        assert first["metrics"]["train_loss"] == pytest.approx(one["metrics"]["train_loss"], rel=1e-5)
        assert first["metrics"]["corrupted_nll"] == pytest.approx(one["metrics"]["corrupted_nll"], rel=1e-4)
        assert first["final"][0]["corrupted_nll"] == pytest.approx(one["final"][0]["corrupted_nll"], rel=1e-4)
        np.testing.assert_allclose(first["final"][1]["clean_nll"], one["final"][1]["clean_nll"], rtol=1e-3)


def _last_rank(rank: int, world: int, recipe: Recipe, data: TrainingData, out: str) -> None:
    torch.set_num_threads(1)
    if world > 1:
        os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29516"}
        dist.init_process_group("gloo", rank=rank, world_size=world)
    training = Training(recipe, data, Worker(rank, world))
    metrics = training.run_epoch().metrics
    torch.save({"state": training.network.state_dict(), "metrics": metrics}, f"{out}/{world}-{rank}.pt")
    if world > 1:
        dist.destroy_process_group()


def test_a_step_of_fewer_images_than_workers_is_that_of_one_worker(digits, tmp_path):
    """Bit for bit, the statistics of batch norm and the draws of dropout, augmentation and mollification too."""
    recipe = SMALL.with_(epochs=1, augment=("crop", "erasing"), label_smoothing=0.1)
    data = training_data(recipe, digits)
    data = dataclasses.replace(data, fit=data.fit.select(np.arange(3)))
    for world in (1, 4):
        args = (world, recipe, data, str(tmp_path))
        _together(_last_rank, world, *args)
    one, *four = (torch.load(tmp_path / f"{name}.pt") for name in ("1-0", "4-0", "4-1", "4-2", "4-3"))
    for worker in four:
        assert same(worker["state"], one["state"])
        assert less_timing(worker["metrics"]) == pytest.approx(less_timing(one["metrics"]))


def _stop_rank(rank: int, recipe: Recipe, data: TrainingData, out: str, stop: int | None) -> None:
    """Trains an epoch on two workers; worker 1 is told to stop after so many steps, and both go on from the file."""
    torch.set_num_threads(1)
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29514"}
    dist.init_process_group("gloo", rank=rank, world_size=2)
    worker = Worker(rank, 2)
    training = Training(recipe, data, worker, accumulate=2)
    if stop is not None:
        with pytest.raises(Preempted):
            training.run_epoch(stop_after(stop) if rank == 1 else lambda: False)
        if rank == 0:
            checkpoint.save(fs.LocalFileSystem(), out, training.state())
        dist.barrier()
        state = checkpoint.load_newest(fs.LocalFileSystem(), out)
        training = Training(recipe, data, worker, state, accumulate=2)
    metrics = training.run_epoch().metrics
    if rank == 0:
        checkpoint.save(fs.LocalFileSystem(), out, training.state())
    torch.save({"state": training.network.state_dict(), "metrics": metrics}, f"{out}/{rank}.pt")
    dist.destroy_process_group()


def test_two_workers_stop_at_one_step_and_go_on(digits, tmp_path):
    """Batches in two parts each, gradients exchanged after the second. What they report of the epoch is what its
    checkpoint gives, although each worker's batch norm has seen images of its own."""
    recipe = SMALL.with_(batch_size=8, train_fraction=0.2, precision="float32", ema=0.5)
    data = training_data(recipe, digits)
    data = dataclasses.replace(data, fit=data.fit.select(np.arange(129)))
    for stop, out in ((None, tmp_path / "whole"), (2, tmp_path / "stopped")):
        out.mkdir()
        args = (recipe, data, str(out), stop)
        _together(_stop_rank, 2, *args)
    # Asked every tenth step.
    assert checkpoint.positions(fs.LocalFileSystem(), str(tmp_path / "stopped")) == [(0, 11), (1, 0)]
    whole, stopped = (torch.load(tmp_path / n / "0.pt", weights_only=False) for n in ("whole", "stopped"))
    assert same(whole["state"], stopped["state"])
    assert less_timing(whole["metrics"]) == pytest.approx(less_timing(stopped["metrics"]))
    for out in ("whole", "stopped"):
        state = checkpoint.load_newest(fs.LocalFileSystem(), str(tmp_path / out))
        kept = validation_means(Training(recipe, data, state=state).validate(), data.validation.labels)
        reported = torch.load(tmp_path / out / "0.pt", weights_only=False)["metrics"]
        assert kept == pytest.approx({name: reported[name] for name in kept}, rel=1e-5)


def _break_rank(rank: int, recipe: Recipe, data: TrainingData, out: str, at: int) -> None:
    """Trains an epoch on two workers; worker 1 meets no number at some step."""
    torch.set_num_threads(1)
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29515"}
    dist.init_process_group("gloo", rank=rank, world_size=2)
    training = Training(recipe, data, Worker(rank, 2))
    step, steps = training._step, []

    def broken(index: int, *args: Any) -> Any:
        steps.append(index)
        loss, wrong = step(index, *args)
        return loss * (math.nan if rank == 1 and index == at else 1), wrong

    training._step = broken  # type: ignore[method-assign]
    with pytest.raises(NonFiniteLossError) as error:
        training.run_epoch()
    Path(out, str(rank)).write_text(f"{steps[-1]} {error.value.step} {error.value.times} {error.value}")
    dist.destroy_process_group()


@pytest.mark.parametrize(("at", "known_at"), [(3, 10), (12, 16)])
def test_two_workers_learn_of_a_loss_that_is_no_number(at, known_at, digits, tmp_path):
    """Neither waits for the other, and both say what the one has met: at the next tenth step, or the last."""
    recipe = SMALL.with_(batch_size=8, train_fraction=0.2)
    data = training_data(recipe, digits)
    data = dataclasses.replace(data, fit=data.fit.select(np.arange(129)))
    args = (recipe, data, str(tmp_path), at)
    _together(_break_rank, 2, *args)
    first, second = (Path(tmp_path, str(rank)).read_text() for rank in range(2))
    assert first == second
    assert first.startswith(f"{known_at} {at} ")
    assert f"got nan in epoch 0, step {at} (t from" in first


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"batch_size": 2}, "at least an image for each of 3 workers, but got 2"),
        ({"batch_size": 4, "repeat": 2}, "at least an image for each of 3 workers times repeat 2, but got 4"),
        ({"batch_size": 7, "repeat": 2}, "a multiple of repeat 2, but got 7"),
    ],
)
def test_each_worker_has_an_image_of_a_batch(changes, says, digits):
    with pytest.raises(ConfigError, match=says):
        Training(SMALL.with_(changes), training_data(SMALL, digits), Worker(0, 3))


def _unequal(digits: Any) -> TrainingData:
    """90 zeros, 9 ones and no other digit, to fit."""
    data = training_data(SMALL.with_(train_fraction=1.0), digits)
    rows = [(data.fit.labels == digit).nonzero()[:count, 0] for digit, count in ((0, 90), (1, 9))]
    return dataclasses.replace(data, fit=data.fit.select(torch.cat(rows).numpy()))


def test_balanced_sampling_draws_each_class_equally_often(digits):
    data = _unequal(digits)
    orders = [data.order(SMALL.with_(balance="sampling"), epoch) for epoch in range(40)]
    assert all(len(order) == 99 for order in orders)
    assert not torch.equal(orders[0], orders[1])
    assert torch.equal(orders[0], data.order(SMALL.with_(balance="sampling"), 0))
    ones = (data.fit.labels[torch.cat(orders)] == 1).double().mean().item()
    assert ones == pytest.approx(0.5, abs=4 * math.sqrt(0.25 / (40 * 99)))


def test_balanced_loss_weighs_each_class_the_same(digits):
    """The first step's loss, of all images: the mean over the two classes of their own mean losses."""
    plain = {"method": "none", "label": "hard", "augment": (), "batch_size": 99, "precision": "float32", "epochs": 1}
    data = _unequal(digits)
    recipe = SMALL.with_({**plain, "balance": "loss"})
    training = Training(recipe, data)
    with torch.no_grad():
        logits = training.network.train()(training._normalise(data.fit.images))
    each = torch.nn.functional.cross_entropy(logits, data.fit.labels, reduction="none")
    expected = (each[data.fit.labels == 0].mean() + each[data.fit.labels == 1].mean()).item() / 2
    assert Training(recipe, data).run_epoch().metrics["train_loss"] == pytest.approx(expected, rel=1e-5)
    assert Training(recipe.with_(balance="none"), data).run_epoch().metrics["train_loss"] == pytest.approx(
        each.mean().item(), rel=1e-5
    )


# ---- the command


def test_train_command_goes_on_where_it_stopped(digits, tmp_path, capsys):
    path = tmp_path / "recipe.json"
    path.write_text(SMALL.to_json())
    assert train_main([str(path), "--out", str(tmp_path / "a"), "--threads", "1"]) == 0
    whole = capsys.readouterr().out
    assert "epoch 3/3" in whole
    (tmp_path / "a" / "checkpoints" / "epoch-0003" / "model.safetensors").write_bytes(b"torn")
    assert train_main([str(path), "--out", str(tmp_path / "a"), "--threads", "1"]) == 0
    again = capsys.readouterr().out
    assert "Set aside the checkpoint of epoch 3" in again
    assert "epoch 2/3" not in again
    assert whole.splitlines()[-10:] == again.splitlines()[-10:]


def test_train_command_gives_a_trials_metrics_of_the_images_that_choose(digits, tmp_path, capsys):
    """Also of one that ran out of memory under way, and went on with batches in parts."""
    recipe = SMALL.with_({**JUDGED, "epochs": 1})
    parts = [[0, 0, 1], [0, 1, 2]]
    training = Training(recipe, training_data(recipe, digits), accumulate=Parts.read(parts))
    training.run_epoch()
    metrics, _ = training.final()
    path = tmp_path / "best_recipe.json"
    found = {"recipe": recipe.to_dict(), "metrics": metrics, "provenance": {"accumulate": parts}}
    path.write_text(json.dumps(found))
    assert train_main([str(path), "--out", str(tmp_path / "a"), "--threads", "1"]) == 0
    assert "equal to the sweep's trial" in capsys.readouterr().out
    assert json.loads((tmp_path / "a" / "metrics.json").read_text())["provenance"]["accumulate"] == parts
    path.write_text(json.dumps({**found, "provenance": {"accumulate": 0}}))
    assert train_main([str(path), "--out", str(tmp_path / "b")]) == 2
    assert "Expected `accumulate` to be at least 1" in capsys.readouterr().err
    path.write_text(json.dumps({**found, "provenance": [1]}))
    assert train_main([str(path), "--out", str(tmp_path / "b")]) == 2
    assert "Expected `provenance` of" in capsys.readouterr().err


def test_train_command_trains_on_validation_too_for_use(digits, tmp_path, capsys):
    path = tmp_path / "recipe.json"
    path.write_text(json.dumps({"recipe": SMALL.with_(epochs=1).to_dict(), "metrics": {"clean_nll": 1.0}}))
    command = [str(path), "--out", str(tmp_path / "a"), "--threads", "1"]
    assert train_main([*command, "--final"]) == 0
    out = capsys.readouterr().out
    images = len(training_data(SMALL, digits).fit) + len(training_data(SMALL, digits).validation)
    assert f"Fits all {images} images, those for validation too: nothing can be validated" in out
    assert "validation error" not in out
    assert "the sweep's trial" not in out
    kept = json.loads((tmp_path / "a" / "metrics.json").read_text())
    assert kept["metrics"] == {}
    assert kept["provenance"]["final"] is True
    assert train_main([*command, "--final"]) == 0  # goes on from its own checkpoint,
    assert train_main(command) == 2  # and nothing else does
    assert "for use (--final)" in capsys.readouterr().err


@pytest.mark.parametrize(("signum", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_train_command_is_stopped_between_two_steps(signum, code, digits, tmp_path, capsys):
    path = tmp_path / "recipe.json"
    path.write_text(SMALL.to_json())
    before = [signal.getsignal(s) for s in (signal.SIGTERM, signal.SIGINT)]

    def notice() -> None:
        while not (tmp_path / "a/checkpoints/epoch-0001/manifest.json").exists():
            time.sleep(0.01)
        os.kill(os.getpid(), signum)

    thread = threading.Thread(target=notice)
    thread.start()
    assert train_main([str(path), "--out", str(tmp_path / "a"), "--threads", "1"]) == code
    thread.join()
    assert "the same command goes on from there" in capsys.readouterr().err
    assert checkpoint.positions(fs.LocalFileSystem(), str(tmp_path / "a/checkpoints"))[-1] >= (1, 0)
    assert train_main([str(path), "--out", str(tmp_path / "a"), "--threads", "1"]) == 0
    resumed = capsys.readouterr().out
    assert train_main([str(path), "--out", str(tmp_path / "b"), "--threads", "1"]) == 0
    assert capsys.readouterr().out.splitlines()[-10:] == resumed.splitlines()[-10:]
    assert [signal.getsignal(s) for s in (signal.SIGTERM, signal.SIGINT)] == before


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (["missing.json"], "Cannot read recipe 'missing.json'"),
        (["RECIPE", "--threads", "0"], "--threads to be at least 1, but got 0"),
        (["RECIPE", "--out", "/proc/nowhere"], "Cannot write to '/proc/nowhere'"),
        (["RECIPE", "--data-dir", "/nowhere"], "digits"),
    ],
)
def test_train_command_refuses_in_one_line(argv, says, tmp_path, capsys):
    path = tmp_path / "recipe.json"
    path.write_text(SMALL.to_json())
    assert train_main([str(path) if a == "RECIPE" else a for a in argv]) == 2
    err = capsys.readouterr().err
    assert says in err
    assert err.count("\n") == 1
