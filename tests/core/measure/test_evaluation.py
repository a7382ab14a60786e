"""Evaluation: cells, the measuring loop, distortions, rows against torchmetrics, and the summary by hand."""

from __future__ import annotations

import json
import math
import re

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import brier_score_loss, log_loss
from torch import nn
from torchmetrics.functional.classification import multiclass_accuracy, multiclass_calibration_error

from mollify_core import labels as label_modes
from mollify_core import networks, rng
from mollify_core.classifier import Classifier
from mollify_core.corruptions.benchmark import BENCHMARK, CORRUPTIONS, GROUPS
from mollify_core.errors import ConfigError, DataError
from mollify_core.matching.distortions import (
    KINDS,
    Distortions,
    diffuse,
    drop_patches,
    gaussian_blur,
    mosaic,
    patch_count,
)
from mollify_core.measure.calibration import fit_temperature
from mollify_core.measure.evaluation import CHUNK, Cell, cells, distortion, measure, row, summarise
from mollify_core.measure.metrics import Metrics, per_image, rank
from mollify_core.normalise import Normalise
from mollify_core.recipe import Recipe

IMAGES = torch.randint(0, 256, (1300, 3, 8, 8), dtype=torch.uint8, generator=rng.generator("images"))
NORMALISE = Normalise.make("normal", (0.5, 0.4, 0.9), (0.25, 0.2, 0.3), "cpu")  # mean + std may exceed 1


class Linear(nn.Module):
    """A small float32 network whose output of an image does not depend on its batch, bit for bit."""

    def __init__(self, outputs: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, 3, 8, 8, generator=rng.generator("weight")) / 20)

    def forward(self, x):
        return torch.stack([(x * w).flatten(1).sum(1) for w in self.weight], 1)


def classifier_of(outputs=10, **settings):
    return Classifier(Linear(outputs), NORMALISE, Recipe().with_(precision="float32", **settings), 10)


def sample(n=1000, classes=10, seed=0):
    g = torch.Generator().manual_seed(seed)
    log_f = torch.log_softmax(2 * torch.randn(n, classes, generator=g), 1)
    return log_f, torch.randint(classes, (n,), generator=g)


def test_cells_in_canonical_order():
    all_cells = cells(reversed(CORRUPTIONS), levels=(1, 0.5, 0))
    assert [c.kind for c in all_cells] == ["clean"] + ["corruption"] * 95 + ["distortion"] * 12
    assert [c.name for c in all_cells[1:96:5]] == list(CORRUPTIONS)
    assert [c.severity for c in all_cells[1:11]] == [1, 2, 3, 4, 5] * 2
    assert [(c.name, c.level) for c in all_cells[96:]] == [(k, d) for k in KINDS for d in (0, 0.5, 1)]
    assert len({c.key for c in all_cells}) == len(all_cells) == len(set(all_cells))
    assert all(re.fullmatch(r"[a-z0-9_-]+", c.key) for c in all_cells)
    assert len(cells()) == 1 + 75 + 20
    assert cells((), ()) == (Cell("clean"),)
    assert {c.group for c in all_cells} == {"clean", "distortion", "extra", *GROUPS}
    assert Cell("clean", level=float("nan")) == Cell("clean", level=-math.nan)
    assert Cell("distortion", "blur", level=0.1) != Cell("distortion", "blur", level=0.1 + 1e-9)


@pytest.mark.parametrize(
    ("cell", "text"),
    [
        (("corruption", "fogg", 1), "did you mean 'fog'"),
        (("corruption", "fog", 6), "severity"),
        (("distortion", "mosaik", 0, 0.5), "did you mean 'mosaic'"),
        (("distortion", "mosaic", 0, 1.5), r"in \[0, 1\], but got 1.5"),
        (("distortion", "mosaic"), r"in \[0, 1\], but got nan"),
        (("dirty",), "'dirty'"),
    ],
)
def test_cells_that_do_not_exist(cell, text):
    with pytest.raises(ConfigError, match=text):
        Cell(*cell)


