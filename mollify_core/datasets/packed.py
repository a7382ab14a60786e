"""Data sets packed into a few files in a folder: which of the files are of which split, and how classes are told."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from mollify_core.datasets.files import entries, quoted
from mollify_core.datasets.tree import TEST, TRAIN, VALIDATION, role
from mollify_core.errors import DataError
from mollify_core.foreign import shown

_DATA = "data"  # the one folder that may hold the files


def splits(path: Path, suffix: str) -> dict[str, list[str]]:
    """Split -> the files of a folder that hold it, by their names within it; nothing where it is not packed so.

    They lie in the folder itself or in its only folder `data`, named after their splits (train-00000.parquet,
    validation_3.tar), or in folders that are the splits. Where no name says a split, all are of train. Validation
    beside train alone is the test split, as of folders.

    Args:
        path: the folder.
        suffix: of such files, with its dot.

    Raises:
        DataError: it cannot be read, or only some of the names say splits.
    """
    found = [entry for entry in entries(path) if not entry.name.startswith(".")]
    folders = [entry.name for entry in found if entry.is_dir()]
    here = _of_suffix(path, suffix)
    if folders == [_DATA] and not here:
        return {s: [f"{_DATA}/{name}" for name in names] for s, names in splits(path / _DATA, suffix).items()}
    if folders and here:
        return {}  # folders of images, and something else beside them
    if here:
        named = {name: role(name.removesuffix(suffix).partition("-")[0]) for name in here}
    else:
        named = {
            f"{folder}/{name}": role(folder)
            for folder in folders
            if role(folder) and not any(entry.is_dir() for entry in entries(path / folder))
            for name in _of_suffix(path / folder, suffix)
        }
    if not named:
        return {}
    if not any(named.values()):
        return {TRAIN: list(named)}
    if not all(named.values()) or TRAIN not in named.values():
        other = next((name for name, split in named.items() if split is None), next(iter(named)))
        raise DataError(
            f"Expected every {suffix} file in {quoted(path)} to be named after its split, as train-00000{suffix} and "
            f"test-00000{suffix}, but got {quoted(other)}"
        )
    return tested(
        {split: [name for name, of in named.items() if of == split] for split in set(named.values()) if split}
    )


def tested(parts: dict[str, list[str]]) -> dict[str, list[str]]:
    """Splits of which validation beside train alone is the test split."""
    if VALIDATION in parts and TEST not in parts:
        parts = {TEST if split == VALIDATION else split: names for split, names in parts.items()}
    return {split: parts[split] for split in (TRAIN, VALIDATION, TEST) if split in parts}


def classed(
    path: Path, labels: Mapping[str, Sequence[int | str]], names: Sequence[str] = ()
) -> tuple[list[str], dict[str, list[int]]]:
    """Names of the classes, and split -> number of each image's class.

    Args:
        path: where they are from.
        labels: split -> of each image the number of its class, or its name.
        names: of the classes by number; where there are none, the classes are the labels that occur, sorted.

    Raises:
        DataError: some are numbers and some names, or a number is below 0.
    """
    known = {label for part in labels.values() for label in part}
    numbers = {label for label in known if isinstance(label, int)}
    if numbers and numbers != known:
        two = f"{shown(min(numbers))} and {shown(min(map(str, known - numbers)))}"
        raise DataError(f"Expected the labels in {quoted(path)} to be all numbers or all names, but got {two}")
    if names and numbers == known:
        return list(names), {split: [int(label) for label in part] for split, part in labels.items()}
    if numbers and min(numbers) < 0:
        raise DataError(f"Expected labels from 0 on in {quoted(path)}, but got {min(numbers)}")
    order = {label: number for number, label in enumerate([*sorted(numbers), *sorted(map(str, known - numbers))])}
    return list(map(str, order)), {split: [order[label] for label in part] for split, part in labels.items()}


def _of_suffix(folder: Path, suffix: str) -> list[str]:
    return [
        entry.name
        for entry in entries(folder)
        if entry.name.endswith(suffix) and not entry.name.startswith(".") and entry.is_file()
    ]
