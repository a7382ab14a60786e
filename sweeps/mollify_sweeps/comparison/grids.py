"""The papers' experiments as lists of runs: what is trained, and in which rows of which table it stands.

Mollification: the 82 commands of the released script (Heinonen et al. 2025), in six blocks. Some name the same run
twice, which is then trained once. Information matching: the three arms of the released scripts (Bonilla Salvador 2025),
which are three labels. Soft augmentation: four augmentations with three labels each (Siedel et al. 2025).
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mollify_core.datasets import DatasetSpec
from mollify_core.errors import ConfigError, nearest
from mollify_core.presets import PLAIN, preset
from mollify_core.recipe import Recipe
from mollify_sweeps.plan.runs import Run

PROTOCOLS = ("fair", "published")


def protocol_of(record: Mapping[str, Any]) -> str:
    """The protocol of a measured run, in words."""
    return f"{record['protocol']} protocol" + ", learning rates tuned" * bool(record["lr_tried"])


FCR = ("flip", "crop", "rotate")
AUGMENTATIONS: dict[str, tuple[str, ...]] = {
    "none": (),
    "fcr": FCR,
    "fcr+randaug": (*FCR, "randaugment"),
    "fcr+autoaug": (*FCR, "autoaugment"),
    "fcr+augmix": (*FCR, "augmix"),
    "fcr+trivaug": (*FCR, "trivialaugment"),
    "fcr+mixup": (*FCR, "mixup"),
    "fcr+cutmix": (*FCR, "cutmix"),
}
"""The script's names -> the recipe's. AutoAugment has ImageNet's policy on every data set, as there."""
ABLATED = "fcr+trivaug"
"""The augmentation of blocks 3 to 6."""

OFF: dict[str, Any] = {**PLAIN, "p_clean": 1.0}
BETAS = (2.0, 4.0, 9.0)
POWERS = (0.5, 1.0, 2.0)

BLOCKS = {
    1: "without mollification",
    2: "mollified: clean, noise and blur in equal parts, t ~ Beta(1, 2), label powers 1",
    3: "one degradation: noise or blur only",
    4: "the law of times: Beta(1, b)",
    5: "no label smoothing: label powers 100",
    6: "label powers of noise and blur",
}
_EVERY_SET = ("cifar10", "cifar100", "tin")
_SETS = {6: ("cifar100", "tin")}  # the others are run on all three


@dataclass(frozen=True)
class Experiment:
    """One command of the mollification script.

    Attributes:
        block: 1 to 6.
        augmentation: key of `AUGMENTATIONS`.
        setting: what is varied: "off", "mollified", "noise only", "b = 4", "k = 100", "k = 0.5, 2", …
        settings: of the recipe.
    """

    block: int
    augmentation: str
    setting: str
    settings: dict[str, Any]

    @property
    def run(self) -> Run:
        return Run(
            f"{self.augmentation}, {self.setting}", {"augment": AUGMENTATIONS[self.augmentation]} | self.settings
        )


def mollification(dataset: str, blocks: Sequence[int], augmentations: Sequence[str]) -> list[Experiment]:
    """The commands of some blocks for one data set, those of one run all of them.

    Args:
        dataset: its name; a set that the paper does not have has all blocks.
        blocks: some of `BLOCKS`.
        augmentations: some of `AUGMENTATIONS`; blocks 3 to 6 have `ABLATED` only, and are left out without it.

    Raises:
        ConfigError: there is no such block or augmentation.
    """
    for block in blocks:
        if block not in BLOCKS:
            raise ConfigError(f"Expected --blocks to be some of {', '.join(map(str, BLOCKS))}, but got {block}")
    for name in augmentations:
        if name not in AUGMENTATIONS:
            raise ConfigError(f"Unknown augmentation {name!r}{nearest(name, AUGMENTATIONS)}")
    ablations: list[Experiment] = [
        Experiment(3, ABLATED, "noise only", {"noise_share": 1.0}),
        Experiment(3, ABLATED, "blur only", {"noise_share": 0.0}),
        *(Experiment(4, ABLATED, "mollified" if b == 2 else f"b = {b:g}", {"beta_b": b}) for b in BETAS),
        Experiment(5, ABLATED, "k = 100", {"noise_power": 100.0, "blur_power": 100.0}),
        *(
            Experiment(6, ABLATED, f"k = {n:g}, {b:g}", {"noise_power": n, "blur_power": b})
            for n, b in itertools.product(POWERS, POWERS)
            if (n, b) != (1, 1)
        ),
    ]
    every = [Experiment(1, name, "off", OFF) for name in augmentations]
    every += [Experiment(2, name, "mollified", {"beta_b": 2.0}) for name in augmentations]
    every += [experiment for experiment in ablations if experiment.augmentation in augmentations]
    known = dataset in _EVERY_SET
    return [c for c in every if c.block in blocks and (not known or dataset in _SETS.get(c.block, _EVERY_SET))]


