"""Stratified splits and subsets: pure functions of the labels, a fraction, a seed and a fingerprint.

The order within a class is that of 64-bit keys from SHAKE-256, so that a split is the same for ever, on every
machine and with every version of NumPy, whose random streams may change.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable

import numpy as np

from mollify_core.errors import ConfigError, DataError


def stratified_split(labels: np.ndarray, fraction: float, seed: int, fingerprint: str) -> tuple[np.ndarray, np.ndarray]:
    """Splits rows into fit and validation; of the n_c rows of each class, max(1, round(n_c * fraction)) validate.

    Args:
        labels: (n,) integer classes.
        fraction: share held out for validation, in (0, 1).
        seed: picks another split.
        fingerprint: of the data set, so that equal seeds split different data sets differently.

    Returns:
        (fit, validation): disjoint sorted int64 row numbers that together are 0..n-1.

    Raises:
        ConfigError: `fraction` is out of range.
        DataError: `labels` is not a vector of integers.
    """
    if not 0 < fraction < 1:
        raise ConfigError(f"Expected the validation fraction to be in (0, 1), but got {fraction!r}")
    chosen = _choose(labels, lambda n: max(1, round(n * fraction)), f"split/{seed}/{fingerprint}")
    return np.flatnonzero(~chosen), np.flatnonzero(chosen)


def stratified_subset(labels: np.ndarray, fraction: float, seed: int, fingerprint: str) -> np.ndarray:
    """Row numbers of a subset with max(1, round(n_c * fraction)) of the n_c rows of each class.

    Subsets are nested: with all else equal, a smaller fraction gives a subset of what a larger one gives.

    Args:
        labels: (n,) integer classes.
        fraction: share to keep, in (0, 1]; 1 keeps every row.
        seed: picks another subset.
        fingerprint: of the data set, so that equal seeds choose differently from different data sets.

    Returns:
        Sorted int64 row numbers.

    Raises:
        ConfigError: `fraction` is out of range.
        DataError: `labels` is not a vector of integers.
    """
    if not 0 < fraction <= 1:
        raise ConfigError(f"Expected the training fraction to be in (0, 1], but got {fraction!r}")
    return np.flatnonzero(_choose(labels, lambda n: max(1, round(n * fraction)), f"subset/{seed}/{fingerprint}"))


def judging_rows(labels: np.ndarray, fraction: float, seed: int, fingerprint: str) -> np.ndarray:
    """Row numbers of the validation images that only judge: round(n_c * fraction) of the n_c rows of each class.

    They may be none of a class; but one row of each is left to choose by.

    Args:
        labels: (n,) integer classes of the validation images.
        fraction: share that judges, in [0, 1).
        seed: picks other rows.
        fingerprint: of the data set, so that equal seeds choose differently from different data sets.

    Returns:
        Sorted int64 row numbers.

    Raises:
        ConfigError: `fraction` is out of range.
        DataError: `labels` is not a vector of integers.
    """
    if not 0 <= fraction < 1:
        raise ConfigError(f"Expected the judging fraction to be in [0, 1), but got {fraction!r}")
    return np.flatnonzero(_choose(labels, lambda n: min(n - 1, round(n * fraction)), f"judging/{seed}/{fingerprint}"))


def _choose(labels: np.ndarray, count: Callable[[int], int], stream: str) -> np.ndarray:
    """(n,) bool: `count` of the n_c rows of each class, those with the smallest keys."""
    labels = np.asarray(labels)
    if labels.ndim != 1 or not np.issubdtype(labels.dtype, np.integer):
        raise DataError(f"Expected labels to be a vector of integers, but got {labels.dtype} of shape {labels.shape}")
    keys = np.frombuffer(hashlib.shake_256(stream.encode()).digest(8 * len(labels)), "<u8")
    chosen = np.zeros(len(labels), bool)
    for label in np.unique(labels):
        rows = np.flatnonzero(labels == label)
        chosen[rows[np.argsort(keys[rows], kind="stable")[: count(len(rows))]]] = True
    return chosen
