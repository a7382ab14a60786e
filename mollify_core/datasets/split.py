"""Stratified splits and subsets: pure functions of the labels, a fraction, a seed and a fingerprint.

The order within a class is that of 64-bit keys from SHAKE-256, so that a split is the same for ever, on every
machine and with every version of NumPy, whose random streams may change.

Where images come in groups, a split takes groups whole: in the order of their keys, each that brings the shares of the
classes nearer to what is asked, again and again until none does.
"""

from __future__ import annotations

import functools
import hashlib
import itertools
import math
from collections.abc import Callable, Sequence

import numpy as np

from mollify_core.errors import ConfigError, DataError
from mollify_core.foreign import shown

_PASSES = 20  # over all groups; after a few nothing changes any more


def stratified_split(
    labels: np.ndarray,
    fraction: float,
    seed: int,
    fingerprint: str,
    groups: np.ndarray | None = None,
    *,
    leave: int = 1,
    names: Sequence[str] = (),
) -> tuple[np.ndarray, np.ndarray]:
    """Splits rows into fit and validation; of the n_c rows of each class, max(1, round(n_c * fraction)) validate.

    Args:
        labels: (n,) integer classes.
        fraction: share held out for validation, in (0, 1).
        seed: picks another split.
        fingerprint: of the data set, so that equal seeds split different data sets differently.
        groups: (n,) integers; rows of one stay together, and the shares are as near as groups allow.
        leave: groups with images of each class that stay to be fitted, at least.
        names: of the classes, for errors.

    Returns:
        (fit, validation): disjoint sorted int64 row numbers that together are 0..n-1.

    Raises:
        ConfigError: `fraction` is out of range.
        DataError: `labels` is not a vector of integers, or a class is in too few groups to be on both sides.
    """
    if not 0 < fraction < 1:
        raise ConfigError(f"Expected the validation fraction to be in (0, 1), but got {fraction!r}")
    stream = f"split/{seed}/{fingerprint}"
    if groups is None:
        chosen = _choose(labels, lambda n: max(1, round(n * fraction)), stream)
    else:
        chosen = _choose_groups(labels, groups, fraction, stream, 1, leave, names)
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


def judging_rows(
    labels: np.ndarray, fraction: float, seed: int, fingerprint: str, groups: np.ndarray | None = None
) -> np.ndarray:
    """Row numbers of the validation images that only judge: round(n_c * fraction) of the n_c rows of each class.

    They may be none of a class; but one row of each is left to choose by.

    Args:
        labels: (n,) integer classes of the validation images.
        fraction: share that judges, in [0, 1).
        seed: picks other rows.
        fingerprint: of the data set, so that equal seeds choose differently from different data sets.
        groups: (n,) integers; rows of one stay together, and the shares are as near as groups allow.

    Returns:
        Sorted int64 row numbers.

    Raises:
        ConfigError: `fraction` is out of range.
        DataError: `labels` is not a vector of integers, or fewer than two groups could judge.
    """
    if not 0 <= fraction < 1:
        raise ConfigError(f"Expected the judging fraction to be in [0, 1), but got {fraction!r}")
    stream = f"judging/{seed}/{fingerprint}"
    if groups is None or fraction == 0:
        return np.flatnonzero(_choose(labels, lambda n: min(n - 1, round(n * fraction)), stream))
    chosen = _choose_groups(labels, groups, fraction, stream, 0, 1)
    if len(np.unique(groups[chosen])) < 2:
        raise DataError(
            f"Expected two or more groups of validation images that only judge, but their {len(np.unique(groups))} "
            "groups are too few or too large; a judging_fraction of 0 lets all of them choose"
        )
    return np.flatnonzero(chosen)


def _choose(labels: np.ndarray, count: Callable[[int], int], stream: str) -> np.ndarray:
    """(n,) bool: `count` of the n_c rows of each class, those with the smallest keys."""
    labels = _vector(labels)
    keys = _keys(len(labels), stream)
    chosen = np.zeros(len(labels), bool)
    for label in np.unique(labels):
        rows = np.flatnonzero(labels == label)
        chosen[rows[np.argsort(keys[rows], kind="stable")[: count(len(rows))]]] = True
    return chosen


