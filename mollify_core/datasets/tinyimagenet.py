"""TinyImageNet's layout: class folders for training, one folder and a list of labels for validation.

Source: Stanford CS231n, tiny-imagenet-200.zip. A class's index is the place of its WordNet id in the sorted list of
wnids.txt, its name the first of its names in words.txt. The official validation images are the test split, in the
order of val_annotations.txt, since those of the official test set have no labels.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np

from mollify_core.datasets.download import Progress, file_md5
from mollify_core.datasets.files import Files, FolderFiles, ZipFiles
from mollify_core.datasets.images import decode, exact, is_image, reporting
from mollify_core.datasets.source import Arrays, Source
from mollify_core.datasets.specs import DatasetSpec, ImageArchive
from mollify_core.errors import DataError
from mollify_core.foreign import shown


def source(dataset: DatasetSpec, archive: ImageArchive, path: Path, where: str) -> Source:
    """The files in `path`: the .zip, a folder with it, the unpacked folder, or its parent.

    Raises:
        DataError: they are not there, or the archive is damaged.
    """
    files: Files
    if not path.exists():
        raise DataError(f"Expected the data folder to be an existing folder or archive, but got {str(path)!r}")
    zipped = path if path.is_file() else path / archive.filename
    if zipped.is_file():
        checksums = {archive.filename: _md5(zipped)}
        files = ZipFiles(zipped)
    else:
        inside = [p for p in (path, path / archive.folder) if (p / "wnids.txt").is_file()]
        if not inside:
            raise DataError(
                f"Expected {str(path)!r} to hold {archive.folder} or {archive.filename}, but it has neither"
            )
        files = FolderFiles(inside[0])
        checksums = {"unpacked": files.checksum(files.names)}
    return Source(where, checksums, partial(_parse, dataset, files))


def _md5(path: Path) -> str:
    try:
        return file_md5(path)
    except OSError as error:
        raise DataError(f"Cannot read {str(path)!r}: {error.strerror or error}") from None


def _parse(dataset: DatasetSpec, files: Files, progress: Progress | None) -> tuple[Arrays, list[str]]:
    where = str(files.path)
    lists = [name for name in files.names if name == "wnids.txt" or name.endswith("/wnids.txt")]
    if len(lists) != 1:
        raise DataError(f"Expected {where!r} to hold one wnids.txt, but got {len(lists)}")
    top = lists[0].removesuffix("wnids.txt")
    wnids = sorted(set(files.text(lists[0]).split()))
    if len(wnids) != dataset.classes:
        raise DataError(f"Expected wnids.txt in {where!r} to name {dataset.classes} classes, but got {len(wnids)}")
    label = {wnid: i for i, wnid in enumerate(wnids)}

    words = dict(line.partition("\t")[::2] for line in files.text(f"{top}words.txt").splitlines())
    unnamed = [wnid for wnid in wnids if wnid not in words]
    if unnamed:
        raise DataError(f"Expected words.txt in {where!r} to name every class, but {unnamed[0]} is missing")
    class_names = [words[wnid].split(",")[0].strip() for wnid in wnids]

    train = []  # sorted names: class by class, and sorted within a class
    for name in files.names:
        parts = name.removeprefix(top).split("/")
        if len(parts) == 4 and parts[0] == "train" and parts[2] == "images" and is_image(name) and parts[1] in label:
            train.append((name, label[parts[1]]))
    counts = np.bincount([c for _, c in train], minlength=len(wnids))
    if not counts.all():
        empty = wnids[int(counts.argmin())]
        raise DataError(f"Expected {where!r} to hold training images of every class, but {empty} has none")

    test = []
    for line in files.text(f"{top}val/val_annotations.txt").splitlines():
        name, _, rest = line.partition("\t")
        wnid = rest.split("\t")[0]
        if wnid not in label:
            raise DataError(
                f"Expected val_annotations.txt in {where!r} to name a class of wnids.txt, but got {shown(line)}"
            )
        test.append((f"{top}val/images/{name}", label[wnid]))
    if not test:
        raise DataError(f"Expected val_annotations.txt in {where!r} to list images, but it is empty")

    arrays: Arrays = {}
    for split, rows in (("train", train), ("test", test)):
        with reporting(progress, f"{dataset.name}: {split}") as callback:
            images = decode(partial(_load, files, rows, dataset.image_shape), len(rows), dataset.image_shape, callback)
        arrays[split] = images, np.array([c for _, c in rows], np.int64)
    return arrays, class_names


def _load(files: Files, rows: list[tuple[str, int]], image_shape: tuple[int, int, int], row: int) -> np.ndarray:
    name = rows[row][0]
    return exact(files.read(name), repr(name), image_shape)
