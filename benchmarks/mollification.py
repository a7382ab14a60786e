"""What mollification costs: its share of a training step, on one thread (CPU) or on the GPU when there is one.

    uv run python benchmarks/mollification.py [--batch 128] [--rounds 7]

Each round times the mollification of a batch (roles, times, noise, blur) and a whole training step, one after the
other; the table shows the medians and the spread of the ratio.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch

from mollify_core import rng
from mollify_core.datasets import ImageSet
from mollify_core.measure.validation import ValidationSet
from mollify_core.mollification.degrade import mollify_
from mollify_core.mollification.schedule import draw
from mollify_core.recipe import Recipe
from mollify_core.training import Training
from mollify_core.training_data import TrainingData
from mollify_core.worker import Worker


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=7)
    args = parser.parse_args()
    torch.set_num_threads(1)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")

    def seconds(action: Callable[[], object], repeat: int) -> float:
        clock = time.perf_counter if device.type == "cuda" else time.process_time
        start = clock()
        for _ in range(repeat):
            action()
        if device.type == "cuda":
            torch.cuda.synchronize()
        return (clock() - start) / repeat

    print(f"batch {args.batch}, 32 px, {device}, torch {torch.__version__}, bf16 + channels_last")
    for network in ("resnet20", "presnet18"):
        recipe = Recipe().with_(network=network, batch_size=args.batch)
        g = rng.generator("benchmark")
        images = torch.randint(0, 256, (args.batch, 3, 32, 32), dtype=torch.uint8, generator=g).to(device)
        labels = torch.randint(0, 10, (args.batch,), generator=g).to(device)
        nothing = ValidationSet(images[None, :0], labels[:0], 0)
        spec = (10, (0.5,) * 3, (0.25,) * 3, "")
        training = Training(recipe, TrainingData(ImageSet(images, labels), nothing, *spec), Worker(device=device))
        shown = ImageSet(images, labels)
        x = torch.randn(args.batch, 3, 32, 32, device=device)
        noise = rng.generator("noise", device=device)

        def mollify(x: Any = x, recipe: Any = recipe, g: Any = g, noise: Any = noise) -> None:
            mollify_(x, draw(len(x), 32, recipe.mollify, g), noise)

        def step(training: Any = training, shown: Any = shown) -> None:
            training._step(0, shown, len(shown), 1.0)

        mollify()
        step()
        pairs = [(seconds(mollify, 20), seconds(step, 2)) for _ in range(args.rounds)]
        shares = [a / b for a, b in pairs]
        ours, whole = (statistics.median(p) for p in zip(*pairs, strict=True))
        print(
            f"{network:10} mollification {1e3 * ours:.3f} ms of a step of {1e3 * whole:.1f} ms: "
            f"{statistics.median(shares):.3%} ({min(shares):.3%} to {max(shares):.3%})"
        )


if __name__ == "__main__":
    main()
