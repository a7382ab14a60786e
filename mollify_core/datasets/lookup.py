"""From what a user calls a data set to its specification: a known name, or a folder of images."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

from mollify_core.datasets.files import quoted
from mollify_core.datasets.specs import DATASETS, IMAGE_SIDES, DatasetSpec, colour_word
from mollify_core.errors import ConfigError, nearest
from mollify_core.foreign import expanded, shown


def spec(
    name: str | Path,
    *,
    data_dir: str | Path | None = None,
    image_size: int | None = None,
    background: str | None = None,
    skip_bad: bool = False,
    feed: str = "auto",
    groups: str | Path | None = None,
) -> DatasetSpec:
    """The data set called `name`.

    Args:
        name: a key of `DATASETS`; or the path of a folder with one folder of images per class; or any name for the
            one in `data_dir`.
        data_dir: where the files are.
        image_size: side in pixels to which the images of a folder are scaled; None for the known sets.
        background: what shows where images of a folder are transparent, see `specs.colour`; None is white.
        skip_bad: leave out images of a folder that cannot be read, rather than stop there.
        feed: one of `FEEDS`.
        groups: a file that says which images of a folder belong together, see `groups.of_images`.

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
    path = expanded(name if data_dir is None else data_dir)
    said = quoted(name)
    unknown = f"Unknown data set {said}{nearest(name, DATASETS)}"
    if data_dir is None and not _is_folder(path):
        if image_size is not None:
            raise ConfigError(
                f"Expected {said} to be a folder of images, or --data-dir to name that folder, but found none"
            )
        raise ConfigError(f"{unknown} (or the path of a folder with one folder of images per class, with --image-size)")
    if image_size is None:
        if data_dir is None:
            raise ConfigError(f"Expected an --image-size for the folder of images {said}, but got none")
        raise ConfigError(f"{unknown} (to take {quoted(path)} as a folder of images, give --image-size)")
    if not _is_folder(path):
        raise ConfigError(f"Expected the data folder to be an existing folder, but got {quoted(path)}")
    least, most = IMAGE_SIDES
    if image_size < least:
        raise ConfigError(f"Expected the image size to be at least {least} pixels, but got {shown(image_size)}")
    if image_size > most:
        raise ConfigError(f"Expected the image size to be at most {most:,} pixels, but got {shown(image_size)}")
    from mollify_core.datasets.folder import folder_spec

    called = _plain(path.resolve().name if data_dir is None else name)
    behind = colour_word("white" if background is None else background)
    together = None if groups is None else expanded(groups)
    return folder_spec(called, path, image_size, behind, skip_bad, feed, together)


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except OSError:  # as of a name that is too long
        return False


def _plain(name: str) -> str:
    """`name` of the letters that files and sweeps may be called with, and unlike a known data set's."""
    plain = re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-._")[:40] or "images"
    return f"{plain}-folder" if plain in DATASETS else plain
