"""What has no effect changes no bit of a batch and its losses; what has one changes some."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from mollify_core.amount import mean_strength
from mollify_core.augment import augment
from mollify_core.augment.names import SOFT
from mollify_core.batch import losses, make_batch
from mollify_core.effect import without_effect
from mollify_core.errors import ConfigError
from mollify_core.normalise import Normalise
from mollify_core.recipe import Recipe

OTHER: dict[str, Any] = {
    "p_clean": 0.6,
    "noise_share": 0.3,
    "both_share": 0.2,
    "pure_share": 0.25,
    "beta_a": 3.0,
    "beta_b": 5.0,
    "max_noise": 0.6,
    "min_blur": 0.9,
    "max_blur": 3.0,
    "noise_power": 2.0,
    "blur_power": 2.5,
    "smoothing": 0.5,
    "label_source": "nmi",
    "repeat": 2,
    "p_undistorted": 0.5,
    "fixed_epsilon": 0.3,
    "max_epsilon": 0.2,
    "epsilon_scale": 0.3,
    "epsilon_power": 3.0,
    "spread": "others",
    "bins": 9,
    "use_all_bins": True,
    "corrected": True,
    "blur_sigma": 1.5,
    "blur_kernel": 5,
    "patch_size": 2,
    "mosaic_power": 1.0,
    "crop_deviation": 0.1,
    "crop_power": 1.0,
    "erasing_probability": 0.9,
    "erasing_area": 0.2,
    "erasing_power": 2.0,
    "patch_side": 0.3,
    "patch_deviation": 0.2,
    "patch_power": 1.0,
    "trivialaugment_power": 1.0,
    "min_confidence": 0.6,
    "confidence_table": tuple(f"{name} 0.5" for name in ("Identity", "AutoContrast", "Equalize")),
    "reweight": True,
}
"""Another value of every setting that degrades images or softens labels, alone in a recipe of any kind below."""
KINDS: list[dict[str, Any]] = [
    *({"method": m, "label": y} for m in ("none", "mollification", "matching") for y in ("hard", "fixed", "coupled")),
    {"method": "mollification", "label": "uncoupled"},
    {"method": "mollification", "label": "coupled", "label_source": "nmi"},
    {"method": "mollification", "label": "coupled", "p_clean": 1.0},
    {"method": "mollification", "label": "coupled", "smoothing": 0.0},
    {"method": "mollification", "label": "coupled", "noise_share": 1.0},
    {"method": "mollification", "label": "coupled", "noise_share": 0.0},
    {"method": "mollification", "label": "coupled", "noise_share": 0.0, "pure_share": 1.0},
    {"method": "matching", "label": "coupled", "p_undistorted": 1.0},
    *({"method": method, "label": label} for method in SOFT for label in ("coupled", "hard")),
    {"augment": ("soft-crop", "erasing", "patch_noise"), "label": "coupled"},
]


def trained_on(recipe: Recipe) -> tuple[torch.Tensor, torch.Tensor]:
    """What the network sees of 32 images, and its losses; untidy ones, so that their NMI depends on everything."""
    made = torch.Generator().manual_seed(1)
    images = torch.randint(0, 256, (32, 3, 8, 8), dtype=torch.uint8, generator=made)
    label, logits = torch.randint(0, 10, (32,), generator=made), torch.randn(64, 10, generator=made)
    normalise = Normalise.make("normal", (0.5,) * 3, (0.25,) * 3, torch.device("cpu"))
    uncoupled = mean_strength(recipe, images, 10, normalise) if recipe.label == "uncoupled" else None
    images, kept = augment(images, recipe.augmentations, made, recipe.soft, 10)
    batch = make_batch(images, label, 10, recipe, normalise, 0, 0, 0, 0, kept=kept, uncoupled=uncoupled)
    return batch.x, losses(logits[: len(batch.x)], batch, 10, recipe)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: " ".join(map(str, kind.values())))
def test_a_setting_without_effect_changes_nothing_and_every_other_one_something(kind: dict[str, Any]) -> None:
    recipe = Recipe().with_(kind)
    before = trained_on(recipe)
    for name, value in OTHER.items():
        try:
            other = recipe.with_({name: value})
        except ConfigError:  # shares that would be more than all
            continue
        if name not in kind:
            after = trained_on(other)
            same = all(a.shape == b.shape and torch.equal(a, b) for a, b in zip(before, after, strict=True))
            assert same == (name in without_effect(recipe)), name


def test_momentum_is_of_sgd_alone() -> None:
    assert not {"momentum", "nesterov"} & without_effect(Recipe())
    assert {"momentum", "nesterov"} <= without_effect(Recipe().with_(optimizer="adamw"))
