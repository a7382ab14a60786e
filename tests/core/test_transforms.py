"""The methods in any loop: the numbers of a sweep's own step, in the convention of torchvision's MixUp."""

from __future__ import annotations

import json

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset, default_collate
from torchvision.transforms.v2 import MixUp

from mollify_core import labels
from mollify_core.batch import losses, make_batch
from mollify_core.datasets import DATASETS
from mollify_core.errors import ConfigError, DataError
from mollify_core.normalise import Normalise
from mollify_core.recipe import Recipe
from mollify_core.transforms import Match, Mollify, SoftTargetLoss

DIGITS = DATASETS["digits"]
KEY = (3, 1, 4, 0)


@pytest.fixture(scope="module")
def batch(digits) -> tuple[torch.Tensor, torch.Tensor]:
    images = digits.tensors("train")
    return images.images[:64], images.labels[:64]


def made(method: str, **settings):
    recipe = Recipe().with_(dataset="digits", method=method, augment=(), **settings)
    return {"mollification": Mollify, "matching": Match}[method].from_recipe(recipe), recipe


@pytest.mark.parametrize("method", ["mollification", "matching"])
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"label_smoothing": 0.1},
        {"label": "hard"},
        {"label": "fixed"},
        {"loss": "nce"},
        {"label_mode": "lm"},
        {"label_mode": "la", "loss": "bce"},
        {"label_mode": "ld", "label_smoothing": 0.2},
        {"reweight": True},
        {"scaling": "uniform"},
    ],
)
def test_numbers_are_those_of_the_sweeps_own_step(method, settings, batch):
    transform, recipe = made(method, **settings)
    normalise = Normalise.make(recipe.data.scaling, DIGITS.mean, DIGITS.std, "cpu")
    step = make_batch(*batch, 10, recipe, normalise, *KEY)
    x, target = transform(*batch, key=KEY)
    assert torch.equal(x, step.x)
    outputs = labels.outputs(10, recipe.mollify.label_mode)
    logits = torch.randn(64, outputs, generator=torch.Generator().manual_seed(1))
    ours = SoftTargetLoss(recipe.mollify.loss, recipe.mollify.label_mode)(logits, target)
    if not settings.get("reweight"):
        torch.testing.assert_close(ours, losses(logits, step, 10, recipe).mean())
    if recipe.mollify.loss == "ce" and outputs == 10:
        mean = losses(logits, step, 10, recipe).mean()
        torch.testing.assert_close(nn.CrossEntropyLoss()(logits, target), mean)


