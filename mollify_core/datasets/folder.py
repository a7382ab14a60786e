"""A folder of one's own as a data set: one folder of images per class, in train and test folders or undivided."""

from __future__ import annotations

from collections import defaultdict
from functools import partial
from pathlib import Path

import numpy as np

from mollify_core.datasets.download import Progress
from mollify_core.datasets.files import FolderFiles
from mollify_core.datasets.images import decode, is_image, reporting, scaled
from mollify_core.datasets.source import Arrays, Source
from mollify_core.datasets.specs import DatasetSpec, ImageFolder
from mollify_core.datasets.split import stratified_split
from mollify_core.errors import DataError

TEST_FRACTION = 0.2
_TEST_FOLDERS = ("test", "val")  # the first of them that is there
_FEW = 5_000  # training images, below which a tenth of them would measure too coarsely


def folder_spec(name: str, path: Path, side: int) -> DatasetSpec:
    """The data set in the folder `path`, its images scaled to `side` pixels; nothing is decoded yet.

    Classes are the names of the folders, sorted. Where there are folders train and test (or val), they are the
    splits; else a fifth of each class is for testing, the same in every run.

    Raises:
        DataError: there are fewer than two classes, or a class has too few images.
    """
    files, listed = _listed(path)
    names, train, _ = listed
    return DatasetSpec(
        name=name,
        classes=len(names),
        image_shape=(3, side, side),
        mean=(),
        std=(),
        augment=("flip", "crop"),
        validation_fraction=0.2 if len(train) < _FEW else 0.1,
        checksums={},
        source=ImageFolder(path, (files, listed)),
    )


def source(dataset: DatasetSpec, folder: ImageFolder) -> Source:
    """The images in a folder."""
    files, listed = folder.listed or _listed(folder.path)
    side = dataset.image_shape[-1]
    checksum = files.checksum([name for name, _ in (*listed[1], *listed[2])])
    return Source(
        str(folder.path.resolve()),
        {f"all at {side} pixels": checksum},
        partial(_parse, dataset.name, files, side, listed),
    )


_Listed = tuple[list[str], list[tuple[str, int]], list[tuple[str, int]]]


def _listed(path: Path) -> tuple[FolderFiles, _Listed]:
    files = FolderFiles(path)
    return files, _rows(files)


def _rows(files: FolderFiles) -> _Listed:
    """Class names; files and labels of train; of test."""
    where = str(files.path)
    divided = {name.split("/")[0] for name in files.names if name.count("/") > 1}
    tests = [folder for folder in _TEST_FOLDERS if folder in divided]
    if "train" not in divided:  # or it is a class of railway trains
        names, rows = _classes(files, "")
        labels = np.array([label for _, label in rows])
        train, test = ([rows[i] for i in part] for part in stratified_split(labels, TEST_FRACTION, 0, "folder"))
    elif tests:
        names, train = _classes(files, "train/")
        others, test = _classes(files, f"{tests[0]}/")
        different = sorted(set(names) ^ set(others))
        if different:
            raise DataError(
                f"Expected train and {tests[0]} in {where!r} to hold the same classes, but {different[0]!r} is in "
                f"{'train' if different[0] in names else tests[0]} only"
            )
    else:
        raise DataError(f"Expected a folder test or val beside train in {where!r}, but there is none")
    counts = np.bincount([label for _, label in train], minlength=len(names))
    if counts.min() < 2:  # one to fit and one to validate
        few = names[int(counts.argmin())]
        raise DataError(
            f"Expected at least two training images of each class, but class {few!r} in {where!r} has {counts.min()} "
            "(a fifth of an undivided class is for testing)"
        )
    return names, train, test


def _classes(files: FolderFiles, top: str) -> tuple[list[str], list[tuple[str, int]]]:
    """Class names, and the images below the folder `top`, class by class, with their labels."""
    where = str(files.path / top)
    found: dict[str, list[str]] = defaultdict(list)
    for name in files.names:
        folder, inside, _ = name.removeprefix(top).partition("/")
        if name.startswith(top) and inside and is_image(name):
            found[folder].append(name)
    folders = [p.name for p in Path(where).iterdir() if p.is_dir() and not p.name.startswith(".")]
    names = sorted(folders)
    if len(names) < 2:
        raise DataError(f"Expected {where!r} to hold two or more folders, one for each class, but got {len(names)}")
    for name in names:
        if not found[name]:
            raise DataError(f"Expected images in every class folder, but {name!r} in {where!r} has none")
    return names, [(file, label) for label, name in enumerate(names) for file in found[name]]


def _parse(
    name: str, files: FolderFiles, side: int, listed: _Listed, progress: Progress | None
) -> tuple[Arrays, list[str]]:
    names, train, test = listed
    arrays: Arrays = {}
    for split, rows in (("train", train), ("test", test)):
        with reporting(progress, f"{name}: {split}") as callback:
            images = decode(partial(_load, files, rows, side), len(rows), (3, side, side), callback)
        arrays[split] = images, np.array([label for _, label in rows], np.int64)
    return arrays, names


def _load(files: FolderFiles, rows: list[tuple[str, int]], side: int, row: int) -> np.ndarray:
    name = rows[row][0]
    return scaled(files.read(name), repr(str(files.path / name)), side)