def distinct(experiments: Sequence[Experiment]) -> list[Run]:
    """The runs of some commands, each once."""
    return list({experiment.run.name: experiment.run for experiment in experiments}.values())


LABELS = {
    "hard": "hard labels",
    "smoothing": "label smoothing 0.1",
    "matching": "information matching",
}
"""Preset -> the run of information matching with its label, the baselines first."""


def matching(protocol: str) -> list[Run]:
    """The three runs: alike in all but the label, or as released."""
    return [Run(run, _settings(name, protocol)) for name, run in LABELS.items()]


def _settings(name: str, protocol: str) -> dict[str, Any]:
    """The settings of a preset, without those that the command line may set for all."""
    settings = preset(name + ("_published" if protocol == "published" else ""))
    return {name: value for name, value in settings.items() if name not in ("network", "epochs")}


SOFT = {
    "crop": "soft-crop",
    "erasing": "soft-erasing",
    "noise": "soft-noise",
    "trivialaugment": "soft-trivialaugment",
}
"""Names of the augmentations in the grid -> the methods."""
SOFT_LABELS = {"hard": "hard", "fixed 0.1": "fixed", "soft": "coupled"}
"""Names of the labels in the grid, the baselines first -> the recipe's words."""


def soft(augmentations: Sequence[str]) -> list[Run]:
    """Each augmentation with each label; what else the presets have in common is the base.

    Raises:
        ConfigError: there is no such augmentation.
    """
    for name in augmentations:
        if name not in SOFT:
            raise ConfigError(f"Unknown augmentation {name!r}{nearest(name, SOFT)}")
    return [
        Run(f"{name}, {words}", {"method": SOFT[name], "label": label})
        for name in augmentations
        for words, label in SOFT_LABELS.items()
    ]


def base(grid: str, spec: DatasetSpec, protocol: str) -> Recipe:
    """What all runs of a grid have in common, as the originals' scripts have it.

    Fair: a tenth of the training images is held out, and nothing is chosen by the test set. Published: (nearly) all
    training images are trained on; a hundredth is held out, since a trial reports something after each epoch.
    """
    recipe = Recipe().with_(dataset=spec.name, validation_fraction=0.1 if protocol == "fair" else 0.01)
    if grid == "mollification":
        return recipe.with_(network="presnet50", epochs=300, augment=(), beta_b=2.0)
    if grid == "soft":
        return recipe.with_(preset("soft-plain")).with_(published=protocol == "published")
    common = preset("hard")
    return recipe.with_({"network": common["network"], "epochs": common["epochs"], **_settings("hard", protocol)})


PUBLISHED: dict[tuple[str, str, str], dict[str, float]] = {
    ("matching", "cifar100", "information matching"): {
        "error": 0.3676,
        "top5_error": 0.1486,
        "ece": 0.1366,
        "nll": 1.5724,
    },
    ("matching", "cifar100", "label smoothing 0.1"): {
        "error": 0.4406,
        "top5_error": 0.1793,
        "ece": 0.1121,
        "nll": 1.7069,
    },
    ("matching", "cifar100", "hard labels"): {"error": 0.4457, "top5_error": 0.1765, "ece": 0.1738, "nll": 1.8251},
    ("mollification", "cifar10", "fcr+trivaug, mollified"): {"error": 0.05},
    ("mollification", "cifar100", "fcr+trivaug, mollified"): {"error": 0.20},
    ("mollification", "tin", "fcr+trivaug, mollified"): {"error": 0.32},
}
"""(grid, data set, run) -> published clean test metrics.

Matching: table 1 of the paper, of the checkpoint that was best on the test set; its ECE is the code's estimator
(`matching_ece`). Mollification: about, from the released code's README, which does not state the configuration (its
example is this one); the tables of the paper itself are not at hand.
"""
