"""Soft augmentations against their formulas image by image, the laws of their draws, and what becomes of labels."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor

from mollify_core import labels
from mollify_core.amount import mean_strength
from mollify_core.augment import augment, policies
from mollify_core.augment.mix import Mix, mix_batch
from mollify_core.augment.names import AUGMENTATIONS, SOFT, canonical, with_method
from mollify_core.augment.operations import CODE, OPERATIONS
from mollify_core.augment.soft import trivialaugment_confidence
from mollify_core.batch import losses, make_batch
from mollify_core.errors import ConfigError
from mollify_core.normalise import Normalise
from mollify_core.recipe import Recipe, parse_setting
from mollify_core.settings import TRIVIALAUGMENT, Soft

pytestmark = pytest.mark.usefixtures("one_thread")
NORMALISE = Normalise.make("normal", (0.5,) * 3, (0.25,) * 3, "cpu")
PLAIN_FORMS = {"soft-erasing": "erasing", "soft-noise": "patch_noise"}


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def grey(n: int, side: int = 32, level: int = 128) -> Tensor:
    return torch.full((n, 3, side, side), level, dtype=torch.uint8)


def pictures(n: int, side: int = 32) -> Tensor:
    """Without black, so that what left the frame can be counted."""
    return torch.randint(1, 256, (n, 3, side, side), dtype=torch.uint8, generator=seeded(99))


def changed_box(before: Tensor, after: Tensor) -> tuple[int, int, int, int]:
    rows, columns = (before != after).any(0).nonzero(as_tuple=True)
    return int(rows.min()), int(columns.min()), int(rows.max()) + 1, int(columns.max()) + 1


@pytest.mark.parametrize("side", [32, 64])
def test_soft_crop_is_the_formula_of_what_is_seen(side: int) -> None:
    before = pictures(60, side)
    after, kept = augment(before, ["soft-crop"], seeded(1), Soft(crop_power=2), 10)
    for image, moved, c in zip(before, after, kept.tolist(), strict=True):
        seen = (moved > 0).all(0)
        rows, columns = seen.any(1).nonzero()[:, 0], seen.any(0).nonzero()[:, 0]
        tall, wide = len(rows), len(columns)
        assert seen.sum() == tall * wide
        part = moved[:, rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        top, left = (0 if r[0] > 0 else side - n for r, n in ((rows, tall), (columns, wide)))
        assert torch.equal(part, image[:, top : top + tall, left : left + wide])
        v = tall * wide / side**2
        assert c == pytest.approx(1 - (1 - 0.1) * (1 - v) ** 2, abs=1e-12)


def test_the_law_of_soft_crops_offsets() -> None:
    """One column of many pixels: m is |t| / side, and t a normal of 0.3 sides within a side, without its fraction."""
    n, side = 4000, 1000
    images = torch.ones(n, 1, 1, 1, dtype=torch.uint8).expand(-1, -1, side, 1)
    _, kept = augment(images[:, :, :, :1], ["soft-crop"], seeded(2), Soft(crop_power=1), 10**9)
    m = (1 - kept).clamp(min=0).sort().values  # a column that moves sideways at all is lost: m = 1
    inside = m[m < 1]
    sideways = math.erf(1 / math.sqrt(2) / 0.3)
    assert len(inside) == n  # offsets of less than one pixel are none
    expected = torch.erf((inside + 0.5 / side) / 0.3 / math.sqrt(2)) / sideways
    assert (expected - (torch.arange(n) + 0.5) / n).abs().max() < 1.63 / n**0.5  # Kolmogorov and Smirnov, 1 %


@pytest.mark.parametrize("name", ["soft-erasing", "erasing"])
def test_erasing_is_the_formula_of_what_is_left(name: str) -> None:
    n, soft = 600, Soft(erasing_probability=0.4)
    before = grey(n)
    after, kept = augment(before, [name], seeded(3), soft, 10)
    erased = (before != after).flatten(1).any(1)
    assert erased.float().mean() == pytest.approx(0.4, abs=4 * (0.24 / n) ** 0.5)
    areas, aspects, values = [], [], []
    for image, result, c in zip(before[erased], after[erased], kept[erased].tolist(), strict=True):
        top, left, bottom, right = changed_box(image, result)
        areas.append((bottom - top) * (right - left) / 32**2)
        aspects.append((bottom - top) / (right - left))
        values.append(result[:, top:bottom, left:right].flatten())
        assert c == (pytest.approx(1 - 0.9 * areas[-1], abs=1e-12) if name in SOFT else 1)
    assert torch.equal(kept[~erased], torch.ones(int((~erased).sum()), dtype=torch.float64))
    assert 0.01 < min(areas) < 0.06 < 0.28 < max(areas) < 0.36
    assert 0.2 < min(aspects) < 0.6 < 1.7 < max(aspects) < 4
    noise = torch.cat(values).double() / 255
    assert (noise == 0).double().mean() == pytest.approx(0.5, abs=0.01)  # a standard normal, in units of white
    assert (noise == 1).double().mean() == pytest.approx(0.1587, abs=0.01)


@pytest.mark.parametrize("name", ["soft-noise", "patch_noise"])
@pytest.mark.parametrize(("side", "share", "window"), [(32, 0.8, 25), (40, 0.8, 32), (32, 1.0, 32)])
def test_patch_noise_is_the_formula_of_what_it_covers(name: str, side: int, share: float, window: int) -> None:
    before = grey(200, side)
    after, kept = augment(before, [name], seeded(4), Soft(patch_side=share, patch_deviation=0.2), 10)
    covered = []
    for image, result, c in zip(before, after, kept.tolist(), strict=True):
        top, left, bottom, right = changed_box(image, result)
        covered.append((bottom - top) * (right - left) / side**2)
        assert max(bottom - top, right - left) <= window
        if name not in SOFT:
            assert c == 1
        elif covered[-1] > 0.1:  # else hardly a pixel has changed
            deviation = ((1 - c) / 0.7) ** 0.5 / covered[-1]
            assert deviation <= 0.2
            inside = result[:, top:bottom, left:right].double() / 255
            assert inside.std().item() == pytest.approx(deviation, rel=0.25, abs=0.003)
    if share == 1:
        assert sorted(covered)[10] > 0.9  # some are hardly noisy
    else:
        assert 0.1 < sorted(covered)[20] < 0.35  # some are hardly noisy
        assert max(covered) > 0.8 * (window / side) ** 2


def rule(name: str, magnitude: float, side: int, chance: float, power: float) -> float:
    """One image's confidence after TrivialAugment."""
    m = abs(magnitude)
    if name == "Rotate":
        m /= 135
    elif name.startswith("Translate"):
        m = 1 - max(0, side - m) * side / side**2
    elif name == "Posterize":
        m = 1 - m / 8
    elif name == "Solarize":
        m = 1 - m
    elif name in ("Identity", "AutoContrast", "Equalize"):
        m = 0
    return max(chance, 1 - (1 - chance) * m**power)


