"""torchvision's data sets of labelled images by their names there, read by torchvision's own classes.

Those that keep images as files only say which: the files are read here, as those of any folder are. None is here whose
files torchvision unpickles.
"""

from __future__ import annotations

import inspect
import io
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mollify_core.datasets import cache as disk
from mollify_core.datasets.files import Files, quoted, reason
from mollify_core.datasets.listing import Listed, Rows
from mollify_core.datasets.tree import TEST, TRAIN, VALIDATION, OwnFiles
from mollify_core.errors import DataError

_TWO: Mapping[str, Mapping[str, Any]] = {TRAIN: {"split": "train"}, TEST: {"split": "test"}}
_THREE = {**_TWO, VALIDATION: {"split": "val"}}
_IDX = {TRAIN: {"train": True}, TEST: {"train": False}}


@dataclass(frozen=True)
class _Set:
    """One of torchvision's data sets.

    Attributes:
        holds: what its folder holds, for whoever puts it there.
        splits: split -> the arguments of torchvision's class; of train alone a fifth is for testing.
        mirrored: whether a mirrored image is still one of its class.
        paths: its attribute with paths of images where its class takes no loader; with labels where `labels` is empty.
        labels: its attribute with their labels.
    """

    holds: str
    splits: Mapping[str, Mapping[str, Any]]
    mirrored: bool = True
    paths: str = ""
    labels: str = ""


_RAW = "raw/ with the four unpacked idx-ubyte files"
SETS = {
    "Country211": _Set("country211/ with train/, valid/ and test/", {**_TWO, VALIDATION: {"split": "valid"}}),
    "DTD": _Set("dtd/dtd/ with images/ and labels/", _THREE),
    "EuroSAT": _Set("eurosat/2750/ with a folder for each class", {TRAIN: {}}),
    "FGVCAircraft": _Set("fgvc-aircraft-2013b/data/ with images/ and its .txt files", _THREE),
    "FashionMNIST": _Set(f"FashionMNIST/{_RAW}", _IDX),
    "Flowers102": _Set("flowers-102/ with jpg/, imagelabels.mat and setid.mat", _THREE),
    "Food101": _Set("food-101/ with images/ and meta/", _TWO),
    "GTSRB": _Set(
        "gtsrb/ with GTSRB/Training/, GTSRB/Final_Test/Images/ and GT-final_test.csv", _TWO, False, "_samples"
    ),
    "Imagenette": _Set("imagenette2/ with train/ and val/", {TRAIN: {"split": "train"}, TEST: {"split": "val"}}),
    "KMNIST": _Set(f"KMNIST/{_RAW}", _IDX, False),
    "MNIST": _Set(f"MNIST/{_RAW}", _IDX, False),
    "OxfordIIITPet": _Set(
        "oxford-iiit-pet/ with images/ and annotations/",
        {TRAIN: {"split": "trainval"}, TEST: {"split": "test"}},
        paths="_images",
        labels="_labels",
    ),
    "RenderedSST2": _Set("rendered-sst2/ with train/, valid/ and test/", _THREE, False),
    "STL10": _Set("stl10_binary/ with its .bin files and class_names.txt", _TWO),
    "SUN397": _Set("SUN397/ with ClassName.txt and its folders", {TRAIN: {}}),
    "SVHN": _Set("train_32x32.mat and test_32x32.mat", _TWO, False),
    "StanfordCars": _Set(
        "stanford_cars/ with cars_train/, cars_test/, devkit/ and cars_test_annos_withlabels.mat", _TWO
    ),
    "USPS": _Set("usps.bz2 and usps.t.bz2", _IDX, False),
}
"""Name in torchvision -> what is to be known of it."""


def listed(name: str, data_dir: Path | None, cache: Path) -> Listed:
    """What one of `SETS` holds.

    Args:
        name: a key of `SETS`.
        data_dir: holds its files as torchvision lays them out; nothing is written there. None downloads them once.
        cache: where they are downloaded to.

    Raises:
        DataError: its files are not there, cannot be downloaded, or are damaged; the sentence says what belongs where.
        StorageError: the cache cannot be written.
    """
    root = cache / "torchvision" / name if data_dir is None else data_dir
    try:
        parts = _built(name, root)
    except DataError:
        if data_dir is not None:
            raise
        with disk.storage(root.parent), disk.locked(root.with_name(f".{name}.lock")):
            try:  # another process may have been first
                parts = _built(name, root)
            except DataError:
                with disk.draft(root) as draft:
                    _built(name, draft, download=True)
                parts = _built(name, root)
    return _of_files(name, root, parts) if _has_files(name) else _of_arrays(name, root, parts)


