"""`python -m mollify_core.train best_recipe.json`: trains one recipe alone, in plain PyTorch.

On one CPU with the same number of threads it gives the very numbers that a sweep's trial gave.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from pyarrow import fs

from mollify_core import checkpoint
from mollify_core.datasets import Prepared, prepare
from mollify_core.errors import ConfigError, DataError, MollifyError, Preempted, StorageError, first_line
from mollify_core.recipe import Recipe
from mollify_core.training import Training, TrainingData, split_rows
from mollify_core.validation import ValidationSet
from mollify_core.worker import Worker


def training_data(recipe: Recipe, prepared: Prepared, device: torch.device | str = "cpu") -> TrainingData:
    """All images that a recipe trains and validates on, resident on `device`."""
    images = prepared.tensors("train")
    fit, validation = split_rows(images.labels.numpy(), recipe, prepared.fingerprint)
    chosen = images.select(fit)
    spec = prepared.spec
    return TrainingData(
        fit=type(images)(chosen.images.to(device), chosen.labels.to(device)),
        validation=ValidationSet.make(images.select(validation), seed=recipe.data.split_seed, device=device),
        classes=spec.classes,
        mean=spec.mean,
        std=spec.std,
        fingerprint=prepared.fingerprint,
    )


def main(argv: list[str] | None = None) -> int:
    """Returns the exit code: 0 done, 1 the loss was not finite, 2 bad input, 130 Ctrl-C, 143 SIGTERM."""
    parser = argparse.ArgumentParser(
        prog="python -m mollify_core.train",
        description="Train one recipe alone, without Ray. The same command again goes on where it stopped.",
    )
    parser.add_argument("recipe", metavar="RECIPE", help="a recipe (.json or .yaml), or a report's best_recipe.json")
    parser.add_argument("--data-dir", metavar="DIR", help="take the official files, or the folder of images, from here")
    parser.add_argument("--cache-dir", metavar="DIR", help="where prepared data is kept")
    parser.add_argument("--mirror", action="append", default=[], metavar="URL", help="try this address first")
    parser.add_argument("--allow-unverified", action="store_true", help="take files that are not the official ones")
    parser.add_argument("--out", metavar="DIR", help="checkpoints and metrics.json (default: runs/train-<recipe hash>)")
    parser.add_argument("--device", choices=("cpu", "cuda"), help="default: cuda where there is one")
    parser.add_argument("--threads", type=int, metavar="N", help="CPU threads (default: those of the sweep, else all)")
    args = parser.parse_args(argv)
    try:
        return run(args)
    except MollifyError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1 if isinstance(error, ArithmeticError) else 2
    except KeyboardInterrupt:
        print("\nstopped; the same command goes on after the last finished epoch", file=sys.stderr)
        return 130


def run(args: argparse.Namespace) -> int:
    recipe = Recipe.from_file(args.recipe)
    origin = _origin(args.recipe)
    if args.threads is not None and args.threads < 1:
        raise ConfigError(f"Expected --threads to be at least 1, but got {args.threads}")
    threads = args.threads or origin.get("provenance", {}).get("threads")
    if threads:
        torch.set_num_threads(threads)
    if args.device == "cuda" and not torch.cuda.is_available():
        raise ConfigError("Expected a CUDA device for --device cuda, but there is none")
    device = torch.device(args.device or ("cuda" if torch.cuda.is_available() else "cpu"))
    prepared = prepare(
        recipe.data.dataset,
        data_dir=args.data_dir,
        image_size=recipe.data.image_size,
        cache_dir=args.cache_dir,
        mirrors=tuple(args.mirror),
        allow_unverified=args.allow_unverified,
    )
    expected = origin.get("provenance", {}).get("fingerprint")
    if expected not in (None, prepared.fingerprint):
        raise DataError(
            f"Expected the data set {expected} that the recipe was found on, but got {prepared.fingerprint}"
        )
    out = Path(args.out or f"runs/train-{recipe.hash}").resolve()
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(f"Cannot write to {str(out)!r}: {error.strerror}") from None
    if not os.access(out, os.W_OK):
        raise StorageError(f"Cannot write to {str(out)!r}")
    if not prepared.verified:
        print("UNVERIFIED DATA: not the official files")
    local, folder = fs.LocalFileSystem(), str(out / "checkpoints")
    state = checkpoint.load_newest(local, folder, lambda text: print(f"! {text}"))
    training = Training(recipe, training_data(recipe, prepared, device), Worker(device=device), state)
    print(f"{recipe.model.network} on {recipe.data.dataset}, {device}, {torch.get_num_threads()} threads, to {out}")

    def save() -> None:
        try:
            checkpoint.save(local, folder, training.state(verified=prepared.verified))
            checkpoint.keep_newest(local, folder, 2)
        except OSError as error:
            raise StorageError(f"Cannot write to {folder!r}: {first_line(error)}") from None

    with _Interrupts() as stop:
        try:
            for epoch in training.run(stop):
                save()
                m = epoch.metrics
                print(
                    f"epoch {epoch.index + 1}/{recipe.optim.epochs}  loss {m['train_loss']:.4f}  "
                    f"validation error {m['clean_error']:.2%}, corrupted {m['corrupted_error']:.2%}  "
                    f"{m['images_per_second']:.0f} images/s",
                    flush=True,
                )
                if stop():  # in validation
                    raise Preempted("Training stopped")
        except Preempted:
            if training.progress:
                save()
            where = f"epoch {training.epoch}" + (f" and {training.progress.step} steps" if training.progress else "")
            print(f"\nstopped after {where}; the same command goes on from there", file=sys.stderr)
            return 128 + stop.signum
    metrics, _ = training.final()
    result = {
        "recipe": recipe.to_dict(),
        "metrics": metrics,
        "provenance": {
            "fingerprint": prepared.fingerprint,
            "verified": prepared.verified,
            "device": device.type,
            "threads": torch.get_num_threads(),
            "torch": str(torch.__version__),
        },
    }
    (out / "metrics.json").write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print("\n".join(f"{name:22} {value:.6g}" for name, value in metrics.items()))
    known = origin.get("metrics")
    if known:
        gap = max(abs(metrics[name] - value) for name, value in known.items() if name in metrics)
        print("equal to the sweep's trial" if gap == 0 else f"largest difference to the sweep's trial: {gap:.3g}")
    return 0


class _Interrupts:
    """Ctrl-C and SIGTERM, heard between two steps; a second one interrupts at once.

    Attributes:
        signum: the signal that came, or 0.
    """

    def __init__(self) -> None:
        self.signum = 0

    def __enter__(self) -> _Interrupts:
        self._before = [(s, signal.signal(s, self._hear)) for s in (signal.SIGINT, signal.SIGTERM)]
        return self

    def __exit__(self, *_: object) -> None:
        for signum, handler in self._before:
            signal.signal(signum, handler)

    def __call__(self) -> bool:
        return self.signum > 0

    def _hear(self, signum: int, frame: FrameType | None) -> None:
        if self.signum:
            raise KeyboardInterrupt
        self.signum = signum


def _origin(path: str) -> dict[str, Any]:
    """What a report's best_recipe.json says beside the recipe; empty for a plain recipe."""
    if path.endswith((".yaml", ".yml")):
        return {}
    tree = json.loads(Path(path).read_text(encoding="utf-8"))
    return tree if isinstance(tree, dict) and "recipe" in tree else {}


if __name__ == "__main__":
    sys.exit(main())
