"""Flip, crop, rotation and the operations of the augmentation policies, image by image in the cache, on one thread.

Results equal those of `mollify_core.augment` bit for bit: the same float32 steps in the same order, multiplication and
addition fused where torch fuses them.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
import torch
from numba import types
from numba.extending import intrinsic
from torch import Tensor

from mollify_core.compiled import kernel

# The codes of `mollify_core.augment.operations`, written out: a compiled kernel would not notice a change there.
GEOMETRIC = 5  # below this
BRIGHTNESS, COLOR, CONTRAST, SHARPNESS, IDENTITY, POSTERIZE, SOLARIZE, AUTOCONTRAST, EQUALIZE, INVERT = range(5, 15)

_WORD = 4  # channels that travel together, one in each byte of a word
_ZERO, _HALF, _ONE, _WHITE = np.float32(0), np.float32(0.5), np.float32(1), np.float32(255)


def move(images: Tensor, offset: Tensor, mirrored: Tensor, inverse: Tensor) -> Tensor:
    """Mirrors, crops and resamples each row in one pass, nearest neighbour, black outside.

    Args:
        images: (batch, channels, height, width) uint8 on the CPU.
        offset: (batch, 2) int64 top and left of the crop, negative outside the image.
        mirrored: (batch,) bool, rows that are mirrored left to right before the crop.
        inverse: (batch, 2, 3) float64 inverse maps of what follows the crop, see `affine.inverse_map`.
    """
    out = torch.empty(images.shape, dtype=torch.uint8)
    arrays = (t.contiguous().numpy() for t in (images.flatten(2), out.flatten(2), offset, mirrored, inverse))
    _move(images.shape[3], *arrays)
    return out


def operate(images: Tensor, operation: Tensor, magnitude: Tensor, inverse: Tensor) -> Tensor:
    """Applies to each row of the batch its own operation with its own magnitude.

    Args:
        images: (batch, channels, height, width) uint8 on the CPU, 1 or 3 channels.
        operation: (batch,) int64 codes, see `operations.OPERATIONS`.
        magnitude: (batch,) float64.
        inverse: (batch, 2, 3) float64 inverse maps of the geometric operations, see `operations.inverse_maps`.
    """
    out = images.clone(memory_format=torch.contiguous_format)
    arrays = (t.contiguous().numpy() for t in (out.flatten(2), operation, magnitude, inverse))
    _operate(images.shape[3], *arrays)
    return out


def _emit_fma(typing, a, b, c):
    """a * b + c, rounded once."""
    signature = types.float32(types.float32, types.float32, types.float32)
    return signature, lambda context, builder, signature, arguments: builder.fma(*arguments)


_fma: Any = intrinsic(_emit_fma)


@numba.njit
def _truncate(value):
    return np.uint8(np.int32(min(max(value, _ZERO), _WHITE)))


@numba.njit
def _centred(pixels, width):
    """x and y of every pixel, from the centre of the image."""
    x, y = np.empty(pixels, np.float32), np.empty(pixels, np.float32)
    for p in range(pixels):
        x[p], y[p] = p % width - (width - 1) / 2, p // width - (pixels // width - 1) / 2
    return x, y


@numba.njit
def _locate(inverse, x, y, width, top, left, mirrored, index):
    """Sets `index` to the source of every output pixel, or to the number of pixels where there is none.

    Conditions are on floats, which vectorises and keeps NaN outside.
    """
    pixels = len(index)
    w, h = np.float32(width), np.float32(pixels // width)
    across, down = w * _HALF, h * _HALF
    a, b, c = np.float32(inverse[0, 0]) / across, np.float32(inverse[0, 1]) / across, np.float32(inverse[0, 2]) / across
    d, e, f = np.float32(inverse[1, 0]) / down, np.float32(inverse[1, 1]) / down, np.float32(inverse[1, 2]) / down
    first, step = (w - _ONE - np.float32(left), -_ONE) if mirrored else (np.float32(left), _ONE)
    above, outside = np.float32(top), np.float32(pixels)
    for p in range(pixels):
        u = np.rint((a * x[p] + b * y[p] + c + _ONE) * across - _HALF)
        v = np.rint((d * x[p] + e * y[p] + f + _ONE) * down - _HALF)
        column, row = first + step * u, above + v
        cropped = (u >= _ZERO) & (u < w) & (v >= _ZERO) & (v < h)
        inside = cropped & (column >= _ZERO) & (column < w) & (row >= _ZERO) & (row < h)
        index[p] = np.int32(row * w + column if inside else outside)


@numba.njit
def _gather(source, index, words, moved, out):
    """Takes the pixels at `index`, black for the one past the last; `source` and `out` may be the same."""
    channels, pixels = source.shape
    for first in range(0, channels, _WORD):
        last = min(first + _WORD, channels)
        for p in range(pixels):
            words[p] = source[first, p]
        for c in range(first + 1, last):
            shift = np.uint32(8 * (c - first))
            plane = source[c]
            for p in range(pixels):
                words[p] |= np.uint32(plane[p]) << shift
        for p in range(pixels):
            moved[p] = words[index[p]]
        for c in range(first, last):
            shift = np.uint32(8 * (c - first))
            plane = out[c]
            for p in range(pixels):
                plane[p] = moved[p] >> shift


@numba.njit
def _grey(image, grey):
    for p in range(len(grey)):
        if len(image) == 1:
            grey[p] = image[0, p]
            continue
        red, green, blue = np.float32(image[0, p]), np.float32(image[1, p]), np.float32(image[2, p])
        share = _fma(green, np.float32(0.587), red * np.float32(0.2989))
        grey[p] = np.floor(_fma(blue, np.float32(0.114), share))


@numba.njit
def _sharpen(plane, width, away, rows):
    before = plane.copy()
    above, centre, below = before[: -2 * width], before[width:-width], before[2 * width :]
    for p in range(len(centre)):
        rows[p] = np.int32(above[p]) + np.int32(centre[p]) + np.int32(below[p])
    left, middle, right = rows[:-2], rows[1:-1], rows[2:]
    centre, out = centre[1:-1], plane[width + 1 :]
    for p in range(len(centre)):
        value = np.float32(centre[p])
        smooth = np.rint(np.float32(left[p] + middle[p] + right[p] + 4 * np.int32(centre[p])) / np.float32(13))
        out[p] = _truncate(_fma(smooth - value, away, value))
    for p in range(0, len(plane), width):  # the loop above ran over the borders
        plane[p], plane[p + width - 1] = before[p], before[p + width - 1]


@numba.njit
def _stretch(plane):
    darkest, brightest = plane[0], plane[0]
    for p in range(len(plane)):
        darkest, brightest = min(darkest, plane[p]), max(brightest, plane[p])
    if darkest < brightest:
        low = np.float32(darkest)
        scale = (np.float32(brightest) - low) * np.float32(1 / 255)
        for p in range(len(plane)):
            plane[p] = _truncate((np.float32(plane[p]) - low) / scale)


@numba.njit
def _equalize(plane):
    counts, below, table = np.zeros(256, np.int32), np.empty(256, np.int32), np.empty(256, np.uint8)
    for p in range(len(plane)):
        counts[plane[p]] += 1
    total = brightest = 0
    for level in range(256):
        below[level] = total
        total += counts[level]
        if counts[level]:
            brightest = counts[level]
    step = np.int32((len(plane) - brightest) // 255)
    if step > 0:
        half = step // np.int32(2)
        for level in range(256):
            table[level] = _truncate(np.float32(below[level] + half) / np.float32(step))
        for p in range(len(plane)):
            plane[p] = table[plane[p]]


@numba.njit
def _tone(image, width, operation, magnitude, grey, rows):
    """One operation that moves no pixel, in place."""
    channels, pixels = image.shape
    keep, away = np.float32(1 + magnitude), np.float32(-magnitude)
    threshold = np.float32(255 * magnitude)
    mask = np.uint8(256 - (1 << (8 - int(magnitude)))) if operation == POSTERIZE else np.uint8(0)
    if operation in (COLOR, CONTRAST):
        _grey(image, grey)
    if operation == CONTRAST:
        total = 0
        for p in range(pixels):
            total += int(grey[p])
        for p in range(pixels):
            grey[p] = np.float32(total) / np.float32(pixels)
    for c in range(channels):
        plane = image[c]
        if operation == BRIGHTNESS:
            for p in range(pixels):
                plane[p] = _truncate(np.float32(plane[p]) * keep)
        elif operation == CONTRAST or (operation == COLOR and channels == 3):
            for p in range(pixels):
                plane[p] = _truncate(_fma(grey[p], away, np.float32(plane[p]) * keep))
        elif operation == SHARPNESS and min(width, pixels // width) > 2:
            _sharpen(plane, width, away, rows)
        elif operation == POSTERIZE:
            for p in range(pixels):
                plane[p] &= mask
        elif operation == SOLARIZE:
            for p in range(pixels):
                plane[p] = ~plane[p] if np.float32(plane[p]) >= threshold else plane[p]
        elif operation == AUTOCONTRAST:
            _stretch(plane)
        elif operation == EQUALIZE:
            _equalize(plane)
        elif operation == INVERT:
            for p in range(pixels):
                plane[p] = ~plane[p]


@kernel("void(int64, uint8[:,:,::1], uint8[:,:,::1], int64[:,::1], boolean[::1], float64[:,:,::1])")
def _move(width, images, out, offset, mirrored, inverse):
    batch, _, pixels = images.shape
    x, y = _centred(pixels, width)
    index, words, moved = np.empty(pixels, np.uint32), np.zeros(pixels + 1, np.uint32), np.empty(pixels, np.uint32)
    for n in range(batch):
        _locate(inverse[n], x, y, width, offset[n, 0], offset[n, 1], mirrored[n], index)
        _gather(images[n], index, words, moved, out[n])


@kernel("void(int64, uint8[:,:,::1], int64[::1], float64[::1], float64[:,:,::1])")
def _operate(width, images, operation, magnitude, inverse):
    batch, _, pixels = images.shape
    x, y = _centred(pixels, width)
    index, words, moved = np.empty(pixels, np.uint32), np.zeros(pixels + 1, np.uint32), np.empty(pixels, np.uint32)
    grey, rows = np.empty(pixels, np.float32), np.empty(pixels, np.int32)
    for n in range(batch):
        if operation[n] < GEOMETRIC:
            _locate(inverse[n], x, y, width, 0, 0, False, index)
            _gather(images[n], index, words, moved, images[n])
        else:
            _tone(images[n], width, operation[n], magnitude[n], grey, rows)
