"""From what a user calls a data set to its specification: a known name, one of torchvision's, or a folder."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import TYPE_CHECKING

from mollify_core.datasets.cache import cache_folder
from mollify_core.datasets.files import quoted
from mollify_core.datasets.specs import DATASETS, IMAGE_SIDES, DatasetSpec, colour_word
from mollify_core.errors import ConfigError, nearest
from mollify_core.foreign import expanded, shown

if TYPE_CHECKING:
    from mollify_core.datasets.listing import Listed

_LIBRARY = re.compile(r"torchvision[/-](\w+)")
_PICKLED = ("CIFAR10", "CIFAR100")


def spec(
    name: str | Path,
    *,
    data_dir: str | Path | None = None,
    image_size: int | None = None,
    background: str | None = None,
    skip_bad: bool = False,
    feed: str = "auto",
    groups: str | Path | None = None,
    cache_dir: str | Path | None = None,
) -> DatasetSpec:
    """The data set called `name`.

    Args:
        name: a key of `DATASETS`; "torchvision/" and a key of `libraries.SETS`, which recipes call "torchvision-" and
            that; the path of a folder that `folder.listed` knows; or any name for the one in `data_dir`.
        data_dir: where the files are.
        image_size: side in pixels to which the images of a folder are scaled; None for the known sets.
        background: what shows where images of a folder are transparent, see `specs.colour`; None is white.
        skip_bad: leave out images of a folder that cannot be read, rather than stop there.
        feed: one of `FEEDS`.
        groups: a file that says which images of a folder belong together, see `groups.of_images`.
        cache_dir: where torchvision's are downloaded to; default as of `cache.cache_folder`.

    Raises:
        ConfigError: there is no such data set, and the nearest known one is named; or `image_size` or `background`
            does not fit it.
        DataError: the folder holds no data set, or `groups` does not fit it.
    """
    name = str(name)
    if name in DATASETS:
        if image_size is not None:
            high, wide = DATASETS[name].image_shape[1:]
            raise ConfigError(
                f"Expected no image size for {name}, whose images are {wide}x{high}, but got {image_size}"
            )
        if background is not None and colour_word(background) != "white":
            raise ConfigError(f"Expected no background for {name}, whose images hide nothing, but got {background!r}")
        if groups is not None:
            raise ConfigError(f"Expected --groups with a folder of images of your own, but got it with {name}")
        return dataclasses.replace(DATASETS[name], streamed=feed == "stream")
    library = _LIBRARY.fullmatch(name)
    path = expanded(name if data_dir is None else data_dir)
    said = quoted(name)
    unknown = f"Unknown data set {said}{nearest(name, DATASETS)}"
    if library is None and data_dir is None and not _is_folder(path):
        if image_size is not None:
            raise ConfigError(
                f"Expected {said} to be a folder of images, or --data-dir to name that folder, but found none"
            )
        raise ConfigError(f"{unknown} (or the path of a folder with one folder of images per class, with --image-size)")
    if image_size is None:
        if library is not None:
            raise ConfigError(f"Expected an --image-size for {said}, but got none")
        if data_dir is None:
            raise ConfigError(f"Expected an --image-size for the folder of images {said}, but got none")
        raise ConfigError(f"{unknown} (to take {quoted(path)} as a folder of images, give --image-size)")
    if (library is None or data_dir is not None) and not _is_folder(path):
        raise ConfigError(f"Expected the data folder to be an existing folder, but got {quoted(path)}")
    least, most = IMAGE_SIDES
    if image_size < least:
        raise ConfigError(f"Expected the image size to be at least {least} pixels, but got {shown(image_size)}")
    if image_size > most:
        raise ConfigError(f"Expected the image size to be at most {most:,} pixels, but got {shown(image_size)}")
    from mollify_core.datasets.folder import listed, own_spec

    together = None if groups is None else expanded(groups)
    behind = colour_word("white" if background is None else background)
    if library is not None:
        called, found, augment = _of_library(library[1], data_dir, cache_dir)
    else:
        called, found = _plain(path.resolve().name if data_dir is None else name), listed(path)
        augment = ("flip", "crop")
    return own_spec(called, found.settled(together), image_size, behind, skip_bad, feed, together, augment)


def _of_library(
    name: str, data_dir: str | Path | None, cache_dir: str | Path | None
) -> tuple[str, Listed, tuple[str, ...]]:
    """One of torchvision's data sets: what it is called, what it holds, and the augmentations that suit it."""
    from mollify_core.datasets import libraries

    if name in _PICKLED:
        raise ConfigError(
            f"Expected a data set whose files are mere data, but torchvision's {name} is in pickles, which may run "
            f"anything; --dataset {name.lower()} is the same, and safe to read"
        )
    if name not in libraries.SETS:
        raise ConfigError(f"Unknown data set of torchvision {quoted(name)}{nearest(name, libraries.SETS)}")
    found = libraries.listed(name, None if data_dir is None else expanded(data_dir), cache_folder(cache_dir))
    return f"torchvision-{name}", found, ("flip", "crop") if libraries.SETS[name].mirrored else ("crop",)


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except OSError:  # as of a name that is too long
        return False


def _plain(name: str) -> str:
    """`name` of the letters that files and sweeps may be called with, and unlike a known data set's."""
    plain = re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-._")[:40] or "images"
    return f"{plain}-folder" if plain in DATASETS or _LIBRARY.fullmatch(plain) else plain