def _choose_groups(
    labels: np.ndarray,
    groups: np.ndarray,
    fraction: float,
    stream: str,
    least: int,
    leave: int,
    names: Sequence[str] = (),
) -> np.ndarray:
    """(n,) bool: the rows of some groups, which make the sum over classes of (taken - asked)**2 / rows small.

    Args:
        labels, groups: (n,) integers.
        fraction: of each class that is asked.
        stream: of the keys.
        least, leave: groups with each class that are taken, and left, at least.
        names: of the classes.
    """
    vectors = _vector(labels).astype(np.int64), np.asarray(groups).astype(np.int64)
    return _chosen(*(vector.tobytes() for vector in vectors), fraction, stream, least, leave, tuple(names))


@functools.lru_cache(maxsize=8)  # a plan, its trials' data and a report ask for the same
def _chosen(
    of_labels: bytes, of_groups: bytes, fraction: float, stream: str, least: int, leave: int, names: tuple[str, ...]
) -> np.ndarray:
    """As `_choose_groups` says, of int64 numbers as bytes."""
    classes, labels = np.unique(np.frombuffer(of_labels, np.int64), return_inverse=True)
    of_row = np.unique(np.frombuffer(of_groups, np.int64), return_inverse=True)[1]
    pairs, counts = np.unique(of_row * len(classes) + labels, return_counts=True)
    group, label = np.divmod(pairs, len(classes))
    starts = np.searchsorted(group, np.arange(of_row.max(initial=-1) + 2))
    parts = [(label[a:b], counts[a:b].astype(float)) for a, b in itertools.pairwise(starts)]
    rows, left = np.bincount(labels).astype(float), np.bincount(label)
    called = [names[label] if names else str(label) for label in classes]
    for short in np.flatnonzero(left < least + leave).tolist() if least else ():
        raise DataError(
            f"Expected every class in {least + leave} or more groups, none of which a split may divide, but the "
            f"{rows[short]:.0f} images of class {shown(called[short])} are in {left[short]}"
        )
    asked, taken = rows * fraction, np.zeros(len(classes))
    having, chosen = np.zeros(len(classes), int), np.zeros(len(parts), bool)

    def change(number: int, sign: int) -> float:
        """What taking a group, or putting it back, adds to the sum: rounded alike on every machine."""
        mine, size = parts[number]
        return math.fsum(size * (sign * 2 * (taken[mine] - asked[mine]) + size) / rows[mine])

    def turn(number: int, sign: int) -> None:
        mine, size = parts[number]
        taken[mine] += sign * size
        having[mine] += sign
        chosen[number] = sign > 0

    def settle() -> None:
        for _ in range(_PASSES):
            before = chosen.copy()
            for number in order:
                mine = parts[number][0]
                sign = -1 if chosen[number] else 1
                free = having[mine] > least if chosen[number] else left[mine] - having[mine] > leave
                if free.all() and change(number, sign) < -1e-9:
                    turn(number, sign)
            if np.array_equal(before, chosen):
                return

    order = np.argsort(_keys(len(parts), f"groups/{stream}"), kind="stable").tolist()
    settle()
    for missing in np.flatnonzero(having < least).tolist():
        free = [n for n in order if missing in parts[n][0] and (left - having > leave)[parts[n][0]].all()]
        if not free and having[missing] < least:
            raise DataError(
                f"Expected groups that a split can keep whole, but none with class {shown(called[missing])} can be "
                "held out: without it too few are left of some class"
            )
        if having[missing] < least:
            turn(min(free, key=lambda number: change(number, 1)), 1)
    settle()
    return chosen[of_row]


def _keys(count: int, stream: str) -> np.ndarray:
    return np.frombuffer(hashlib.shake_256(stream.encode()).digest(8 * count), "<u8")


def _vector(labels: np.ndarray) -> np.ndarray:
    labels = np.asarray(labels)
    if labels.ndim != 1 or not np.issubdtype(labels.dtype, np.integer):
        raise DataError(f"Expected labels to be a vector of integers, but got {labels.dtype} of shape {labels.shape}")
    return labels
