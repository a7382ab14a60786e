"""Soft augmentations of whole batches against a per-image form, on one CPU thread.

uv run python benchmarks/soft.py [--batch 512] [--side 32] [--rounds 7]
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torchvision.transforms import v2

from benchmarks.augment import arguments, both_forms, pictures
from mollify_core.augment import augment
from mollify_core.augment.names import SOFT


def soft_crop(image: Tensor) -> tuple[Tensor, float]:
    channels, height, width = image.shape
    background = torch.zeros(channels, 3 * height, 3 * width)
    background[:, height : 2 * height, width : 2 * width] = image
    offsets = []
    for side in (height, width):
        draw = torch.randn(1) * 0.3 * side
        while abs(draw) > side:
            draw = torch.randn(1) * 0.3 * side
        offsets.append(int(draw))
    y, x = offsets
    visible = (height - abs(y)) * (width - abs(x)) / (height * width)
    return background[:, height + y : 2 * height + y, width + x : 2 * width + x], 1 - 0.9 * (1 - visible) ** 2


_ERASE = v2.RandomErasing(p=0.3, scale=(0.02, 0.33), ratio=(0.3, 3.3), value="random")


def soft_erasing(image: Tensor) -> tuple[Tensor, float]:
    erased = _ERASE(image)
    return erased, 1 - 0.9 * float((erased != image).any(0).float().mean())


def soft_noise(image: Tensor) -> tuple[Tensor, float]:
    _, height, width = image.shape
    deviation = float(torch.rand(1))
    window = int(0.8 * height)
    top, left = (int(torch.randint(0, side + 1 - window % 2, (1,))) - window // 2 for side in (height, width))
    mask = torch.zeros(height, width, dtype=torch.bool)
    mask[max(0, top) : top + window, max(0, left) : left + window] = True
    noisy = (image + torch.normal(0.0, deviation, image.shape)).clamp(0, 1)
    return torch.where(mask, noisy, image), 1 - 0.7 * (float(mask.float().mean()) * deviation) ** 2


_TRIVIAL = v2.TrivialAugmentWide()


def soft_trivialaugment(image: Tensor) -> tuple[Tensor, float]:
    return _TRIVIAL(image), 1 - 0.9 * math.sqrt(0.5)  # torchvision does not say the magnitude that it drew


FORMS: dict[str, Callable[[Tensor], tuple[Tensor, float]]] = {
    "soft-trivialaugment": soft_trivialaugment,
    "soft-crop": soft_crop,
    "soft-erasing": soft_erasing,
    "soft-noise": soft_noise,
}


def main() -> None:
    args = arguments(__doc__)
    images = pictures(args.batch, args.side)
    floats = images.float() / 255
    for name in SOFT:
        generator = torch.Generator().manual_seed(0)
        source = images if name == "soft-trivialaugment" else floats

        def by_image(form: Callable[[Tensor], tuple[Tensor, float]] = FORMS[name], batch: Tensor = source) -> object:
            done = [form(image) for image in batch]
            return torch.stack([image for image, _ in done]), torch.tensor([kept for _, kept in done])

        def ours(name: str = name, generator: torch.Generator = generator) -> object:
            return augment(images, [name], generator, None, 10)

        print(f"{name:20} {both_forms(ours, by_image, args.rounds)}", flush=True)


if __name__ == "__main__":
    main()
