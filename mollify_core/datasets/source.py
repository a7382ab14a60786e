"""What `prepare` reads: the files of a data set, whatever their form, and how they become arrays."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np

from mollify_core.datasets.download import Progress

_ROWS = 256  # of a chunk
Arrays = dict[str, tuple[np.ndarray, np.ndarray]]
"""Split -> images (n, C, H, W) uint8, labels (n,) int64."""


Chunk = tuple[str, np.ndarray, np.ndarray, list[bytes | None]]
"""Split, images (n, C, H, W) uint8, labels (n,) int64, and each image's file where it came as one."""


@dataclass(frozen=True)
class Flow:
    """The images of a source, some at a time.

    Attributes:
        counts: split -> how many there will be, but for those that cannot be read.
        class_names: in the order of the labels.
        chunks: of the splits one after the other, in the official order.
    """

    counts: dict[str, int]
    class_names: list[str]
    chunks: Iterator[Chunk]


@dataclass(frozen=True)
class Source:
    """The files of a data set, found but not yet read.

    Attributes:
        where: they are from, for people.
        checksums: md5 by name: of the official files where these are what lies there, else one of all files together.
        read: gives both splits and the class names in the order of the labels; its argument is called with the images
            decoded so far and in all, and None draws a bar on a terminal.
        validation: how many of the training images, the last ones, are those to validate; 0 holds some out instead.
        unreadable: files that `read` or `flow` have left out -> their split.
        flow: gives the images without holding all of them, and without those in `unreadable`; None where all of them
            come as arrays.
        groups: the sha256 of which images belong together; empty where nobody has said it.
    """

    where: str
    checksums: dict[str, str]
    read: Callable[[Progress | None], tuple[Arrays, list[str]]]
    validation: int = 0
    unreadable: dict[str, str] = field(default_factory=dict)
    flow: Callable[[Progress | None], Flow] | None = None
    groups: str = ""

    def flowing(self, progress: Progress | None) -> Flow:
        """All images, some at a time; see `flow`."""
        if self.flow is not None:
            return self.flow(progress)
        arrays, class_names = self.read(progress)
        return Flow({split: len(labels) for split, (_, labels) in arrays.items()}, class_names, _chunks(arrays))


def _chunks(arrays: Arrays) -> Iterator[Chunk]:
    for split, (images, labels) in arrays.items():
        for start in range(0, len(labels), _ROWS):
            part = images[start : start + _ROWS]
            yield split, part, labels[start : start + _ROWS], [None] * len(part)
