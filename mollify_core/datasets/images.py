"""Image files to arrays, in threads (Pillow decodes outside Python's lock)."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable, Iterator, Sequence
from functools import partial

import numpy as np
from PIL import Image, ImageOps

from mollify_core.datasets.download import Progress, progress_bar
from mollify_core.datasets.threads import in_threads
from mollify_core.errors import DataError

SUFFIXES = (
    *(".jpg", ".jpeg", ".png", ".bmp", ".gif", ".pgm", ".ppm", ".tif", ".tiff", ".webp", ".avif"),
    *(".heic", ".heif"),  # Pillow alone cannot read them: to be told is better than to have them left out
)


def is_image(name: str) -> bool:
    """Whether a file's name says that it is an image."""
    return name.lower().endswith(SUFFIXES)


def exact(raw: bytes, what: str, image_shape: tuple[int, int, int]) -> np.ndarray:
    """An image that must have `image_shape` (3, height, width), uint8; a grey one gets three equal channels.

    Raises:
        DataError: it has another size, which is found before it is decoded, or cannot be read; `what` is named.
    """
    with _named(what):
        image = Image.open(io.BytesIO(raw))
        if image.size != image_shape[:0:-1]:
            wide, high = image.size
            raise DataError(f"Expected {what} to be {image_shape[2]}x{image_shape[1]} pixels, but got {wide}x{high}")
        return _pixels(image)


def scaled(raw: bytes, what: str, side: int) -> np.ndarray:
    """The centre square of an image, (3, side, side) uint8: the shorter side is scaled to `side` pixels.

    It is turned upright as its EXIF says, and scaled by Pillow's bicubic filter, which averages when it shrinks.

    Raises:
        DataError: it cannot be read; `what` is named.
    """
    with _named(what):
        image = _rgb(ImageOps.exif_transpose(Image.open(io.BytesIO(raw))))
        wide, high = image.size
        square = min(wide, high)
        left, top = (wide - square) / 2, (high - square) / 2
        box = (left, top, left + square, top + square)
        return _pixels(image.resize((side, side), Image.Resampling.BICUBIC, box=box))


def decode(
    load: Callable[[int], np.ndarray], count: int, image_shape: tuple[int, int, int], progress: Progress | None = None
) -> np.ndarray:
    """The images load(0) .. load(count - 1), (count, *image_shape) uint8.

    Args:
        load: gives the image of a row; is called in several threads.
        count: number of images.
        image_shape: (channels, height, width).
        progress: called with the images done and `count`.
    """
    images = np.empty((count, *image_shape), np.uint8)
    done = 0
    for filled in in_threads(partial(_fill, images, load), range(count)):
        done += filled
        if progress is not None:
            progress(done, count)
    return images


@contextlib.contextmanager
def reporting(progress: Progress | None, title: str) -> Iterator[Progress | None]:
    """`progress`, or a bar on a terminal when it is None."""
    with contextlib.nullcontext(progress) if progress else progress_bar(title, "images") as callback:
        yield callback


def _fill(images: np.ndarray, load: Callable[[int], np.ndarray], rows: Sequence[int]) -> int:
    for row in rows:
        images[row] = load(row)
    return len(rows)


def _pixels(image: Image.Image) -> np.ndarray:
    return np.asarray(_rgb(image)).transpose(2, 0, 1)


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I;16"):  # Pillow would clip at 255
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    elif image.mode in ("I", "F"):
        raise ValueError("more than 16 bits per channel")
    elif "transparency" in image.info:
        image = image.convert("RGBA")
    return image.convert("RGB")


@contextlib.contextmanager
def _named(what: str) -> Iterator[None]:
    """Turns whatever Pillow raises over a damaged or hostile file into one sentence."""
    try:
        yield
    except DataError:
        raise
    except Exception as error:
        known = "not an image in a known format" if isinstance(error, Image.UnidentifiedImageError) else str(error)
        raise DataError(f"Cannot read image {what}: {' '.join(known.split()) or type(error).__name__}") from None