@pytest.mark.parametrize("method", ["mollification", "matching"])
def test_images_may_come_in_three_forms(method, batch):
    transform, recipe = made(method)
    ready = type(transform).from_recipe(recipe, normalised=True)
    images, label = batch
    normalise = Normalise.make("normal", DIGITS.mean, DIGITS.std, "cpu")
    expected, target = transform(images, label, key=KEY)
    for given, by in ((images.float() / 255, transform), (normalise(images), ready)):
        before = given.clone()
        x, soft = by(given, label, key=KEY)
        torch.testing.assert_close(x, expected, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(soft, target, rtol=1e-2, atol=1e-2)
        assert torch.equal(given, before)


def test_it_composes_with_mixup(batch):
    torch.manual_seed(0)
    images, soft = MixUp(num_classes=10)(batch[0].float() / 255, batch[1])
    transform = Mollify(10, mean=DIGITS.mean, std=DIGITS.std, p_clean=1.0)
    x, target = transform(images, soft, key=KEY)
    normalise = Normalise.make("normal", DIGITS.mean, DIGITS.std, "cpu")
    found = {tuple(row.tolist()): t for row, t in zip(x.flatten(1), target, strict=True)}
    for row, t in zip(normalise(images).flatten(1), soft, strict=True):  # each label goes with its image
        torch.testing.assert_close(found[tuple(row.tolist())], t)
    assert not torch.equal(target, soft)
    x, target = Mollify(10, mean=DIGITS.mean, std=DIGITS.std)(images, soft)
    torch.testing.assert_close(target.sum(dim=1), torch.ones(64))


def test_a_generator_decides_all_and_a_loaders_workers_draw_differently(batch):
    def drawn(seed: int) -> list[torch.Tensor]:
        transform = Mollify(10, generator=torch.Generator().manual_seed(seed))
        return [transform(*batch)[0] for _ in range(2)]

    assert all(torch.equal(a, b) for a, b in zip(drawn(1), drawn(1), strict=True))
    assert not torch.equal(drawn(1)[0], drawn(2)[0])
    assert not torch.equal(*drawn(1))
    transform, twice = Mollify(10), TensorDataset(batch[0][:32].repeat(2, 1, 1, 1), batch[1][:32].repeat(2))
    loader = DataLoader(twice, 32, num_workers=2, collate_fn=lambda rows: transform(*default_collate(rows)))
    (one, soft), (other, _) = loader
    assert soft.shape == (32, 10)
    assert not torch.equal(one, other)


def test_it_runs_inside_a_compiled_step(batch):
    transform = Mollify(10)
    network = nn.Sequential(nn.Flatten(), nn.Linear(3 * 32**2, 10))

    @torch.compile(backend="eager")
    def step(images, label):
        x, soft = transform(images, label, key=KEY)
        return nn.functional.cross_entropy(network(x), soft)

    x, soft = transform(*batch, key=KEY)
    torch.testing.assert_close(step(*batch), nn.functional.cross_entropy(network(x), soft))


def test_what_a_sweep_found_knows_its_data(tmp_path, batch):
    recipe = Recipe().with_(dataset="photographs", image_size=32, max_noise=0.6)
    path = tmp_path / "best_recipe.json"
    tree = {"recipe": recipe.to_dict(), "provenance": {"classes": 12, "mean": [0.3, 0.3, 0.4], "std": [0.2, 0.2, 0.2]}}
    path.write_text(json.dumps(tree))
    transform = Mollify.from_recipe(path)
    assert (transform.num_classes, transform.recipe.mollify.max_noise) == (12, 0.6)
    assert transform(*batch)[1].shape == (64, 12)
    with pytest.raises(ConfigError, match=r"^Expected num_classes, mean, std for the data set 'photographs'"):
        Mollify.from_recipe(recipe)
    assert Mollify.from_recipe(recipe, num_classes=3, mean=(0.5,) * 3, std=(0.5,) * 3).num_classes == 3
    with pytest.raises(ConfigError, match=r"^Expected a recipe of the method 'matching', but got 'mollification'$"):
        Match.from_recipe(path)


IMAGES, LABEL = torch.rand(4, 3, 32, 32), torch.arange(4)


@pytest.mark.parametrize(
    ("images", "label", "said"),
    [
        (IMAGES * 2 - 1, LABEL, r"^Expected float images in \[0, 1\], but got -.*normalised=True"),
        (IMAGES, LABEL + 8, r"^Expected labels in \[0, 10\), but got 8 to 11$"),
        (IMAGES[0], LABEL, r"^Expected images to be uint8 or float of shape \(batch, "),
        (IMAGES.long(), LABEL, r"but got torch.int64 of shape \(4, 3, 32, 32\)$"),
        (IMAGES, LABEL[:3], r"^Expected labels to be integers of shape \(4,\) or float of shape \(4, 10\)"),
        (IMAGES, LABEL.float(), r"but got torch.float32 of shape \(4,\)$"),
        (IMAGES, torch.rand(4, 9), r"but got torch.float32 of shape \(4, 9\)$"),
    ],
)
def test_bad_input_is_one_sentence(images, label, said):
    with pytest.raises(DataError, match=said) as raised:
        Mollify(10)(images, label)
    assert "\n" not in str(raised.value)


def test_bad_settings_are_one_sentence():
    for settings, said in (
        ({"max_nose": 1.0}, "did you mean 'max_noise'"),
        ({"label": "uncoupled"}, "^Expected `uncoupled`"),
        ({"max_noise": 2.0}, "max_noise"),
    ):
        with pytest.raises(ConfigError, match=said):
            Mollify(10, **settings)
    with pytest.raises(ConfigError, match="num_classes"):
        Mollify(1)
    with pytest.raises(ConfigError, match="Expected label_mode 'ls' for loss 'nce'"):
        SoftTargetLoss("nce", "ld")
    assert Mollify(10, label="uncoupled", uncoupled=0.5)(IMAGES, LABEL)[1].max() == pytest.approx(0.55)