@pytest.mark.parametrize(("side", "power"), [(32, 2.0), (64, 0.7)])
def test_soft_trivialaugment_is_the_rule_of_its_magnitude(side: int, power: float) -> None:
    images = pictures(400, side)
    after, kept = augment(images, ["soft-trivialaugment"], seeded(5), Soft(trivialaugment_power=power), 10)
    steps = policies.draw_trivialaugment(400, side, side, seeded(5))
    assert torch.equal(after, policies.apply_steps(images, steps))
    drawn = zip(steps.operation[0].tolist(), steps.magnitude[0].tolist(), kept.tolist(), strict=True)
    for code, magnitude, c in drawn:
        assert c == pytest.approx(rule(OPERATIONS[code], magnitude, side, 0.1, power), abs=1e-12)
    assert {OPERATIONS[code] for code in steps.operation[0].tolist()} == set(TRIVIALAUGMENT)


def test_a_measured_table_takes_the_place_of_the_rule() -> None:
    ahead, back = [0.99 - 0.02 * i for i in range(31)], [0.9 - 0.02 * i for i in range(31)]
    table = tuple(
        " ".join([name, *map(str, values)])
        for name, values in (("Rotate", ahead), ("-Rotate", back), ("Equalize", [0.8]), ("ShearX", [0.05] * 31))
    )
    steps = policies.Steps(
        torch.tensor([[CODE[name] for name in ("Rotate", "Rotate", "Equalize", "ShearX", "ShearX", "Color")]]),
        torch.tensor([[135 * 7 / 30, -135.0, 0, 0.33, -0.33, 0.33]], dtype=torch.float64),
    )
    kept = trivialaugment_confidence(steps, Soft(confidence_table=table), 0.1, (32, 32))
    by_rule = 1 - 0.9 * 0.33**2
    assert kept.tolist() == pytest.approx([ahead[7], back[30], 0.8, 0.1, by_rule, by_rule])


