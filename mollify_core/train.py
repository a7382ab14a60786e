"""`python -m mollify_core.train best_recipe.json`: trains one recipe alone, in plain PyTorch.

On one CPU with the same number of threads it gives the very numbers that a sweep's trial gave, also where memory ended
and the trial went on with batches in parts; as a trial's, they are of the validation images that choose.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
import signal
import sys
from pathlib import Path
from types import FrameType

import torch
from pyarrow import fs

from mollify_core import checkpoint
from mollify_core.classifier import keep_weights
from mollify_core.datasets.options import DataOptions, add_data_options, add_network_code, data_options
from mollify_core.datasets.specs import FEEDS
from mollify_core.errors import ConfigError, DataError, NonFiniteLossError, Preempted, StorageError, first_line
from mollify_core.networks import own
from mollify_core.program import Parser, guarded
from mollify_core.recipe import MOST_THREADS, Recipe
from mollify_core.steps import Parts
from mollify_core.training import Training
from mollify_core.training_data import training_data
from mollify_core.worker import Worker


def main(argv: list[str] | None = None) -> int:
    """Returns the exit code: 0 done, 1 the loss was not finite, 2 bad input, 130 Ctrl-C, 143 SIGTERM."""

    def act() -> int:
        args = parser().parse_args(argv)
        return train(
            args.recipe,
            data_options(args),
            out=args.out,
            device=args.device,
            threads=args.threads,
            final=args.final,
            network_code=args.network_code,
            weights=args.weights,
        )

    stopped = "\nstopped; the same command goes on after the last finished epoch"
    return guarded(act, broke=(NonFiniteLossError,), stopped=stopped)


def parser() -> Parser:
    """The parser; every option says what it does and its default."""
    p = Parser(
        prog="python -m mollify_core.train",
        description="Train one recipe alone, without Ray. The same command again goes on where it stopped.",
    )
    p.add_argument("recipe", metavar="RECIPE", help="a recipe (.json or .yaml), or a report's best_recipe.json")
    add_data_options(p)
    add_network_code(p)
    p.add_argument(
        "--weights",
        metavar="FILE",
        help="the weights from which the recipe starts, or `default` for its library's, where this machine does not "
        "have them yet",
    )
    p.add_argument(
        "--final",
        action="store_true",
        help="train on the validation images too, for use: nothing can be validated then",
    )
    p.add_argument(
        "--out", metavar="DIR", help="checkpoints and metrics.json (default: runs/train-<recipe hash>, or runs/final-…)"
    )
    p.add_argument("--device", choices=("cpu", "cuda"), help="default: cuda where there is one")
    p.add_argument("--threads", type=int, metavar="N", help="CPU threads (default: those of the sweep, else all)")
    return p


def train(
    path: str,
    data: DataOptions,
    *,
    out: str | None = None,
    device: str | None = None,
    threads: int | None = None,
    final: bool = False,
    network_code: str | None = None,
    weights: str | None = None,
) -> int:
    """Trains the recipe in a file; returns the exit code.

    Args:
        path: a recipe, or a report's best_recipe.json, which also says what the sweep's trial has measured.
        data: where its data set comes from.
        out: where checkpoints and metrics.json go.
        device: "cpu" or "cuda".
        threads: of the CPU.
        final: train on the validation images too, for use; nothing is validated.
        network_code: file or module of the recipe's network, where it is somebody's own that may now be run.
        weights: file of the weights from which it starts, or "default".

    Raises:
        MollifyError: something is wrong; one sentence.
    """
    recipe, origin = Recipe.beside(path)
    if threads is not None and not 1 <= threads <= MOST_THREADS:
        bound = "at least 1" if threads < 1 else f"at most {MOST_THREADS}"
        raise ConfigError(f"Expected --threads to be {bound}, but got {threads}")
    provenance = origin.get("provenance", {})
    threads = threads or provenance.get("threads")
    parts = Parts.read(provenance.get("accumulate", 1))  # into which a trial that ran out of memory cut its batches
    if threads:
        torch.set_num_threads(threads)
    if device == "cuda" and not torch.cuda.is_available():
        raise ConfigError("Expected a CUDA device for --device cuda, but there is none")
    where = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    if data.feed == "auto" and provenance.get("feed") in FEEDS:  # as the sweep's trial was fed
        data = dataclasses.replace(data, feed=provenance["feed"])
    prepared = data.prepare(recipe.data.dataset, recipe.data.image_size, recipe.data.background)
    expected = provenance.get("fingerprint")
    if expected not in (None, prepared.fingerprint):
        raise DataError(
            f"Expected the data set {expected} that the recipe was found on, but got {prepared.fingerprint}"
        )
    folder = Path(out or f"runs/{'final' if final else 'train'}-{recipe.hash}").resolve()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(f"Cannot write to {str(folder)!r}: {error.strerror}") from None
    if not os.access(folder, os.W_OK):
        raise StorageError(f"Cannot write to {str(folder)!r}")
    if not prepared.verified:
        print("UNVERIFIED DATA: not the official files")
    if network_code:
        own.admit(network_code)
    if weights:
        keep_weights(weights, recipe, prepared.spec.classes, prepared.spec.image_shape)
    local, kept = fs.LocalFileSystem(), str(folder / "checkpoints")
    state = checkpoint.load_newest(local, kept, lambda text: print(f"! {text}"))
    images = training_data(recipe, prepared, where, final=final)
    training = Training(recipe, images, Worker(device=where), state, parts)
    print(f"{recipe.model.network} on {recipe.data.dataset}, {where}, {torch.get_num_threads()} threads, to {folder}")
    if final:
        print(
            f"Fits all {len(images.fit)} images, those for validation too: nothing can be validated but on a test set"
        )

    def save() -> None:
        try:
            checkpoint.save(local, kept, training.state(verified=prepared.verified))
            checkpoint.keep_newest(local, kept, checkpoint.KEEP)
        except OSError as error:
            raise StorageError(f"Cannot write to {kept!r}: {first_line(error)}") from None

    with _Interrupts() as stop:
        try:
            for epoch in training.run(stop):
                save()
                m = epoch.metrics
                line = f"epoch {epoch.index + 1}/{recipe.optim.epochs}  loss {m['train_loss']:.4f}  "
                if not final:
                    line += f"validation error {m['clean_error']:.2%}, corrupted {m['corrupted_error']:.2%}  "
                print(f"{line}{m['images_per_second']:.0f} images/s", flush=True)
                if stop():  # in validation
                    raise Preempted("Training stopped")
        except Preempted:
            if training.progress:
                save()
            after = f"epoch {training.epoch}" + (f" and {training.progress.step} steps" if training.progress else "")
            print(f"\nstopped after {after}; the same command goes on from there", file=sys.stderr)
            return 128 + stop.signum
    metrics = {} if final else training.final()[0]
    result = {
        "recipe": recipe.to_dict(),
        "metrics": metrics,
        "provenance": {
            "final": final,
            "fingerprint": prepared.fingerprint,
            "verified": prepared.verified,
            "device": where.type,
            "threads": torch.get_num_threads(),
            "accumulate": parts.written,
            "feed": images.feed,
            "torch": str(torch.__version__),
        },
    }
    (folder / "metrics.json").write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    for name, value in metrics.items():
        print(f"{name:22} {value:.6g}")
    known = origin.get("metrics")
    if known and not final:
        gap = max((abs(metrics[name] - value) for name, value in known.items() if name in metrics), default=math.nan)
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


if __name__ == "__main__":
    sys.exit(main())
