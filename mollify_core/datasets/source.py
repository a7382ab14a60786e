"""What `prepare` reads: the files of a data set, whatever their form, and how they become arrays."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from mollify_core.datasets.download import Progress

Arrays = dict[str, tuple[np.ndarray, np.ndarray]]
"""Split -> images (n, C, H, W) uint8, labels (n,) int64."""


@dataclass(frozen=True)
class Source:
    """The files of a data set, found but not yet read.

    Attributes:
        where: they are from, for people.
        checksums: md5 by name: of the official files where these are what lies there, else one of all files together.
        read: gives both splits and the class names in the order of the labels; its argument is called with the images
            decoded so far and in all, and None draws a bar on a terminal.
        validation: how many of the training images, the last ones, are those to validate; 0 holds some out instead.
        unreadable: files that `read` has left out -> their split.
    """

    where: str
    checksums: dict[str, str]
    read: Callable[[Progress | None], tuple[Arrays, list[str]]]
    validation: int = 0
    unreadable: dict[str, str] = field(default_factory=dict)
