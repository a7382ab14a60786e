"""Batched augmentation against torchvision's, which goes image by image, on one CPU thread.

    uv run python benchmarks/augment.py [--batch 512] [--side 32] [--rounds 7]

Found on one core of an AMD EPYC (AVX-512, shared with other work at a load of 5 to 15), torch 2.15, torchvision 0.29,
numba 0.68.1, CPU time, medians of 7 interleaved rounds with the range of their ratios, and memory kept by the allocator
as in the workers of a sweep (MALLOC_TRIM_THRESHOLD_ and MALLOC_MMAP_THRESHOLD_ of 2^30); "flip crop rotate" is the
paper's standard chain:

                                                          plain PyTorch                compiled
    batch 512, 32 px    flip crop                          1.4 ms, 17x (15 to 19)     0.6 ms,  35x (31 to 37)
                        flip crop rotate                   3.4 ms, 24x (22 to 26)     0.6 ms, 134x (125 to 144)
                        flip crop rotate trivialaugment    6.8 ms, 23x (21 to 25)     1.3 ms, 122x (114 to 132)
                        flip crop rotate randaugment       8.9 ms, 21x (19 to 23)     2.0 ms,  99x (85 to 110)
                        flip crop rotate autoaugment       8.9 ms, 18x (16 to 20)     2.1 ms,  75x (73 to 85)
                        flip crop rotate augmix             36 ms, 12x (12 to 14)      30 ms,  16x (14 to 19)
    batch 128, 32 px    flip crop rotate trivialaugment    2.3 ms, 16x (15 to 17)     0.4 ms,  79x (73 to 87)
    batch 256, 64 px    flip crop rotate trivialaugment     11 ms,  9x (8 to 10)      2.2 ms,  41x (39 to 50)

AugMix's bilinear sampling and mixture, and resized crops, have no compiled form.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.transforms import v2

from benchmarks.timing import compare
from mollify_core import compiled
from mollify_core.augment import augment

CHAINS = (
    "flip crop",
    "flip crop rotate",
    "flip crop rotate trivialaugment",
    "flip crop rotate randaugment",
    "flip crop rotate autoaugment",
    "flip crop rotate augmix",
    "resized_crop",
    "trivialaugment",
    "augmix",
)


def pictures(batch: int, side: int) -> Tensor:
    """(batch, 3, side, side) uint8 smooth images with a little noise."""
    coarse = torch.rand(batch, 3, 6, 6) * 300 - 20
    smooth = F.interpolate(coarse, (side, side), mode="bicubic")
    return (smooth + 6 * torch.randn_like(smooth)).clamp(0, 255).to(torch.uint8)


def one_by_one(transform: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
    return torch.stack([transform(image) for image in images])


def both_forms(ours: Callable[[], object], reference: Callable[[], object], rounds: int = 7) -> str:
    """The plain PyTorch form, then the compiled kernels, each interleaved with the same reference."""
    results = []
    for form, switch in (("plain", "0"), ("compiled", "1")):
        os.environ["MOLLIFY_COMPILED"] = switch
        results.append(f"{form}{compare(ours, reference, rounds)}")
    return "   ".join(results)


def arguments(description: str | None) -> argparse.Namespace:
    """What the command says, `batch`, `side` and `rounds`; the process has one thread then, and a seed."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=512)
    parser.add_argument("--side", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=7)
    torch.set_num_threads(1)
    torch.manual_seed(0)
    return parser.parse_args()


def main() -> None:
    args = arguments(__doc__)
    images = pictures(args.batch, args.side)
    generator = torch.Generator().manual_seed(0)
    theirs = {
        "flip": v2.RandomHorizontalFlip(),
        "crop": v2.RandomCrop(args.side, padding=4),
        "rotate": v2.RandomRotation(15),
        "resized_crop": v2.RandomResizedCrop(args.side),
        "trivialaugment": v2.TrivialAugmentWide(),
        "randaugment": v2.RandAugment(),
        "autoaugment": v2.AutoAugment(),
        "augmix": v2.AugMix(),
    }
    print(f"batch {args.batch}, {args.side} px, one CPU thread, torch {torch.__version__}, medians of {args.rounds}")
    print(f"compiled: {compiled.describe()}")
    for chain in CHAINS:
        names = chain.split()
        compose = v2.Compose([theirs[name] for name in names])
        sides = partial(augment, images, names, generator), partial(one_by_one, compose, images)
        print(f"{chain:32s}{both_forms(*sides, args.rounds)}")


if __name__ == "__main__":
    main()