@pytest.mark.parametrize(
    "table",
    [
        ("Rotato 1",),
        ("",),
        ("Rotate 1",),
        ("Equalize 1 1",),
        ("Equalize 1.1",),
        ("Equalize nan",),
        ("Equalize x",),
        ("-Equalize 1",),
        ("Equalize 1", "Equalize 1"),
    ],
)
def test_a_table_that_is_none_is_one_sentence(table: tuple[str, ...]) -> None:
    with pytest.raises(ConfigError, match="Expected `confidence_table` to be"):
        Soft(confidence_table=table)


def test_a_table_on_the_command_line_is_a_file(tmp_path) -> None:  # type: ignore[no-untyped-def]
    recipe = Recipe().with_(confidence_table=("Equalize 0.7",))
    (tmp_path / "table.json").write_text(recipe.to_json())
    assert parse_setting("confidence_table", str(tmp_path / "table.json")) == ("Equalize 0.7",)
    assert Recipe.from_json(recipe.to_json()) == recipe
    with pytest.raises(ConfigError, match="Cannot read recipe"):
        parse_setting("confidence_table", str(tmp_path / "none.json"))


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("soft-crop", {"crop_deviation": 1e-6}),
        ("soft-erasing", {"erasing_probability": 0.0}),
        ("soft-noise", {"patch_deviation": 0.0}),
    ],
)
def test_strength_zero_is_the_identity(name: str, settings: dict[str, float]) -> None:
    images = pictures(50)
    after, kept = augment(images, [name], seeded(6), Soft(**settings), 10)  # type: ignore[arg-type]
    assert torch.equal(after, images)
    assert torch.equal(kept, torch.ones(50, dtype=torch.float64))


@pytest.mark.parametrize("name", SOFT)
def test_a_floor_is_the_least_confidence_and_none_is_below_chance(name: str) -> None:
    power = {"soft-noise": "patch_power"}.get(name, f"{name.removeprefix('soft-')}_power")
    strong = Soft(**{power: 0.05}, erasing_probability=1, min_confidence=0.4)  # type: ignore[arg-type]
    _, kept = augment(pictures(300), [name], seeded(7), strong, 10)
    assert 0.4 <= kept.min() < 0.55
    _, kept = augment(pictures(300), [name], seeded(7), strong, 2)
    assert kept.min() == 0.5
    _, kept = augment(pictures(300), [name], seeded(7), Soft(**{power: 0.05}, erasing_probability=1), 4)  # type: ignore[arg-type]
    assert kept.min() >= (0.3 if name == "soft-noise" else 0.25)


def test_confidences_of_several_multiply_down_to_chance() -> None:
    images, names = pictures(300), ("soft-trivialaugment", "soft-crop", "soft-erasing", "soft-noise")
    soft = Soft(erasing_probability=1, trivialaugment_power=0.5)
    _, together = augment(images, names, generator := seeded(8), soft, 10)
    generator.manual_seed(8)
    product = torch.ones(300, dtype=torch.float64)
    for name in names:  # the same generator goes on
        product *= augment(images, [name], generator, soft, 10)[1]
    assert torch.equal(together, product.clamp(min=0.1))
    assert (product < 0.1).any()
    assert torch.equal(augment(images, reversed(names), seeded(8), soft, 10)[1], together)


