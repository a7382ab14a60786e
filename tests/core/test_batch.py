"""What a method does to images and a label to labels: every pair, the old words' numbers, and the mean amount."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor

from mollify_core import labels, rng
from mollify_core.amount import mean_strength
from mollify_core.batch import losses, make_batch
from mollify_core.errors import ConfigError
from mollify_core.matching import distortions, strength
from mollify_core.matching.nmi import normalized_mutual_information
from mollify_core.mollification import schedule
from mollify_core.mollification.degrade import mollify_
from mollify_core.normalise import Normalise
from mollify_core.recipe import Mollify, Recipe
from mollify_core.settings import LABELS, METHODS
from mollify_core.training import Training
from mollify_core.training_data import TrainingData, training_data

pytestmark = pytest.mark.usefixtures("one_thread")
KEY = (3, 1, 4, 0)
SMALL = Recipe().with_(dataset="digits", network="resnet8", augment=("crop",), batch_size=8, train_fraction=0.06)
SMALL = SMALL.with_(validation_fraction=0.01, precision="float32")
PAIRS = list(itertools.product(METHODS, LABELS))


@pytest.fixture(scope="module")
def images(digits) -> Tensor:
    return digits.tensors("train").images[:64]


@pytest.fixture(scope="module")
def normalise(digits) -> Normalise:
    return Normalise.make("normal", digits.spec.mean, digits.spec.std, "cpu")


@pytest.fixture(scope="module")
def data(digits) -> TrainingData:
    return training_data(SMALL, digits)


def batch_of(images, recipe, normalise, *key, **more):
    return make_batch(images, torch.zeros(len(images), dtype=torch.int64), 10, recipe, normalise, *(key or KEY), **more)


@pytest.mark.parametrize(("method", "label"), PAIRS)
def test_every_pair_of_method_and_label_trains(method, label, data):
    training = Training(SMALL.with_(method=method, label=label), data)
    loss, _ = training._step(0, data.fit.select(torch.arange(8)), 8, 1.0)
    assert torch.isfinite(loss)


def test_a_method_decides_the_images_and_a_label_the_strengths(images, normalise):
    found = {
        pair: batch_of(images, Recipe().with_(method=pair[0], label=pair[1]), normalise, uncoupled=0.3)
        for pair in PAIRS
    }
    for method in METHODS:
        assert all(torch.equal(found[method, label].x, found[method, "hard"].x) for label in LABELS)
        assert (found[method, "hard"].strength == 0).all()
        assert torch.equal(found[method, "fixed"].strength, torch.full((64,), 0.1))
        assert torch.equal(found[method, "uncoupled"].strength, torch.full((64,), 0.3))
    assert torch.equal(found["none", "hard"].x, normalise(images))
    assert (found["none", "coupled"].strength == 0).all()
    assert len(found["mollification", "coupled"].strength.unique()) > 20
    assert len(found["matching", "coupled"].strength.unique()) > 20
    for method in METHODS:
        spread = batch_of(images, Recipe().with_(method=method, label="fixed", spread="others"), normalise)
        assert torch.equal(spread.strength, torch.full((64,), 0.1) * (10 / 9))
        with pytest.raises(ConfigError, match="the strength of uncoupled labels, but got none"):
            batch_of(images, Recipe().with_(method=method, label="uncoupled"), normalise)
        with pytest.raises(ConfigError, match="`fixed_epsilon` to be at most"):
            batch_of(images, Recipe().with_(method=method, label="fixed", spread="others", fixed_epsilon=1), normalise)


def test_information_is_measured_for_coupled_labels_alone(images, normalise, monkeypatch):
    monkeypatch.setattr(strength, "normalized_mutual_information", None)
    for recipe in (Recipe().with_(method="matching"), Recipe().with_(label_source="nmi")):
        for label in ("hard", "fixed", "uncoupled"):
            batch_of(images, recipe.with_(label=label), normalise, uncoupled=0.2)
        with pytest.raises(TypeError):
            batch_of(images, recipe, normalise)


def by_the_old_rule(images, normalise, arm, p_clean, label_smoothing, spread) -> tuple[Tensor, Tensor]:
    """Network input and label strengths as version 0.1 made them."""
    if arm == "off":
        drawn = schedule.draw(len(images), 32, Mollify(p_clean=p_clean), rng.generator(*KEY, "mollify"))
        x, g = mollify_(normalise(images), drawn, rng.generator(*KEY, "noise")), drawn.strength
    else:
        unit, distorting = images.float() / 255, distortions.draw(len(images), rng.generator(*KEY, "distort"))
        constants, noise = distortions.Distortions(), rng.generator(*KEY, "noise")
        distorted = distortions.distort_segments(unit, distorting, constants, noise)
        fixed = {"hard": torch.zeros(len(images)), "smoothing": torch.full((len(images),), 0.1)}
        g = (1 - normalized_mutual_information(unit, distorted)).clamp(max=0.9) if arm == "matching" else fixed[arm]
        x, g = normalise(distorted), g if spread == "all" else g * (10 / 9)
    return x, 1 - (1 - g) * (1 - label_smoothing) if label_smoothing else g


@pytest.mark.parametrize("arm", ["off", "hard", "smoothing", "matching"])
def test_the_old_words_mean_the_same_bits(arm, images, normalise):
    for p_clean, smoothing, spread in itertools.product((1 / 3, 1.0), (0.0, 0.1), ("all", "others")):
        tree = {
            "mollify": {"p_clean": p_clean},
            "matching": {"arm": arm, "spread": spread},
            "optim": {"label_smoothing": smoothing},
        }
        x, g = by_the_old_rule(images, normalise, arm, p_clean, smoothing, spread)
        recipe = Recipe.from_dict({"format": 1, **tree})
        assert recipe == Recipe.from_dict(tree)
        assert (recipe.method == "none") == (arm == "off" and p_clean == 1)
        addressed = Recipe().with_(p_clean=p_clean, arm=arm, spread=spread, label_smoothing=smoothing)
        assert addressed.hash == recipe.hash
        for made in (batch_of(images, recipe, normalise), batch_of(images, addressed, normalise)):
            assert torch.equal(made.x, x)
            assert torch.equal(made.strength, g)


@pytest.mark.parametrize(
    "changes",
    [
        {"p_clean": 0.2, "pure_share": 0.1, "smoothing": 0.8},
        {"label_source": "nmi", "smoothing": 0.7, "augment": ("crop", "mixup")},
        {"method": "matching", "spread": "others", "repeat": 2, "p_undistorted": 0.1},
    ],
)
def test_uncoupled_labels_are_softened_by_the_mean_of_coupled_ones(changes, digits, normalise):
    recipe = Recipe().with_({"label_smoothing": 0.1, "augment": (), **changes})
    images = digits.tensors("train").images[:600]
    mean = mean_strength(recipe, images, 10, normalise)
    assert 0.05 < mean < 0.9
    coupled = torch.cat([batch_of(images, recipe, normalise, *KEY, step).strength for step in range(3)])
    uncoupled = batch_of(images, recipe.with_(label="uncoupled"), normalise, uncoupled=mean).strength
    assert len(uncoupled.unique()) == 1
    luck = coupled.std().item() * (1 / len(coupled) + 1 / 4096) ** 0.5
    assert uncoupled[0].item() == pytest.approx(coupled.mean().item(), abs=4 * luck)
    alone = recipe.with_(method="none", label="fixed", fixed_epsilon=mean, spread="all")
    assert torch.equal(batch_of(images, alone, normalise).strength, uncoupled)


@pytest.mark.parametrize("b", [1.0, 2.0, 9.0])
def test_the_mean_of_a_schedule_is_exact_to_a_thousandth(b, images, normalise):
    """Pure noise in p = 0.25; noise of sigma = sin(pi t / 2) in 0.75: g = sigma^2, averaged over t ~ Beta(1, b)."""
    recipe = Recipe().with_(p_clean=0.0, noise_share=0.75, pure_share=0.25, beta_b=b)
    t = (torch.arange(100_000, dtype=torch.float64) + 0.5) / 100_000
    expected = 0.25 + 0.75 * (torch.sin(t * torch.pi / 2) ** 2 * b * (1 - t) ** (b - 1)).mean().item()
    assert mean_strength(recipe, images, 10, normalise) == pytest.approx(expected, abs=1e-3)


def test_training_takes_the_mean_of_its_own_images(data, normalise):
    recipe = SMALL.with_(method="matching", label="uncoupled")
    mean = mean_strength(recipe.with_(label="coupled"), data.fit.images, 10, normalise)
    assert Training(recipe, data)._uncoupled == mean
    assert mean_strength(recipe.with_(method="none"), data.fit.images, 10, normalise) == 0


@pytest.mark.parametrize("mode", ["ls", "ld", "la", "lm"])
def test_label_smoothing_comes_before_the_mode(mode, images, normalise):
    """As a strength of the mode it would scale the loss of clean images (ld) or call them degraded (la, lm)."""
    recipe = Recipe().with_(label_mode=mode, label_smoothing=0.2, augment=())
    label = torch.arange(len(images)) % 10
    batch = make_batch(images, label, 10, recipe, normalise, 0, 0, 0, 0)
    g = make_batch(images, label, 10, recipe.with_(label_smoothing=0.0), normalise, 0, 0, 0, 0).strength
    assert (g == 0).any()
    outputs = labels.outputs(10, mode)
    logits = torch.randn(len(images), outputs, generator=rng.generator("logits"))
    target = torch.full((len(images), 10), 0.02).scatter_(1, label[:, None], 0.82)
    kept = (1 - g)[:, None] * target
    expected = {"ls": kept + g[:, None] / 10, "ld": kept, "la": torch.cat([target, g[:, None]], 1)}
    expected["lm"] = torch.cat([kept, g[:, None]], 1)
    torch.testing.assert_close(losses(logits, batch, 10, recipe), labels.soft_cross_entropy(logits, expected[mode]))


@pytest.mark.parametrize("method", ["mollification", "matching"])
def test_two_mixed_rows_that_share_an_image_have_roles_of_their_own(method, normalise):
    """Row i is mixed with row i - 1; both are left clean with p^2, and both not with (1 - p)^2, as any two rows are."""
    n, clean = 256, []
    recipe = Recipe().with_(method=method, augment=("mixup",), p_clean=0.4, p_undistorted=0.4, noise_share=1.0)
    images = torch.randint(0, 256, (n, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(5))
    for step in range(8):
        batch = make_batch(images, torch.arange(n), n, recipe, normalise, 0, 0, step, 0)
        assert sorted(batch.labels.tolist()) == list(range(n))
        by_image = torch.empty(n, dtype=torch.bool)
        by_image[batch.labels] = batch.strength == 0
        clean.append(by_image)
    known = torch.stack(clean)
    alike = (known == known.roll(1, 1)).double().mean().item()
    assert alike == pytest.approx(0.4**2 + 0.6**2, abs=0.05)
