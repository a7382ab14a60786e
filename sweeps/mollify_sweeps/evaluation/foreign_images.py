"""Images of another data set, which a model should not be sure of."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from mollify_core import rng
from mollify_core.datasets.files import FolderFiles, quoted
from mollify_core.datasets.images import decode, is_image, scaled
from mollify_core.datasets.load import Prepared
from mollify_core.datasets.options import DataOptions
from mollify_core.datasets.specs import DATASETS, ImageFolder, colour
from mollify_core.errors import ConfigError, DataError, nearest
from mollify_core.foreign import expanded

MOST = 10_000
"""Of more images these many are drawn: their scores are as sure as a test set's, and memory is bounded."""
_AT_ONCE = 1000


@dataclass(frozen=True, eq=False)
class Foreign:
    """Images of another data set.

    Attributes:
        name: what it is called.
        images: (n, channels, height, width) uint8, of the size that the models take.
        fingerprint: equal where the images are.
        verified: whether they are what they are said to be.
        left_out: how many could not be read.
    """

    name: str
    images: torch.Tensor
    fingerprint: str
    verified: bool
    left_out: int = 0


def foreign_images(
    name: str, data_dir: str | None, known: Prepared, data: DataOptions, background: str | None, most: int | None
) -> Foreign:
    """The test images of the data set called `name`, or all images below the folder `name`.

    Args:
        name: a known data set, else a folder, whose subfolders mean nothing.
        data_dir: the official files of a known data set are here.
        known: the data set of the models, to whose size images are brought.
        data: mirrors and cache; its `data_dir` is that of `known` and not read.
        background: what shows where images of a folder are transparent; None is white.
        most: at most so many images, drawn by a fixed seed; None for `MOST`.

    Raises:
        ConfigError: there is no such data set or folder, or it is that of the models.
        DataError: an image cannot be read, or there is none.
    """
    limit, shape = min(most or MOST, MOST), known.spec.image_shape
    if name not in DATASETS:
        own = known.spec.source
        if isinstance(own, ImageFolder) and expanded(name).resolve() == own.path.resolve():
            raise ConfigError(f"Expected --ood to be other images than those of the models, but got {quoted(name)}")
        return _folder(name, shape, data.skip_bad, background, limit)
    try:
        other = DataOptions(data_dir, data.cache_dir, data.mirrors, data.allow_unverified).prepare(name)
    except DataError as error:  # it names the option of a model's own data
        raise type(error)(str(error).replace("--data-dir", "--ood-dir")) from None
    if other.fingerprint == known.fingerprint:
        raise ConfigError(f"Expected --ood to be another data set than that of the models, but got {name}")
    images = other.tensors("test").images
    images = _resized(images[_drawn(len(images), limit)], shape)
    return Foreign(name, images, f"{other.fingerprint}-{len(images)}", other.verified)


def _folder(name: str, shape: tuple[int, int, int], skip_bad: bool, background: str | None, limit: int) -> Foreign:
    path = expanded(name)
    if not path.is_dir():
        raise ConfigError(
            f"Unknown data set {quoted(name)}{nearest(name, DATASETS)} (or the path of a folder of images)"
        )
    files = FolderFiles(path)
    listed = [file for file in files.names if is_image(file)]
    if not listed:
        raise DataError(f"Expected images in the folder {quoted(path)}, but found none")
    chosen = [listed[row] for row in _drawn(len(listed), limit).tolist()]
    behind, bad = colour(background or "white"), set()

    def load(row: int) -> np.ndarray:
        try:
            return scaled(files.read(chosen[row]), quoted(chosen[row]), shape[-1], behind)
        except DataError:
            if not skip_bad:
                raise
            bad.add(row)
            return np.zeros(shape, np.uint8)

    images = torch.from_numpy(decode(load, len(chosen), shape))
    if bad:
        images = images[[row for row in range(len(chosen)) if row not in bad]]
    if not len(images):
        raise DataError(f"Expected images in the folder {quoted(path)} that can be read, but found none")
    digest = f"{files.checksum(chosen)}-{shape[-1]}-{behind}-{len(images)}"
    return Foreign(path.resolve().name or "images", images, digest, True, len(bad))


def _drawn(count: int, limit: int) -> torch.Tensor:
    """Rows of `count` images, all or `limit` of them, in order."""
    if count <= limit:
        return torch.arange(count)
    return torch.randperm(count, generator=rng.generator(0, "foreign images"))[:limit].sort().values


def _resized(images: torch.Tensor, shape: tuple[int, int, int]) -> torch.Tensor:
    """Images in another size, by the filter that folders of images are scaled by."""
    if images.shape[1:] == shape:
        return images
    size = shape[1:]
    resized = [
        torch.nn.functional.interpolate(part.float(), size, mode="bicubic", antialias=True)
        .round_()
        .clamp_(0, 255)
        .byte()
        for part in images.split(_AT_ONCE)
    ]
    return torch.cat(resized)
