"""Linear maps of images as sparse matrices over pixels: convolutions with any border, resampling, box filters.

A batch is laid out with its pixels as rows and its planes, image by image and channel by channel, as columns. A sparse
matrix then costs one multiply-add for each of its entries and each plane, all of them along contiguous memory, and
gives every plane the same result whatever else is in the batch.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import scipy.sparse
import torch
from torch import Tensor

MARGIN = 2e-4
"""Levels of 255 added before truncation: above float32's error, so that an even surface keeps its value."""

Matrices = Sequence[scipy.sparse.csr_array]


def quantise(values: Tensor, add: float = MARGIN) -> Tensor:
    """Whole levels of float `values` (any shape, overwritten): plus `add`, clipped to [0, 255], truncated to uint8."""
    return values.add_(add).clamp_(0, 255).to(torch.uint8)


def to_columns(planes: Tensor, dtype: torch.dtype = torch.float32) -> np.ndarray:
    """(..., height, width) numbers -> (height * width, planes) of floating `dtype`."""
    columns = planes.reshape(-1, planes.shape[-2] * planes.shape[-1]).T.contiguous()
    return columns.to(dtype).numpy()  # in this order: uint8 is the cheapest to transpose


def from_columns(columns: np.ndarray | Tensor, shape: Sequence[int]) -> Tensor:
    """(height * width, planes) -> a contiguous tensor of `shape` (..., height, width); undoes `to_columns`."""
    return torch.as_tensor(columns).T.contiguous().view(*shape)


def apply(matrices: Matrices, columns: np.ndarray) -> np.ndarray:
    """The product with each matrix in turn, the first one first."""
    for matrix in matrices:
        columns = matrix @ columns
    return columns


def filter_images(matrices: Matrices, images: Tensor) -> Tensor:
    """Applies float64 matrices to uint8 images (..., height, width), clips and truncates to whole levels."""
    columns = apply(matrices, to_columns(images, torch.float64))
    return from_columns(quantise(torch.from_numpy(columns), 1e-6), images.shape)


def separable(
    rows: np.ndarray, columns: np.ndarray, dtype: type[np.floating] = np.float64
) -> tuple[scipy.sparse.csr_array, scipy.sparse.csr_array]:
    """The map x -> rows x columns^T of planes (height, width), as one matrix for the width and one for the height.

    Args:
        rows: (height, height).
        columns: (width, width).
        dtype: of the matrices, and of what they are to be applied to.
    """
    along = scipy.sparse.kron(scipy.sparse.eye_array(len(rows)), columns)
    down = scipy.sparse.kron(rows, scipy.sparse.eye_array(len(columns)))
    return _csr(along, dtype), _csr(down, dtype)


def convolution(kernel: np.ndarray, height: int, width: int) -> tuple[scipy.sparse.csr_array]:
    """Correlation with `kernel` (odd, odd) of planes mirrored at their outermost pixels (which are not repeated)."""
    radius_y, radius_x = kernel.shape[0] // 2, kernel.shape[1] // 2
    pixels = np.arange(height * width).reshape(height, width)
    mirrored = np.pad(pixels, ((radius_y, radius_y), (radius_x, radius_x)), mode="reflect")
    taps = np.argwhere(kernel != 0)
    sources = np.concatenate([mirrored[y : y + height, x : x + width].ravel() for y, x in taps])
    weights = np.repeat(kernel[kernel != 0], pixels.size)
    targets = np.tile(pixels.ravel(), len(taps))
    matrix = scipy.sparse.coo_array((weights, (targets, sources)), shape=(pixels.size, pixels.size))
    return (_csr(matrix, np.float64),)


def gaussian(side: int, sigma: float, *, truncate: float = 4.0, repeat_edge: bool = True) -> np.ndarray:
    """(side, side) float64 matrix that convolves a vector with a Gaussian, as SciPy's gaussian_filter1d does.

    Args:
        side: length of the vector.
        sigma: standard deviation in pixels; 0 is the identity.
        truncate: where the kernel ends, in sigmas; its radius is rounded to the nearest whole pixel.
        repeat_edge: true repeats the outermost pixel beyond the border (SciPy's "nearest"), false mirrors the vector,
            outermost pixels included ("reflect").
    """
    radius = int(truncate * sigma + 0.5)
    offsets = np.arange(-radius, radius + 1)
    kernel = np.exp(-0.5 * (offsets / (sigma or 1)) ** 2)
    at = np.arange(side)[:, None]
    if repeat_edge:
        source = np.clip(at + offsets, 0, side - 1)
    else:
        folded = (at + offsets) % (2 * side)
        source = np.minimum(folded, 2 * side - 1 - folded)
    matrix = np.zeros((side, side))
    np.add.at(matrix, (at, source), kernel / kernel.sum())
    return matrix


def zoom(side: int, factor: float) -> np.ndarray:
    """(side, side) float64 matrix that magnifies the middle of a vector by `factor` >= 1, interpolating linearly.

    The middle ceil(side / factor) pixels become round(factor * as many), end to end, of which the middle is kept.
    """
    crop = int(np.ceil(side / factor))
    length = round(crop * factor)
    position = (np.arange(side) + (length - side) // 2) * ((crop - 1) / max(length - 1, 1))
    weight = np.clip(1 - np.abs(position[:, None] - np.arange(crop)), 0, None)
    matrix = np.zeros((side, side))
    matrix[:, (side - crop) // 2 : (side - crop) // 2 + crop] = weight / weight.sum(1, keepdims=True)
    return matrix


def box(source: int, target: int) -> np.ndarray:
    """(target, source) float64 matrix that resamples as Pillow's box filter does: a mean over whole pixels."""
    scale = source / target
    centre = (np.arange(target)[:, None] + 0.5) * scale
    distance = (np.arange(source) + 0.5 - centre) / max(scale, 1)
    window = ((distance > -0.5) & (distance <= 0.5)).astype(np.float64)
    return window / window.sum(1, keepdims=True)


def _csr(matrix: scipy.sparse.sparray, dtype: type[np.floating]) -> scipy.sparse.csr_array:
    compact = scipy.sparse.csr_array(matrix, dtype=dtype)
    compact.sum_duplicates()
    compact.eliminate_zeros()
    return compact
