"""From what a user calls a data set to its specification: a known name, or a folder of images."""

from __future__ import annotations

import re
from pathlib import Path

from mollify_core.datasets.specs import DATASETS, DatasetSpec
from mollify_core.errors import ConfigError, nearest
from mollify_core.foreign import expanded


def spec(name: str | Path, *, data_dir: str | Path | None = None, image_size: int | None = None) -> DatasetSpec:
    """The data set called `name`.

    Args:
        name: a key of `DATASETS`; or the path of a folder with one folder of images per class; or any name for the
            one in `data_dir`.
        data_dir: where the files are.
        image_size: side in pixels to which the images of a folder are scaled; None for the known sets.

    Raises:
        ConfigError: there is no such data set, and the nearest known one is named; or `image_size` does not fit it.
        DataError: the folder holds no data set.
    """
    name = str(name)
    if name in DATASETS:
        if image_size is not None:
            high, wide = DATASETS[name].image_shape[1:]
            raise ConfigError(
                f"Expected no image size for {name}, whose images are {wide}x{high}, but got {image_size}"
            )
        return DATASETS[name]
    path = expanded(name if data_dir is None else data_dir)
    unknown = f"Unknown data set {name!r}{nearest(name, DATASETS)}"
    if data_dir is None and not path.is_dir():
        if image_size is not None:
            raise ConfigError(
                f"Expected {name!r} to be a folder of images, or --data-dir to name that folder, but found none"
            )
        raise ConfigError(f"{unknown} (or the path of a folder with one folder of images per class, with --image-size)")
    if image_size is None:
        if data_dir is None:
            raise ConfigError(f"Expected an --image-size for the folder of images {name!r}, but got none")
        raise ConfigError(f"{unknown} (to take {str(path)!r} as a folder of images, give --image-size)")
    if not path.is_dir():
        raise ConfigError(f"Expected the data folder to be an existing folder, but got {str(path)!r}")
    if image_size < 8:
        raise ConfigError(f"Expected the image size to be at least 8 pixels, but got {image_size}")
    from mollify_core.datasets.folder import folder_spec

    return folder_spec(_plain(path.resolve().name if data_dir is None else name), path, image_size)


def _plain(name: str) -> str:
    """`name` of the letters that files and sweeps may be called with, and unlike a known data set's."""
    plain = re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-._")[:40] or "images"
    return f"{plain}-folder" if plain in DATASETS else plain
