"""`python -m mollify_core.soften CHECKPOINT`: how sure a trained network still is after each of TrivialAugment's moves.

The accuracy of a network on held-out images, at each operation and magnitude, in the form of the setting
`confidence_table`: with it soft TrivialAugment softens a label by what was measured in place of a rule (Siedel et al.
2025, section on mappings; there from a network of their own). The images are those of the network's validation that
choose, so that none that judge is used.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from mollify_core.augment.operations import CODE, apply_operations
from mollify_core.augment.policies import trivialaugment_magnitudes
from mollify_core.classifier import Classifier
from mollify_core.datasets.options import add_data_options, add_network_code, data_options
from mollify_core.errors import ConfigError, StorageError
from mollify_core.networks import own
from mollify_core.program import Parser, guarded
from mollify_core.settings import MAGNITUDES, TRIVIALAUGMENT
from mollify_core.trained import load
from mollify_core.training_data import training_data

_CHUNK = 512


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit code."""
    return guarded(lambda: _run(argv))


def _run(argv: Sequence[str] | None) -> int:
    p = Parser(
        prog="python -m mollify_core.soften",
        description="Measure a checkpoint's accuracy at each operation and magnitude of TrivialAugment.",
        epilog="""
            The file that is written serves as --set confidence_table=FILE, with the method soft-trivialaugment:
              python -m mollify_core.soften runs/train-0123456789ab --out table.json
              python sweeps/search.py --methods plain,soft-trivialaugment --set confidence_table=table.json
        """,
    )
    p.add_argument("checkpoint", metavar="CHECKPOINT", help="a checkpoint's folder, or one that has some")
    p.add_argument("--out", metavar="FILE", default="confidence_table.json", help="(default: %(default)s)")
    p.add_argument("--images", type=int, default=2000, metavar="N", help="measure on at most N (default: %(default)s)")
    p.add_argument("--threads", type=int, metavar="N", help="CPU threads (default: all)")
    add_data_options(p)
    add_network_code(p)
    args = p.parse_args(argv)
    if args.images < 1 or (args.threads is not None and args.threads < 1):
        raise ConfigError("Expected --images and --threads to be at least 1")
    if not args.out.endswith(".json"):
        raise ConfigError(f"Expected --out to end in .json, but got {args.out!r}")
    if args.network_code:
        own.admit(args.network_code)
    if args.threads:
        torch.set_num_threads(args.threads)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    found = load(args.checkpoint, data_options(args), device)
    recipe, classifier = found.classifier.recipe, found.classifier
    prepared = found.prepared(data_options(args))
    data = training_data(recipe, prepared, device)
    assert data.validation is not None
    count = min(args.images, data.validation.choosing, data.validation.cells.shape[1])
    images, labels = data.validation.cells[0, :count], data.validation.labels[:count]
    table = []
    for name, values in accuracies(classifier, images, labels).items():
        table.append(" ".join([name, *(f"{value:.4f}" for value in values)]))
        print(f"{name:14} {values[0]:.4f}" + (f" to {values[-1]:.4f}" if len(values) > 1 else ""), flush=True)
    told = {"network": recipe.model.network, "recipe": recipe.hash, "fingerprint": prepared.fingerprint}
    try:
        text = json.dumps({"recipe": {"soft": {"confidence_table": table}}, "measured": {**told, "images": count}})
        Path(args.out).write_text(text + "\n", encoding="utf-8")
    except OSError as error:
        raise StorageError(f"Cannot write {args.out!r}: {error.strerror}") from None
    print(f"{args.out}: use it with --set confidence_table={args.out}")
    return 0


@torch.inference_mode()
def accuracies(classifier: Classifier, images: Tensor, labels: Tensor) -> dict[str, list[float]]:
    """Accuracies in [0, 1] at each magnitude of each operation, "-" before its name in the other direction.

    Args:
        classifier: on the images' device.
        images: (n, channels, height, width) uint8.
        labels: (n,) int64.
    """
    levels = trivialaugment_magnitudes()
    found: dict[str, list[float]] = {}
    for name, directions in TRIVIALAUGMENT.items():
        for sign in (1, -1)[: max(1, directions)]:
            magnitudes = levels[CODE[name], : MAGNITUDES if directions else 1] * sign
            measured: dict[float, float] = {}  # Posterize has few that differ
            for magnitude in dict.fromkeys(magnitudes.tolist()):
                right = 0
                for part, label in zip(images.split(_CHUNK), labels.split(_CHUNK), strict=True):
                    operation = torch.full((len(part),), CODE[name])
                    strength = torch.full((len(part),), magnitude, dtype=torch.float64)
                    guess = classifier(apply_operations(part, operation, strength)).argmax(1)
                    right += int((guess == label).sum())
                measured[magnitude] = right / len(images)
            found["-" * (sign < 0) + name] = [measured[m] for m in magnitudes.tolist()]
    return found


if __name__ == "__main__":
    sys.exit(main())
