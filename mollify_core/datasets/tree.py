"""A folder of somebody's own images: which of its folders are splits, which files are images, and what is left out."""

from __future__ import annotations

import errno
import os
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from mollify_core.datasets.files import FolderFiles, entries, quoted
from mollify_core.datasets.images import is_image
from mollify_core.errors import DataError

TRAIN, VALIDATION, TEST = "train", "validation", "test"
_WORDS = {
    **dict.fromkeys(("train", "training", "trn"), TRAIN),
    **dict.fromkeys(("val", "valid", "validation", "validate", "dev", "devel", "development"), VALIDATION),
    **dict.fromkeys(("test", "testing", "tst", "eval", "evaluation", "holdout"), TEST),
}
_FILLERS = {"set", "split", "data", "dataset", "image", "images", "img", "imgs", "photos", "pictures", "seg"}


def role(folder: str) -> str | None:
    """Which split a folder's name says that it is, in any case: "Training", "test_set" and "val2017" are some."""
    words = [word for word in re.findall("[a-z]+", folder.casefold()) if word not in _FILLERS]
    return _WORDS.get(re.sub("(set|data|split)$", "", "".join(words)))


class OwnFiles(FolderFiles):
    """The images that were found in a folder; links were followed when they were found."""

    def __init__(self, path: Path, names: Sequence[str]) -> None:
        self.path, self.names, self._known = path, sorted(names), frozenset(names)


class Tree:
    """Walks over a folder. A folder that a link leads to is visited once, and a link into a folder above is refused.

    Args:
        path: the folder.

    Attributes:
        left_out: how many files and folders are not taken, by reason.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.left_out: Counter[str] = Counter()
        self._owners: dict[tuple[int, int], str] = {}

    def folders(self, inside: str = "") -> list[str]:
        """Names of the folders in a folder, sorted, hidden ones left out; "" is the whole.

        Raises:
            DataError: it cannot be read, or a link leads to itself.
        """
        found = entries(self.path / inside)
        return [e.name for e in found if not e.name.startswith(".") and self._is_folder(e, inside)]

    def loose(self, inside: str = "") -> int:
        """Counts the files of a folder, none of which has a class, as left out; the number of images among them."""
        images = 0
        for entry in entries(self.path / inside):
            if entry.name.startswith(".") or not self._is_folder(entry, inside):
                reason = self._reason(entry)
                images += reason is None
                self.left_out[reason or "outside of the class folders"] += 1
        return images

    def beside(self, folders: Sequence[str]) -> None:
        """Counts the images in folders that belong to no split."""
        for folder in folders:
            for _, inner, files in os.walk(self.path / folder):
                inner[:] = [name for name in inner if not name.startswith(".")]
                images = sum(is_image(name) and not name.startswith(".") for name in files)
                self.left_out["in folders that belong to no split"] += images

    def images(self, inside: str, owner: str) -> list[str]:
        """The images below a folder, by their names relative to the whole, sorted.

        Args:
            inside: the folder.
            owner: whose images they are, a split and a class; no folder has two owners.

        Raises:
            DataError: a folder cannot be read, a link leads to a folder above itself, or to a folder of another owner.
        """
        found: list[str] = []
        parents = [Path(inside).parents[i].as_posix() for i in range(len(Path(inside).parts))]
        waiting = [(inside, frozenset(self._identity(parent) for parent in parents))]
        while waiting:
            folder, above = waiting.pop()
            this = self._identity(folder)
            if this in above:
                raise DataError(f"Expected no loop of links in {quoted(self.path)}, but {quoted(folder)} is one")
            known = self._owners.get(this)
            if known == owner:
                self.left_out["folders that links lead to again"] += 1
                continue
            if known is not None:
                raise DataError(
                    f"Expected every folder of {quoted(self.path)} to be of one split and class, but {quoted(folder)} "
                    f"leads to one of {quoted(known)} as well"
                )
            self._owners[this] = owner
            for entry in entries(self.path / folder):
                name = f"{folder}/{entry.name}"
                if not entry.name.startswith(".") and self._is_folder(entry, folder):
                    waiting.append((name, above | {this}))
                elif (reason := self._reason(entry)) is not None:
                    self.left_out[reason] += 1
                else:
                    found.append(name)
        return sorted(found)

    def _identity(self, folder: str) -> tuple[int, int]:
        try:
            known = os.stat(self.path / folder)
        except OSError as error:
            raise DataError(f"Cannot read {quoted(self.path / folder)}: {error.strerror}") from None
        return known.st_dev, known.st_ino

    def _is_folder(self, entry: os.DirEntry[str], inside: str) -> bool:
        try:
            return entry.is_dir()
        except OSError as error:
            where, name = quoted(self.path), quoted(Path(inside) / entry.name)
            if error.errno == errno.ELOOP:
                raise DataError(f"Expected no loop of links in {where}, but {name} is one") from None
            raise DataError(f"Cannot read {name} in {where}: {error.strerror}") from None

    @staticmethod
    def _reason(entry: os.DirEntry[str]) -> str | None:
        """Why what is no folder is left out; None where it is an image."""
        if entry.name.startswith("."):
            return "hidden"
        if not entry.is_file():
            return "links to nothing" if entry.is_symlink() and not os.path.exists(entry) else "neither file nor folder"
        return None if is_image(entry.name) else "not named as images"
