"""What a data set of somebody's own holds, whatever its form: files of images, their classes, splits and groups."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from mollify_core.datasets import groups as own_groups
from mollify_core.datasets.files import Files, quoted
from mollify_core.datasets.split import stratified_split
from mollify_core.datasets.tree import TEST, TRAIN, VALIDATION
from mollify_core.errors import DataError

TEST_FRACTION = 0.2
UNREADABLE = "that cannot be read"
Rows = list[tuple[str, int]]
"""Files and their labels."""


@dataclass(frozen=True)
class Listed:
    """What is in a data set of somebody's own; nothing of it is decoded.

    Attributes:
        files: the images.
        names: of the classes.
        rows: split -> its images; "validation" only where there is such a split.
        folders: split -> the folder, file or name that it is; empty where the whole is undivided.
        left_out: reason -> how many files and folders are not taken.
        groups: image -> its group; empty where nobody has said which belong together.
        form: what it was taken for, in words; empty for folders of classes.
        divided: whether a fifth of each class was taken for testing, since there was no such split.
    """

    files: Files
    names: list[str]
    rows: dict[str, Rows]
    folders: dict[str, str] = field(default_factory=dict)
    left_out: dict[str, int] = field(default_factory=dict)
    groups: dict[str, str] = field(default_factory=dict)
    form: str = ""
    divided: bool = False

    def settled(self, groups: Path | None = None) -> Listed:
        """The same with its groups and with a test split, a fifth of each class where there was none; checked.

        Args:
            groups: a file that says which images belong together, see `groups.of_images`.

        Raises:
            DataError: there are fewer than two classes, labels of none, or too few images of one; or `groups` is no
                such file, or leaves no way to split.
        """
        where = quoted(self.files.path)
        if len(self.names) < 2:
            raise DataError(f"Expected {where} to hold images of two or more classes, but got {len(self.names)}")
        for split, part in self.rows.items():
            if not part:
                raise DataError(f"Expected images in every split of {where}, but {split} has none")
            for name, label in part:
                if not 0 <= label < len(self.names):
                    raise DataError(
                        f"Expected labels from 0 to {len(self.names) - 1} in {where}, but {quoted(name)} has {label}"
                    )
        rows, together = self.rows, {}
        if groups is not None:
            together = own_groups.of_images(groups, [name for part in rows.values() for name, _ in part], where)
        if TEST not in rows:
            rows = _divided(rows, self.names, together)
        counts = np.bincount([label for _, label in rows[TRAIN]], minlength=len(self.names))
        least = 1 if VALIDATION in rows else 2  # one to fit and one to validate
        if counts.min() < least:
            few = self.names[int(counts.argmin())]
            raise DataError(
                f"Expected at least two training images of each class, but class {quoted(few)} in {where} has "
                f"{counts.min()} (a fifth of an undivided class is for testing)"
            )
        return dataclasses.replace(self, rows=rows, groups=together, divided=TEST not in self.rows)

    def without(self, unreadable: Collection[str]) -> Listed:
        """The same but for files that could not be read."""
        rows = {split: [row for row in part if row[0] not in unreadable] for split, part in self.rows.items()}
        count = sum(map(len, self.rows.values())) - sum(map(len, rows.values()))
        return dataclasses.replace(self, rows=rows, left_out=self.left_out | ({UNREADABLE: count} if count else {}))

    def numbered(self) -> dict[str, np.ndarray]:
        """Split, of training and test -> (n,) int64 number of each image's group; empty where there are no groups."""
        if not self.groups:
            return {}
        parts = {TRAIN: self.rows[TRAIN] + self.rows.get(VALIDATION, []), TEST: self.rows[TEST]}
        numbers = {group: number for number, group in enumerate(sorted(set(self.groups.values())))}
        return {
            split: np.array([numbers[self.groups[name]] for name, _ in part], np.int64) for split, part in parts.items()
        }

    def labels_checksum(self) -> str:
        """The md5 of classes and labels, which are no part of the images' files where these are not in folders."""
        said = [self.names, {split: [label for _, label in part] for split, part in self.rows.items()}]
        return hashlib.md5(json.dumps(said, sort_keys=True).encode(), usedforsecurity=False).hexdigest()


def _divided(rows: Mapping[str, Rows], names: Sequence[str], together: Mapping[str, str]) -> dict[str, Rows]:
    """Of training images alone, a fifth of each class for testing, the same in every run."""
    whole, groups = rows[TRAIN], None
    if together:
        groups = np.unique([together[name] for name, _ in whole], return_inverse=True)[1]
    labels = np.array([label for _, label in whole], np.int64)
    parts = stratified_split(labels, TEST_FRACTION, 0, "folder", groups, leave=2, names=names)
    train, test = ([whole[i] for i in part] for part in parts)
    return {**rows, TRAIN: train, TEST: test}
