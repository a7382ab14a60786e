"""Information matching against the plain way to write it: image by image, patch by patch, channel by channel.

    uv run python benchmarks/matching.py

"pipeline" goes from uint8 images to normalised, distorted ones and their labels. Found on one core of an AMD EPYC
(AVX-512, shared with other work, load 10 to 15), torch 2.15, torchvision 0.29, numba 0.68.1, CPU time, medians of
7 interleaved rounds with the range of their ratios, and memory kept by the allocator as in the workers of a sweep
(MALLOC_TRIM_THRESHOLD_ and MALLOC_MMAP_THRESHOLD_ of 2^30):

                          plain PyTorch                 compiled
    pipeline, batch 128   7.2 ms,  35x (32 to 39)      2.5 ms,   94x (72 to 105)
    diffusion, batch 128  1.8 ms,   3x (3 to 4)        as plain, nine tenths of it is the generator's
    blur, batch 128       1.8 ms, 100x (93 to 162)     as plain
    dropout, batch 128    0.3 ms,  24x (22 to 25)      as plain
    mosaic, batch 128     2.1 ms, 163x (149 to 179)    0.3 ms, 1084x (933 to 1207)
    NMI, batch 512       16.1 ms,  11x (9 to 12)       2.5 ms,   70x (64 to 71)
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
import torchvision.transforms.v2.functional as TF
from torch import Tensor

from benchmarks.augment import both_forms
from mollify_core import compiled
from mollify_core.matching.distortions import KINDS, Distortions, distort, distort_segments, draw
from mollify_core.matching.nmi import normalized_mutual_information
from mollify_core.matching.strength import coupled
from mollify_core.settings import Matching

MEAN = torch.tensor([0.5071, 0.4867, 0.4408]).view(3, 1, 1)
STD = torch.tensor([0.2675, 0.2565, 0.2761]).view(3, 1, 1)
ALPHA_BAR = torch.cumprod(1 - torch.linspace(1e-4, 0.02, 1000), 0)
CLASSES = 100


def diffusion(image: Tensor, d: float) -> Tensor:
    step = min(math.floor(999 * d), 999)
    if step == 0:
        return image
    noisy = ALPHA_BAR[step].sqrt() * (2 * image - 1) + (1 - ALPHA_BAR[step]).sqrt() * torch.randn_like(image)
    return ((noisy + 1) / 2).clamp(0, 1)


def blur(image: Tensor, d: float) -> Tensor:
    sigma = 50 * d + 0.01
    kernel = min(2 * math.floor(4 * sigma + 0.5) + 1, 51)
    return TF.gaussian_blur(image, [kernel, kernel], [sigma, sigma])


def dropout(image: Tensor, d: float, size: int = 8) -> Tensor:
    columns = image.shape[2] // size
    patches = image.shape[1] // size * columns
    out = torch.zeros_like(image)
    for patch in torch.randperm(patches)[: math.floor(patches * (1 - d))].tolist():
        top, left = patch // columns * size, patch % columns * size
        out[:, top : top + size, left : left + size] = image[:, top : top + size, left : left + size]
    return out


def mosaic(image: Tensor, d: float) -> Tensor:
    block = max(1, math.floor(max(image.shape[1:]) * (d + 0.001) ** 2))
    out = torch.empty_like(image)
    for top in range(0, image.shape[1], block):
        for left in range(0, image.shape[2], block):
            mean = image[:, top : top + block, left : left + block].mean((1, 2), keepdim=True)
            out[:, top : top + block, left : left + block] = mean
    return out


def nmi(x: Tensor, y: Tensor) -> Tensor:
    total = 0.0
    for a, b in zip(x, y, strict=True):
        joint = torch.bincount((a * 63).long().flatten() * 64 + (b * 63).long().flatten(), minlength=4096).float()
        p = joint.view(64, 64) / joint.sum()
        p1, p2 = p.sum(1), p.sum(0)
        h1, h2 = -(p1 * (p1 + 1e-10).log2()).sum(), -(p2 * (p2 + 1e-10).log2()).sum()
        mutual = (p * ((p + 1e-10) / (p1[:, None] * p2 + 1e-10)).log2()).sum()
        total += 2 * float(mutual) / float(h1 + h2) if h1 + h2 > 0 else 0.0
    return torch.tensor(total / len(x)).clamp(0, 1)


PLAIN: dict[str, Callable[[Tensor, float], Tensor]] = dict(zip(KINDS, (diffusion, blur, dropout, mosaic), strict=True))


def plain_pipeline(images: Tensor, labels: list[int], kinds: list[str], d: list[float]) -> tuple[Tensor, Tensor]:
    samples, targets = [], []
    for image, label, kind, strength in zip(images, labels, kinds, d, strict=True):
        clean = image.float() / 255
        distorted = PLAIN[kind](clean, strength)
        epsilon = (1 - nmi(clean, distorted)).clamp(0, 0.9)
        target = torch.full((CLASSES,), float(epsilon) / CLASSES)
        target[label] += 1 - epsilon
        samples.append((distorted - MEAN) / STD)
        targets.append(target)
    return torch.stack(samples), torch.stack(targets)


def pipeline(images: Tensor) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    drawn = draw(len(images), generator)
    x = images.float().div_(255)
    distorted = distort_segments(x, drawn, Distortions(), generator)
    strength = coupled(x, distorted, len(x), CLASSES, Matching())
    return distorted.sub_(MEAN).div_(STD), strength


def main() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    print(f"one CPU thread, torch {torch.__version__}, compiled: {compiled.describe()}")
    images = F.interpolate(torch.rand(512, 3, 8, 8), size=32, mode="bicubic").clamp(0, 1)
    images = (images + 0.02 * torch.randn_like(images)).clamp(0, 1).mul(255).byte()
    x, u = images.float() / 255, torch.rand(512)

    drawn = draw(128, torch.Generator().manual_seed(0))
    kinds = [kind for kind, count in zip(KINDS, drawn.counts, strict=True) for _ in range(count)]
    labels = torch.randint(CLASSES, (128,)).tolist()
    rows = images[:128]
    result = both_forms(lambda: pipeline(rows), lambda: plain_pipeline(rows, labels, kinds, drawn.d.tolist()))
    print(f"{'pipeline, batch 128':24}{result}")

    generator = torch.Generator().manual_seed(0)

    def one_by_one(kind: str) -> list[torch.Tensor]:
        return [PLAIN[kind](image, d) for image, d in zip(x[:128], u[:128].tolist(), strict=True)]

    for kind in KINDS:
        result = both_forms(
            functools.partial(distort, x[:128], kind, u[:128], Distortions(), generator),
            functools.partial(one_by_one, kind),
        )
        print(f"{kind + ', batch 128':24}{result}")

    y = distort(x, torch.arange(512) % 4, u, Distortions(), generator)
    result = both_forms(
        lambda: normalized_mutual_information(x, y), lambda: [nmi(a, b) for a, b in zip(x, y, strict=True)]
    )
    print(f"{'NMI, batch 512':24}{result}")


if __name__ == "__main__":
    main()