@pytest.mark.parametrize("layout", ["uint8", "float", "memory-mapped"])
@pytest.mark.parametrize("batch", [1, 7, 500, 1000])
def test_measure_equals_the_network(layout, batch, tmp_path):
    images = IMAGES if batch > 1 else IMAGES[:20]
    classifier = classifier_of()
    with torch.no_grad():
        expected = torch.log_softmax(Linear(10)(NORMALISE(images)), 1)
    if layout == "float":
        images = images.float() / 255
    if layout == "memory-mapped":  # as the published arrays lie on disk: channels last, read only
        np.save(tmp_path / "cell.npy", images.permute(0, 2, 3, 1).numpy())
        images = torch.from_numpy(np.load(tmp_path / "cell.npy", mmap_mode="c")).permute(0, 3, 1, 2)
    log_f, sink = measure(classifier, images, batch=batch)
    assert sink is None
    assert log_f.dtype == torch.float32
    assert not log_f.requires_grad
    torch.testing.assert_close(log_f, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize(("mode", "loss"), [("lm", "ce"), ("la", "bce")])
def test_sink_mass_is_kept_beside_the_classes(mode, loss):
    log_f, sink = measure(classifier_of(11, label_mode=mode, loss=loss).with_sink, IMAGES)
    with torch.no_grad():
        logits = Linear(11)(NORMALISE(IMAGES))
    torch.testing.assert_close(log_f, label_modes.log_probabilities(logits, 10, loss))
    torch.testing.assert_close(sink, label_modes.sink_mass(logits, loss))
    got = row(Cell("clean"), log_f, torch.zeros(1300, dtype=torch.int64), sink_mass=sink)
    assert got["sink_mass"] == pytest.approx(float(sink.mean()), rel=1e-6)
    assert len(got["class_error"]) == 10


def test_measure_refuses():
    for batch in (0, CHUNK + 1):
        with pytest.raises(ConfigError, match="batch size"):
            measure(classifier_of(), IMAGES, batch=batch)
    with pytest.raises(DataError, match="at least one image"):
        measure(classifier_of(), IMAGES[:0])
    with pytest.raises(ConfigError, match="Expected a distortion"):
        distortion(Cell("clean"), 0)


@given(st.integers(1, CHUNK), st.sampled_from(KINDS), st.sampled_from([0.1, 0.6, 1.0]), st.booleans())
@settings(max_examples=12, deadline=None)
def test_distortions_do_not_depend_on_the_batch(batch, kind, level, published):
    options = {"published": NORMALISE if published else None}
    distort = distortion(Cell("distortion", kind, level=level), 3, **options)
    images = IMAGES[:1100]
    one, _ = measure(classifier_of(), images, batch=max(batch, 40), distort=distort)
    other, _ = measure(classifier_of(), images, distort=distort)
    assert torch.equal(one, other)
    mapped = images.contiguous(memory_format=torch.channels_last)
    assert torch.equal(distort(mapped, 0), distort(images, 0))


def test_distortion_noise_is_keyed():
    def noisy(level=0.5, seed=0, chunk=0):
        return distortion(Cell("distortion", "diffusion", level=level), seed)(IMAGES[:5], chunk)

    assert torch.equal(noisy(), noisy())
    for other in (noisy(seed=1), noisy(chunk=1)):
        assert not torch.equal(noisy(), other)


@pytest.mark.parametrize("constants", [Distortions(), Distortions.evaluation()], ids=["training", "evaluation"])
@pytest.mark.parametrize("published", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_distortions_by_the_formulas(kind, published, constants):
    """In [0, 1], then normalised; as published, of the normalised image."""
    images = torch.randint(0, 256, (6, 3, 32, 32), dtype=torch.uint8, generator=rng.generator("larger"))
    cell = Cell("distortion", kind, level=0.6)
    x = NORMALISE(images) if published else images.float() / 255
    d = torch.full((6,), 0.6, dtype=torch.float64)
    noise = rng.generator(9, "evaluate", cell.key, 2)
    if kind == "diffusion":
        expected = diffuse(x, d, torch.empty_like(x).normal_(generator=noise))
    elif kind == "blur":
        expected = gaussian_blur(x, d, constants.blur_sigma, constants.blur_kernel)
    elif kind == "dropout":
        patches = torch.rand(6, patch_count(32, 32, constants.patch_size), generator=noise)
        expected = drop_patches(x, d, patches.argsort(1), constants.patch_size)
    else:
        expected = mosaic(x, d)
    got = distortion(cell, 9, constants, published=NORMALISE if published else None)(images, 2)
    expected = expected if published else NORMALISE(expected)
    torch.testing.assert_close(NORMALISE(got), expected, atol=2e-6, rtol=0)
    if published and kind == "diffusion":  # the published script clips what the network sees to [0, 1]
        assert NORMALISE(got).min() > -1e-5
        assert NORMALISE(got).max() < 1 + 1e-5
    if published and kind == "dropout":  # a dropped patch is the mean colour
        mean = torch.isclose(got, NORMALISE.mean, atol=1e-6).all(1).float().mean()
        assert mean == pytest.approx(1 - int(0.4 * patches.shape[1]) / patches.shape[1], abs=0.02)


@pytest.mark.parametrize("published", [None, NORMALISE], ids=["unit", "published"])
def test_levels_that_change_nothing_give_the_very_images(published):
    for kind in KINDS:
        assert distortion(Cell("distortion", kind, level=0), 0, published=published)(IMAGES[:9], 0).dtype == torch.uint8
    for level in (0.0005, 0.001):  # the released code does not clip at step 0
        assert distortion(Cell("distortion", "diffusion", level=level), 0, published=published)(IMAGES[:9], 0).equal(
            IMAGES[:9]
        )
    assert not distortion(Cell("distortion", "diffusion", level=0.002), 0)(IMAGES[:9], 0).equal(IMAGES[:9])


@pytest.mark.parametrize("classes", [2, 5, 10, 200, 1000])
def test_row_against_torchmetrics_and_scikit_learn(classes):
    log_f, labels = sample(700, classes)
    temperature = fit_temperature(*sample(700, classes, seed=1))
    got = row(Cell("corruption", "fog", 3), log_f, labels, temperature)
    assert [got[k] for k in ("kind", "name", "group", "severity", "images")] == ["corruption", "fog", "weather", 3, 700]
    assert math.isnan(got["level"])
    accuracy = {k: float(multiclass_accuracy(log_f, labels, classes, "micro", min(k, classes))) for k in (1, 5)}
    assert got["error"] == pytest.approx(1 - accuracy[1], abs=1e-6)
    assert got["top5_error"] == pytest.approx(1 - accuracy[5], abs=1e-6)
    f, known = log_f.double().exp().numpy(), np.arange(classes)
    f /= f.sum(1, keepdims=True)
    assert got["nll"] == pytest.approx(log_loss(labels, f, labels=known), rel=1e-5)
    assert got["brier"] == pytest.approx(
        brier_score_loss(labels.numpy(), f if classes > 2 else f[:, 1], scale_by_half=False, labels=known), rel=1e-5
    )
    assert got["confidence"] == pytest.approx(f.max(1).mean(), rel=1e-5)
    assert got["ece"] == pytest.approx(float(multiclass_calibration_error(log_f.exp(), labels, classes)), abs=1e-5)
    after = torch.log_softmax(log_f.double() / temperature, 1)
    assert got["scaled_nll"] == pytest.approx(log_loss(labels, after.exp().numpy(), labels=known), rel=1e-5)
    expected = float(multiclass_calibration_error(after.exp(), labels, classes))
    assert got["scaled_ece"] == pytest.approx(expected, abs=1e-5)
    assert got["temperature"] == temperature
    assert math.isnan(got["sink_mass"])
    for c in range(classes):
        chosen = labels == c
        if not chosen.any():
            assert math.isnan(got["class_error"][c])
            assert math.isnan(got["class_confidence"][c])
            continue
        assert got["class_error"][c] == pytest.approx(1 - float((log_f[chosen].argmax(1) == c).float().mean()))
        assert got["class_confidence"][c] == pytest.approx(f[chosen, c].mean(), rel=1e-4)
    assert sum(got["bin_count"]) == 700
    assert len(got["bin_accuracy"]) == len(got["bin_confidence"]) == 15
    assert json.loads(json.dumps(got)).keys() == got.keys()  # plain values only


def test_row_has_the_golden_estimators(golden):
    for name, prefix in (("m", "m_ece"), ("i", "i")):
        log_f = torch.log_softmax(torch.tensor(golden[f"{prefix}_logits"]), 1)
        got = row(Cell("clean"), log_f, torch.tensor(golden[f"{prefix}_labels"]))
        if name == "m":
            assert got["batch_mean_ece"] == pytest.approx(golden["m_ece_batches"].mean(), abs=1e-6)
            assert got["ece"] == pytest.approx(golden["m_ece_pooled"], abs=1e-6)
            assert got["nll"] == pytest.approx(golden["m_nll_pooled"], abs=1e-5)
            assert got["bin_count"][-1] >= 1
        else:
            assert got["matching_ece"] == pytest.approx(golden["i_ece_seed"], abs=1e-6)
            assert 100 - 100 * got["top5_error"] == pytest.approx(golden["i_top5"], abs=1e-4)
        assert got["scaled_ece"] == got["ece"]  # temperature 1
        assert got["scaled_adaptive_ece"] == got["adaptive_ece"]


def test_row_edges():
    one = row(Cell("clean"), torch.zeros(1, 1), torch.zeros(1, dtype=torch.int64))
    assert (one["error"], one["ece"], one["nll"], one["images"]) == (0, 0, 0, 1)
    assert one["bin_count"] == [0] * 14 + [1]
    sure = torch.log_softmax(torch.tensor([[200.0, 0], [200.0, 0]]), 1)
    got = row(Cell("clean"), sure, torch.tensor([0, 1]), 3.0)
    assert got["confidence"] == 1
    for name in ("error", "ece", "adaptive_ece", "batch_mean_ece", "matching_ece"):
        assert got[name] == 0.5
    assert got["class_confidence"] == [1, 0]
    with pytest.raises(DataError, match=r"from 0 to 1, but got torch.int64 from 0 to 2"):
        row(Cell("clean"), sure, torch.tensor([0, 2]))
    with pytest.raises(DataError, match="nan"):
        row(Cell("clean"), sure * math.nan, torch.tensor([0, 1]))
    with pytest.raises(ConfigError, match="temperature"):
        row(Cell("clean"), sure, torch.tensor([0, 1]), 0.0)


def test_equal_scores_go_in_class_order():
    """As argmax does it: a network that says nothing is right about one class of C, and in the top 5 for five."""
    labels = torch.arange(20)
    scores = torch.full((20, 20), -math.log(20))
    assert rank(scores, labels).tolist() == list(range(20))
    got = row(Cell("clean"), scores, labels)
    assert got["error"] == pytest.approx(19 / 20)
    assert got["top5_error"] == pytest.approx(15 / 20)
    coarse = sample(400, 30)[0].bfloat16().float().mul(4).round()  # many ties
    labels = torch.arange(400) % 30
    order = coarse.argsort(dim=1, descending=True, stable=True)
    assert torch.equal(rank(coarse, labels).long(), (order == labels[:, None]).float().argmax(1))


def test_row_equals_streamed_validation_metrics():
    log_f, labels = sample(333, 7)
    expected = Metrics().update(per_image(log_f, labels)).compute()
    got = row(Cell("clean"), log_f, labels)
    assert {name: got[name] for name in expected} == pytest.approx(expected, rel=1e-5)


def rows_of(seed, types=CORRUPTIONS, levels=(0, 0.5, 1)):
    return [row(cell, *sample(40, 4, 100 * seed + i)) for i, cell in enumerate(cells(types, levels))]


def test_summary_by_hand():
    rows = rows_of(1)
    got = summarise(rows)

    def mean(metric, keep):
        return pytest.approx(np.mean([r[metric] for r in rows if keep(r)]))

    for metric in ("error", "nll", "ece", "scaled_nll", "adaptive_ece", "brier"):
        assert got[f"clean_{metric}"] == rows[0][metric]
        assert got[f"corrupted_{metric}"] == mean(metric, lambda r: r["name"] in BENCHMARK)
        for group, names in GROUPS.items():
            assert got[f"corrupted_{group}_{metric}"] == mean(metric, lambda r, names=names: r["name"] in names)
        for s in range(1, 6):
            at = mean(metric, lambda r, s=s: r["severity"] == s and r["group"] != "extra")
            assert got[f"corrupted_severity_{s}_{metric}"] == at
        assert got[f"extra_{metric}"] == mean(metric, lambda r: r["group"] == "extra")
        assert got[f"distorted_{metric}"] == mean(metric, lambda r: r["kind"] == "distortion")
    assert got["corrupted_cells"] == 75
    assert 1 - got["robust_accuracy"] == mean("error", lambda r: r["kind"] == "distortion")
    assert 1 - got["robust_accuracy_blur"] == mean("error", lambda r: r["name"] == "blur")
    assert "mce" not in got
    assert math.isnan(got["clean_sink_mass"])


def test_mce_by_hand():
    rows, reference = rows_of(1), rows_of(2)
    ours, theirs = (np.array([r["error"] for r in part[1:76]]).reshape(15, 5) for part in (rows, reference))
    got = summarise(rows, reference)
    assert got["mce"] == pytest.approx((ours.sum(1) / theirs.sum(1)).mean())
    ours, theirs = ours - rows[0]["error"], theirs - reference[0]["error"]
    assert got["relative_mce"] == pytest.approx((ours.sum(1) / theirs.sum(1)).mean())
    same = summarise(rows, list(reversed(rows)))
    assert same["mce"] == same["relative_mce"] == pytest.approx(1)
    flawless = [{**r, "error": 0.0} for r in rows]
    assert math.isnan(summarise(rows, flawless)["mce"])
    assert summarise(flawless, rows)["mce"] == 0


def test_summary_of_some_rows():
    rows = rows_of(1, ("fog", "speckle_noise"), ())
    got = summarise(rows, rows)
    assert got["corrupted_cells"] == 5
    assert got["mce"] == pytest.approx(1)
    assert "corrupted_weather_error" in got
    assert not any(name.startswith(("corrupted_noise", "distorted", "robust")) for name in got)
    assert "relative_mce" not in summarise(rows[1:], rows)
    assert set(summarise(rows[:1])) == {"corrupted_cells"} | {n for n in got if n.startswith("clean_")}
    with pytest.raises(DataError, match=r"two for 'corruption-fog-1'"):
        summarise([*rows, rows[1]])
    with pytest.raises(DataError, match=r"'corruption-fog-5' has none"):
        summarise(rows, [r for r in rows if r["severity"] != 5])


def test_a_network_in_bfloat16_end_to_end(digits):
    """Real images through a real network, cell by cell: level 0 equals clean, bit for bit."""
    images = digits.tensors("test")
    network = networks.build("resnet20", 10, (3, 32, 32)).to(memory_format=torch.channels_last)
    normalise = Normalise.make("normal", digits.spec.mean, digits.spec.std, "cpu")
    classifier = Classifier(network.eval(), normalise, Recipe().with_(network="resnet20"), 10)
    rows = []
    for cell in cells((), (0, 1), ("blur", "mosaic")):
        distort = distortion(cell, 0) if cell.kind == "distortion" else None
        log_f, _ = measure(classifier, images.images[:150], batch=64, distort=distort)
        rows.append(row(cell, log_f, images.labels[:150]))
    identity = ("kind", "name", "group", "level")
    clean, *distorted = [json.dumps({k: v for k, v in r.items() if k not in identity}) for r in rows]
    assert distorted[0] == distorted[2] == clean
    assert clean not in distorted[1::2]
