"""Rows that the real metrics compute from seeded predictions, for what reports evaluations."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch

from mollify_core.corruptions.benchmark import CORRUPTIONS
from mollify_core.measure import evaluation

CLASSES, IMAGES, LEVELS = 10, 300, (0.0, 0.5, 1.0)
NAMES = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
# label -> margin of the true class, loss of it per degradation, sharpness: plain, a robust one, an underconfident one
MODELS = {"plain": (4.0, 0.9, 2.0), "paper": (3.6, 0.5, 0.6), "best (trial 7)": (3.8, 0.4, 1.0)}
Rows = list[dict[str, Any]]


def predictions(model: tuple[float, float, float], classes: int = CLASSES, levels: Iterable[float] = LEVELS) -> dict:
    """Cell -> log-probabilities of the same images, worse and worse with severity or level."""
    margin, loss, sharpness = model
    labels = truth(classes)
    generator = torch.Generator().manual_seed(round(1000 * margin * sharpness))
    found = {}
    for cell in evaluation.cells(CORRUPTIONS, levels):
        hardness = 0.3 + 0.05 * CORRUPTIONS.index(cell.name) if cell.kind == "corruption" else 4.0
        amount = cell.severity if cell.kind == "corruption" else 0 if math.isnan(cell.level) else cell.level
        logits = torch.randn(IMAGES, classes, generator=generator)
        logits[torch.arange(IMAGES), labels] += max(0.0, margin - loss * hardness * amount)
        found[cell] = torch.log_softmax(sharpness * logits, dim=1)
    return found


def truth(classes: int = CLASSES) -> torch.Tensor:
    """The labels of the images."""
    return torch.arange(IMAGES) % classes


def rows_of(label: str, found: dict, sink: bool = False) -> Rows:
    """The rows of a model with these predictions; `sink`: one with a class to dump probability in."""
    rows = []
    for cell, log_probabilities in found.items():
        mass = torch.full((IMAGES,), 0.125) if sink else None
        row = evaluation.row(cell, log_probabilities, truth(log_probabilities.shape[1]), 1.5, mass)
        rows.append({"model": label, "source": "made" if cell.kind == "corruption" else "test set", **row})
    return rows


def metadata_of(labels: Iterable[str], **changes: Any) -> dict[str, Any]:
    """The metadata of an evaluation of these models."""
    about = {
        label: {
            "checkpoint": f"s3://bucket/{index}/epoch-0009",
            "epochs": 10,
            "recipe": {"optim": {"lr": 0.01}},
            "seed": index,
            "git_commit": "abc1234",
            "versions": {"torch": "2.9.0"},
            "mollified": index > 0,
        }
        for index, label in enumerate(labels)
    }
    return {
        "dataset": "cifar10",
        "verified": True,
        "class_names": NAMES,
        "fingerprint": "0f1e2d3c4b5a",
        "models": about,
        "corruption_source": "made",
        "corruption_fingerprint": "00112233aabbccdd",
        "distortions": "evaluation",
        "published_distortions": False,
        "created": "2025-11-22T01:00:00+00:00",
        **changes,
    }
