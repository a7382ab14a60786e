"""Batched augmentation against torchvision's, which goes image by image, on one CPU thread.

    uv run python benchmarks/augment.py [--batch 512] [--side 32] [--rounds 7]

Found on one core of an AMD EPYC (AVX-512, shared with other work), torch 2.15, torchvision 0.29, CPU time, medians of
7 interleaved rounds with the range of their ratios; "flip crop rotate" is the paper's standard chain:

    batch 512, 32 px    flip crop rotate                      4.6 ms against  99 ms: 23x (13 to 27)
                        flip crop rotate trivialaugment       7.1 ms against 169 ms: 24x (22 to 29)
                        flip crop rotate augmix              52.7 ms against 383 ms:  7x (7 to 8)
    batch 128, 32 px    flip crop rotate trivialaugment       2.0 ms against  32 ms: 16x (13 to 16)
    batch 256, 64 px    flip crop rotate trivialaugment      10.6 ms against  87 ms:  8x (8 to 10)
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.transforms import v2

from benchmarks.timing import compare
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=512)
    parser.add_argument("--side", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=7)
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
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
    for chain in CHAINS:
        names = chain.split()
        compose = v2.Compose([theirs[name] for name in names])
        result = compare(partial(augment, images, names, generator), partial(one_by_one, compose, images), args.rounds)
        print(f"{chain:32s}{result}")


if __name__ == "__main__":
    main()
