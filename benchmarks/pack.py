"""Training throughput of several trials at once against one that has all cores: what `--pack auto` measures.

    uv run python benchmarks/pack.py

Interleaved rounds, medians. On a GPU the candidates share it; here they share the CPU's cores.
"""

from __future__ import annotations

import statistics

import torch

from mollify_core import granted
from mollify_core.datasets import prepare
from mollify_core.recipe import Recipe
from mollify_sweeps.plan import packing

ROUNDS = 5
CASES = [(network, batch) for network in ("resnet8", "resnet20") for batch in (8, 32, 128)]


def main() -> None:
    cores = granted.cores()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    prepared = prepare("digits")
    for network, batch in CASES:
        recipe = Recipe().with_(dataset="digits", network=network, batch_size=batch, augment=("crop",))
        sample = prepared.tensors("train").select(torch.arange(batch).numpy())
        candidates = {1: cores, cores: 1} if device == "cpu" else {1: 1, 2: 1, 4: 1}
        speeds: dict[int, list[float]] = {trials: [] for trials in candidates}
        for _ in range(ROUNDS):
            for trials, threads in candidates.items():
                found = packing.measure(recipe, sample, prepared.spec, trials, threads, device)
                speeds[trials].append(found.images_per_second)
        alone = statistics.median(speeds[1])
        for trials in list(candidates)[1:]:
            ratios = sorted(several / one for several, one in zip(speeds[trials], speeds[1], strict=True))
            print(
                f"{network}, batch {batch}: {trials} trials at once / one at a time with {candidates[1]} threads: "
                f"{statistics.median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f}); alone {alone:.0f} images/s"
            )


if __name__ == "__main__":
    main()
