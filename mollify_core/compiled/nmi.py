"""The normalised mutual information of pairs of channels from counts of whole numbers, on one thread.

With f(c) = c log2 c, N pixels and the counts c of the cells of a histogram, N H = f(N) - sum f(c). The joint histogram
fits into the fastest cache, its f is summed up while it grows, and one pass over it yields both marginals and empties
it. f is in fixed point, so sums are exact, the same in any order, and zero entropy is zero.
"""

from __future__ import annotations

import functools

import numba
import numpy as np
import torch
from torch import Tensor

from mollify_core.compiled import kernel

_UNIT = 1 << 32  # f(N) stays below 2^63 up to 80 million pixels


def channel_nmi(
    x: Tensor, y: Tensor, bins: int, edges: tuple[float, ...], constants_match: bool, shuffle: Tensor | None
) -> Tensor:
    """NMI of each pair of channels, after that with the pixels of y shuffled.

    Args:
        x, y: (batch, channels, height, width) float32 on the CPU.
        bins: grey levels, 2 to 256.
        edges: where they begin, the five numbers of `mollify_core.matching.nmi.Edges`.
        constants_match: the NMI of two channels that fill the same single bin is 1, not 0.
        shuffle: (height * width,) int64 permutation of pixels, or None.

    Returns:
        (1 or 2, batch * channels) float32.
    """
    a, b = (z.flatten(2).flatten(0, 1).contiguous().numpy() for z in (x, y))
    rows, pixels = a.shape
    counts = np.zeros(bins * bins, np.uint16 if pixels < 1 << 16 else np.uint32)
    order = np.empty(0, np.int64) if shuffle is None else shuffle.numpy()
    nmi = np.empty((1 if shuffle is None else 2, rows), np.float32)
    _channel_nmi(a, b, bins, tuple(map(np.float32, edges)), constants_match, order, _c_log_c(pixels), counts, nmi)
    return torch.from_numpy(nmi)


@functools.lru_cache(maxsize=16)
def _c_log_c(pixels: int) -> np.ndarray:
    """(pixels + 1,) int64: c log2 c in units of 1 / _UNIT."""
    c = np.arange(pixels + 1.0)
    return np.rint(c * np.log2(np.maximum(c, 1)) * _UNIT).astype(np.int64)


@numba.njit
def _bin(scaled, top):
    if not scaled > 0:  # so that NaN is 0 too
        return np.uint16(0)
    return np.uint16(min(scaled, top))


@numba.njit
def _tally(cells, counts, gain):
    """Adds the cells of all pixels to the histogram; the sum of f over it."""
    total = 0
    for p in range(len(cells)):
        count = counts[cells[p]]
        total += gain[count]
        counts[cells[p]] = count + 1
    return total


@kernel(
    *(
        "void(float32[:,::1], float32[:,::1], int64, UniTuple(float32, 5), boolean, int64[::1], int64[::1], "
        f"{counts}[::1], float32[:,::1])"
        for counts in ("uint16", "uint32")
    )
)
def _channel_nmi(x, y, bins, edges, constants_match, shuffle, f, counts, nmi):
    rows, pixels = x.shape
    top, scale, grey, step, rounding = edges
    gain = f[1:] - f[:-1]
    cells, b = np.empty(pixels, np.uint16), np.empty(pixels, np.uint16)
    columns = np.empty(bins, np.uint32)
    for row in range(rows):
        for p in range(pixels):
            value, other = x[row, p], y[row, p]
            a = _bin(max(value * scale, np.floor((value + rounding) * grey) * step), top)
            b[p] = a if abs(value - other) < rounding else _bin(other * scale, top)
            cells[p] = a * bins + b[p]
        joint = _tally(cells, counts, gain)
        columns[:] = 0
        marginals = 0
        for i in range(bins):
            total = np.uint32(0)
            for j in range(bins):
                count = np.uint32(counts[i * bins + j])
                total += count
                columns[j] += count
                counts[i * bins + j] = 0
            marginals += f[total]
        for j in range(bins):
            marginals += f[columns[j]]
        single = 2 * f[pixels] - marginals
        same = constants_match and cells[0] == b[0] * (bins + 1)
        nmi[0, row] = 2 - 2 * (f[pixels] - joint) / single if single > 0 else same
        if len(nmi) == 2:  # shuffling keeps the marginals
            for p in range(pixels):
                cells[p] += b[shuffle[p]] - b[p]
            joint = _tally(cells, counts, gain)
            for p in range(pixels):
                counts[cells[p]] = 0
            nmi[1, row] = 2 - 2 * (f[pixels] - joint) / single if single > 0 else same