def test_what_is_drawn_decides_images_and_confidences_together() -> None:
    images = pictures(64)
    for name in (*SOFT, "erasing", "patch_noise"):
        first = augment(images, [name], seeded(9), Soft(), 10)
        again, other = (augment(images, [name], seeded(seed), Soft(), 10) for seed in (9, 10))
        assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
        assert not torch.equal(first[0], other[0])
    for soft, plain in PLAIN_FORMS.items():
        assert torch.equal(augment(images, [soft], seeded(9), None, 10)[0], augment(images, [plain], seeded(9))[0])
    with pytest.raises(ConfigError, match="the number of classes for soft augmentations"):
        augment(images, ["soft-crop"], seeded())
    with pytest.raises(ConfigError, match="1 or 3 channels"):
        augment(images[:, :2], ["soft-trivialaugment"], seeded(), None, 10)


@pytest.mark.parametrize("name", [*SOFT, "erasing"])
def test_kernels_equal_plain_pytorch(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for images in (pictures(70), pictures(9, 33)[:, :1], pictures(3, 8).transpose(2, 3)):
        by_kernel = augment(images, [name], seeded(11), None, 10)
        monkeypatch.setenv("MOLLIFY_COMPILED", "0")
        plain = augment(images, [name], seeded(11), None, 10)
        monkeypatch.delenv("MOLLIFY_COMPILED")
        assert torch.equal(by_kernel[0], plain[0])
        assert torch.equal(by_kernel[1], plain[1])


def test_a_method_joins_the_augmentations_in_place_of_its_plain_form() -> None:
    assert with_method(("crop", "flip"), "soft-crop") == ("flip", "soft-crop")
    assert with_method(("flip", "crop"), "soft-noise") == ("flip", "crop", "soft-noise")
    assert with_method(("erasing", "mixup"), "soft-erasing") == ("soft-erasing", "mixup")
    assert Recipe().with_(method="soft-trivialaugment", augment=("trivialaugment",)).augmentations == (
        "soft-trivialaugment",
    )
    assert canonical(reversed(AUGMENTATIONS[-4:-1])) == AUGMENTATIONS[-4:-1]
    for names in (("crop", "soft-crop"), ("randaugment", "soft-trivialaugment"), ("erasing", "soft-erasing")):
        with pytest.raises(ConfigError, match="Expected at most one augmentation out of"):
            canonical(names)
    with pytest.raises(ConfigError, match="Expected at most one augmentation out of"):
        Recipe().with_(method="soft-trivialaugment", augment=("augmix",))


def batch_of(recipe: Recipe, n: int = 64, **more: float) -> tuple[Tensor, object]:
    images = pictures(n)
    augmented, kept = augment(images, recipe.augmentations, seeded(12), recipe.soft, 10)
    label = torch.arange(n) % 10
    return kept, make_batch(augmented, label, 10, recipe, NORMALISE, 1, 2, 3, 0, kept=kept, **more)  # type: ignore[arg-type]


@pytest.mark.parametrize("method", SOFT)
def test_targets_are_the_confidence_and_an_even_rest(method: str) -> None:
    recipe = Recipe().with_(method=method, erasing_probability=0.9)
    kept, batch = batch_of(recipe)
    target = labels.soften(torch.eye(10)[batch.labels], batch.strength, "ls")  # type: ignore[attr-defined]
    for row, label, c in zip(target, batch.labels, kept, strict=True):  # type: ignore[attr-defined]
        expected = torch.full((10,), (1 - c.item()) / 9)
        expected[label] = c
        assert torch.allclose(row, expected, atol=2e-7)
    assert len(batch.strength.unique()) > 20  # type: ignore[attr-defined]
    for label, g in (("hard", 0.0), ("fixed", 0.1), ("uncoupled", 0.2)):
        _, other = batch_of(recipe.with_(label=label), uncoupled=0.2)
        assert torch.equal(other.x, batch.x)  # type: ignore[attr-defined]
        assert torch.equal(other.strength, torch.full((64,), g))  # type: ignore[attr-defined]


def test_the_loss_is_the_divergence_up_to_a_constant_and_weighs_by_confidence_where_asked() -> None:
    recipe = Recipe().with_(method="soft-crop", reweight=True)
    kept, batch = batch_of(recipe)
    logits = torch.randn(64, 10, generator=seeded(13))
    target = labels.soften(torch.eye(10)[batch.labels], batch.strength, "ls")  # type: ignore[attr-defined]
    divergence = torch.nn.functional.kl_div(logits.log_softmax(1), target, reduction="none").sum(1)
    entropy = -torch.special.xlogy(target, target).sum(1)
    plain = losses(logits, batch, 10, recipe.with_(reweight=False))  # type: ignore[arg-type]
    assert torch.allclose(plain, divergence + entropy, atol=1e-5)
    assert torch.allclose(losses(logits, batch, 10, recipe), plain * kept.float(), atol=1e-6)  # type: ignore[arg-type]


def test_mixed_labels_are_softened_each_by_its_own_loss_and_then_mixed() -> None:
    kept = torch.tensor([1.0, 0.4, 0.1, 0.1], dtype=torch.float64)
    strength = labels.strength(kept, 10)
    for box in (None, (0, 0, 4, 32)):
        mix = Mix(0.7, box)
        _, soft, mixed = mix_batch(torch.rand(4, 3, 32, 32), torch.tensor([1, 2, 3, 4]), 10, mix, strength)
        each = labels.smooth(torch.eye(10)[[1, 2, 3, 4]], strength)
        expected = 0.7 * each + 0.3 * each.roll(1, 0)
        assert torch.allclose(labels.smooth(soft, mixed), expected, atol=1e-6)
        assert torch.allclose(soft.sum(1), torch.ones(4))


@pytest.mark.parametrize(
    "changes",
    [
        {"method": "soft-crop"},
        {"method": "soft-trivialaugment", "trivialaugment_power": 0.5},
        {"method": "mollification", "augment": ("soft-erasing", "cutmix"), "erasing_probability": 1.0},
        {"method": "matching", "augment": ("soft-noise",)},
    ],
)
def test_uncoupled_labels_get_the_mean_of_coupled_ones(changes: dict[str, object]) -> None:
    recipe = Recipe().with_(changes)
    images = pictures(600)
    mean = mean_strength(recipe, images, 10, NORMALISE)
    assert 0.02 < mean < 0.9
    coupled = batch_of(recipe, 600)[1].strength  # type: ignore[attr-defined]
    luck = coupled.std().item() * (1 / len(coupled) + 1 / 4096) ** 0.5
    assert coupled.mean().item() == pytest.approx(mean, abs=4 * luck)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("crop_deviation", 0.0),
        ("crop_power", -1.0),
        ("erasing_power", 0.0),
        ("patch_power", 0.0),
        ("trivialaugment_power", 0.0),
        ("erasing_probability", 1.1),
        ("erasing_area", 0.01),
        ("erasing_area", 1.0),
        ("patch_side", 0.0),
        ("patch_deviation", 1.5),
        ("min_confidence", -0.1),
    ],
)
def test_a_setting_out_of_range_is_one_sentence(name: str, value: float) -> None:
    with pytest.raises(ConfigError, match=f"Expected `{name}` to be"):
        Recipe().with_({name: value})


def test_the_example_of_a_new_degradation_works(monkeypatch: pytest.MonkeyPatch) -> None:
    """The function that CONTRIBUTING.md shows."""
    from mollify_core.augment import soft

    text = (Path(__file__).parents[3] / "CONTRIBUTING.md").read_text(encoding="utf-8")
    code = text.partition("# mollify_core/augment/soft.py\n")[2].partition("\n\n\n_FUNCTIONS")[0]
    space = {**vars(soft)}
    exec(code, space)
    monkeypatch.setitem(soft._FUNCTIONS, "soft-band", space["band"])
    monkeypatch.setitem(SOFT, "soft-band", "band")
    images = pictures(200)
    dark, kept = soft.soften(images, ["soft-band"], Soft(), 10, seeded(14))
    hidden = (dark == 0).all(1).all(2).double().mean(1)
    assert torch.allclose(kept, 1 - 0.9 * hidden)
    assert 0 < hidden.max() <= 0.5
    assert torch.equal(dark[hidden == 0], images[hidden == 0])