def _built(name: str, root: Path, download: bool = False) -> dict[str, Any]:
    """Split -> torchvision's data set."""
    import torchvision

    make = getattr(torchvision.datasets, name)
    options: dict[str, Any] = {"loader": str} if _takes_loader(name) else {}  # a path is all that is wanted
    if download:
        options["download"] = True
    try:
        return {split: make(str(root), **words, **options) for split, words in SETS[name].splits.items()}
    except Exception as error:  # as many kinds as there are damaged files
        why = reason(error).partition(" You can use")[0].rstrip(".")
        if download:
            raise DataError(
                f"Cannot download torchvision's {name} ({why}); put its files into a folder, which then holds "
                f"{SETS[name].holds}, and name that by --data-dir"
            ) from None
        raise DataError(
            f"Cannot read torchvision's {name} from {quoted(root)}, which should hold {SETS[name].holds}: {why}"
        ) from None


def _takes_loader(name: str) -> bool:
    import torchvision

    return "loader" in inspect.signature(getattr(torchvision.datasets, name)).parameters


def _has_files(name: str) -> bool:
    return _takes_loader(name) or bool(SETS[name].paths)


def _of_files(name: str, root: Path, parts: Mapping[str, Any]) -> Listed:
    rows = {split: sorted(_rows(name, root, part)) for split, part in parts.items()}
    files = OwnFiles(root, [file for part in rows.values() for file, _ in part])
    return Listed(files, _classes(name, parts, rows), rows, form=_form(name))


def _rows(name: str, root: Path, part: Any) -> Rows:
    known = SETS[name]
    try:
        if not known.paths:
            pairs = [part[row] for row in range(len(part))]
        elif known.labels:
            pairs = list(zip(getattr(part, known.paths), getattr(part, known.labels), strict=True))
        else:
            pairs = getattr(part, known.paths)
        return [(_below(root, path), int(label)) for path, label in pairs]
    except DataError:
        raise
    except Exception as error:  # an index that names what is not there, or another version of torchvision
        raise DataError(f"Cannot list torchvision's {name} in {quoted(root)}: {reason(error)}") from None


def _below(root: Path, path: str | Path) -> str:
    """A path by its name within a folder, which an index may not leave."""
    inside = Path(os.path.relpath(path, root))
    if inside.is_absolute() or ".." in inside.parts:
        raise DataError(f"Expected {quoted(root)} to name only files below itself, but got {quoted(path)}")
    return inside.as_posix()


def _of_arrays(name: str, root: Path, parts: Mapping[str, Any]) -> Listed:
    try:
        labels = {split: [int(label) for label in _targets(part)] for split, part in parts.items()}
        if any(len(labels[split]) != len(part) for split, part in parts.items()):
            raise ValueError("it does not have a label for each image")
    except Exception as error:
        raise DataError(f"Cannot list torchvision's {name} in {quoted(root)}: {reason(error)}") from None
    rows = {split: [(f"{split}/{row:06}", label) for row, label in enumerate(of)] for split, of in labels.items()}
    return Listed(_Arrays(root, parts), _classes(name, parts, rows), rows, form=_form(name))


def _targets(part: Any) -> Any:
    return part.targets if hasattr(part, "targets") else part.labels


class _Arrays(Files):
    """Images that torchvision holds as arrays, as the PNG files that they would be."""

    def __init__(self, root: Path, parts: Mapping[str, Any]) -> None:
        self.path, self._parts, self._checksums = root, parts, dict[tuple[str, ...], str]()
        self.names = sorted(f"{split}/{row:06}" for split, part in parts.items() for row in range(len(part)))

    def places(self, names: Sequence[str]) -> list[Path]:
        return []

    def checksum(self, names: Sequence[str]) -> str:
        known = tuple(names)  # nobody changes what is in memory
        if known not in self._checksums:
            self._checksums[known] = super().checksum(names)
        return self._checksums[known]

    def _read(self, name: str) -> bytes:
        split, _, row = name.partition("/")
        held = io.BytesIO()
        self._parts[split][int(row)][0].save(held, "PNG", compress_level=0)
        return held.getvalue()


def _classes(name: str, parts: Mapping[str, Any], rows: Mapping[str, Rows]) -> list[str]:
    """Names of the classes, where it has them, else their numbers."""
    named = [list(map(_called, getattr(part, "classes", ()))) for part in parts.values()]
    if any(found != named[0] for found in named):
        raise DataError(f"Expected torchvision's {name} to have the same classes in each split, but got others")
    labels = [label for part in rows.values() for _, label in part]
    count = 1 + max(labels, default=-1)
    if not named[0] and count > len(labels):
        raise DataError(
            f"Expected torchvision's {name} to have images of each class, but one has the label {count - 1}"
        )
    return named[0] or [str(label) for label in range(count)]


def _called(words: Any) -> str:
    """One name of a class that may have several."""
    return str(words[0] if isinstance(words, tuple) else words)


def _form(name: str) -> str:
    return f"torchvision's {name}"
