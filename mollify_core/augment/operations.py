"""The operations that the augmentation policies draw from, each a pure function of a uint8 batch.

`images` is (batch, channels, height, width) uint8 with 1 or 3 channels, `magnitude` (batch,) floating, one per row.
Results equal those of torchvision's `transforms.v2.functional` image by image.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch
from torch import Tensor

from mollify_core import compiled
from mollify_core.augment import affine


def brightness(images: Tensor, magnitude: Tensor) -> Tensor:
    """Multiplies by 1 + magnitude, magnitude in [-1, inf); -1 is black."""
    return _truncate(images.float().mul_(_per_row(1 + magnitude)))


def color(images: Tensor, magnitude: Tensor) -> Tensor:
    """Moves away from the grey image by the share `magnitude` in [-1, inf); -1 is grey. Grey images stay."""
    return images if images.shape[1] == 1 else _extrapolate(images, _grey(images), magnitude)


def contrast(images: Tensor, magnitude: Tensor) -> Tensor:
    """Moves away from the mean grey level by the share `magnitude` in [-1, inf); -1 is an even surface."""
    return _extrapolate(images, _grey(images).mean(dim=(1, 2, 3), keepdim=True), magnitude)


def sharpness(images: Tensor, magnitude: Tensor) -> Tensor:
    """Moves away from the smoothed image (3x3, centre 5/13, others 1/13) by `magnitude` in [-1, inf); borders stay."""
    result = images.float()
    inner = result[:, :, 1:-1, 1:-1]
    rows = result[:, :, :-2] + result[:, :, 1:-1] + result[:, :, 2:]
    smooth = (rows[..., :-2] + rows[..., 1:-1] + rows[..., 2:] + 4 * inner).div_(13).round_()
    inner.addcmul_(smooth.sub_(inner), _per_row(-magnitude))
    return _truncate(result)


def posterize(images: Tensor, magnitude: Tensor) -> Tensor:
    """Keeps the highest `magnitude` bits, a whole number in [0, 8]."""
    return images & (256 - torch.pow(2, 8 - magnitude.long())).to(torch.uint8)[:, None, None, None]


def solarize(images: Tensor, magnitude: Tensor) -> Tensor:
    """Inverts pixels of at least the share `magnitude` in [0, 1] of white."""
    return (images >= _per_row(255 * magnitude)).view(torch.uint8).neg().bitwise_xor_(images)  # -1 is all bits set


def autocontrast(images: Tensor) -> Tensor:
    """Stretches each channel to [0, 255]; an even channel stays."""
    low, high = (level.float() for level in (images.amin((2, 3), keepdim=True), images.amax((2, 3), keepdim=True)))
    even = low == high
    scale = torch.where(even, 1, (high - low) * (1 / 255))
    return _truncate(images.float().sub_(torch.where(even, 0, low)).div_(scale))


def equalize(images: Tensor) -> Tensor:
    """Equalises the histogram of each channel, as Pillow does; a channel of too few levels stays."""
    levels = images.flatten(2).long()
    histogram = levels.new_zeros(*images.shape[:2], 256)
    histogram.scatter_add_(2, levels, levels.new_ones(1).expand_as(levels))
    below = histogram.cumsum(2).sub_(histogram)
    brightest = histogram.gather(2, levels.amax(2, keepdim=True))
    step = (levels.shape[2] - brightest) // 255
    table = _truncate((below + step // 2) / step.clamp(min=1))
    table = torch.where(step > 0, table, torch.arange(256, dtype=torch.uint8, device=images.device))
    return table.gather(2, levels).view_as(images)


def invert(images: Tensor) -> Tensor:
    """The negative."""
    return ~images


GEOMETRIC = ("ShearX", "ShearY", "TranslateX", "TranslateY", "Rotate")
"""Operations that move pixels; rows of a batch that have different ones share one resampling."""
_TONAL: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "Brightness": brightness,
    "Color": color,
    "Contrast": contrast,
    "Sharpness": sharpness,
    "Identity": lambda images, _: images,
    "Posterize": posterize,
    "Solarize": solarize,
    "AutoContrast": lambda images, _: autocontrast(images),
    "Equalize": lambda images, _: equalize(images),
    "Invert": lambda images, _: invert(images),
}
OPERATIONS = (*GEOMETRIC, *_TONAL)
"""Operations by code; those from ShearX to Sharpness have magnitudes of either sign."""
CODE = {name: code for code, name in enumerate(OPERATIONS)}


def inverse_maps(operation: Tensor, magnitude: Tensor, height: int, width: int) -> Tensor:
    """(batch, 2, 3) inverse maps of the operations in `GEOMETRIC`, see `affine.inverse_map`.

    Args:
        operation: (batch,) codes.
        magnitude: (batch,) tangent of a shear, whole pixels of a translation to the right or downwards, degrees of a
            counter-clockwise rotation.
        height, width: image size in pixels.
    """
    shear_x, shear_y, shift_x, shift_y, angle = (
        torch.where(operation == CODE[name], magnitude, 0) for name in GEOMETRIC
    )
    return affine.inverse_map(angle, (shear_x, shear_y), (shift_x, shift_y), (height, width))


def apply_operations(
    images: Tensor,
    operation: Tensor,
    magnitude: Tensor,
    resample: Callable[[Tensor, Tensor], Tensor] = affine.nearest,
) -> Tensor:
    """Applies to each row of the batch its own operation with its own magnitude.

    Args:
        images: (batch, channels, height, width) uint8, 1 or 3 channels, on any device.
        operation: (batch,) int64 codes, see `OPERATIONS`, on the CPU: rows are grouped there, without waiting for
            the device.
        magnitude: (batch,) float64 on the CPU, ignored by operations that have none.
        resample: `affine.nearest` or `affine.bilinear`, for the geometric operations.
    """
    usual = images.shape[1] in (1, 3) and magnitude.dtype == torch.float64
    if usual and compilable(images, operation, magnitude) and _fuses():
        return _operate(images, operation, magnitude, resample)
    group = (operation - len(GEOMETRIC) + 1).clamp(min=0)  # 0 for all that are geometric
    order = group.argsort()
    counts = group.bincount(minlength=1 + len(_TONAL)).tolist()
    moved = order[: counts[0]]
    maps = inverse_maps(operation[moved], magnitude[moved], *images.shape[2:])
    maps, magnitude, back, order = (
        value.to(images.device, non_blocking=True) for value in (maps, magnitude[order], order.argsort(), order)
    )
    rows, strengths = images.index_select(0, order).split(counts), magnitude.split(counts)
    done = [resample(rows[0], maps)]
    for function, row, strength in zip(_TONAL.values(), rows[1:], strengths[1:], strict=True):
        if len(row):
            done.append(function(row, strength))
    return torch.cat(done).index_select(0, back)


def _operate(
    images: Tensor, operation: Tensor, magnitude: Tensor, resample: Callable[[Tensor, Tensor], Tensor]
) -> Tensor:
    """`apply_operations` by a kernel, which resamples itself only where the nearest neighbour is asked for."""
    from mollify_core.compiled import augment as kernel

    maps = inverse_maps(operation, magnitude, *images.shape[2:])
    if resample is affine.nearest:
        return kernel.operate(images, operation, magnitude, maps)
    geometric = operation < len(GEOMETRIC)
    result = kernel.operate(images, operation.where(~geometric, CODE["Identity"]), magnitude, maps)
    rows = geometric.nonzero().squeeze(1)
    return result.index_copy_(0, rows, resample(images[rows], maps[rows]))


def compilable(images: Tensor, *per_row: Tensor) -> bool:
    """Whether kernels may do this, see `mollify_core.compiled.takes`; float32 must hold sums over pixels exactly."""
    exact = 255 * images.shape[2] * images.shape[3] < 1 << 24
    return exact and images.dtype == torch.uint8 and compiled.takes(images, *per_row)


@functools.cache
def _fuses() -> bool:
    """Whether torch rounds a * b + c once on this processor, as the compiled operations do."""
    a = torch.full((67,), 1 + 2.0**-12)  # its square is 1 + 2^-11 + 2^-24, without the last bit as float32
    c = torch.full((67,), -1 - 2.0**-11)
    return bool((torch.addcmul(c, a, a) > 0).all() and (torch.add(c, a, alpha=1 + 2.0**-12) > 0).all())


def _per_row(values: Tensor) -> Tensor:
    """(batch,) -> (batch, 1, 1, 1) float32."""
    return values.float()[:, None, None, None]


def _truncate(values: Tensor) -> Tensor:
    return values.clamp_(0, 255).int().to(torch.uint8)  # by way of int32, which is faster than straight to uint8


def _extrapolate(images: Tensor, other: Tensor, magnitude: Tensor) -> Tensor:
    """(1 + magnitude) * images - magnitude * other."""
    return _truncate(images.float().mul_(_per_row(1 + magnitude)).addcmul_(other, _per_row(-magnitude)))


def _grey(images: Tensor) -> Tensor:
    """(batch, 1, height, width) float32 whole grey levels (ITU-R BT.601, truncated)."""
    if images.shape[1] == 1:
        return images.float()
    red, green, blue = images.unbind(1)
    return (0.2989 * red).add_(green, alpha=0.587).add_(blue, alpha=0.114).floor_()[:, None]
