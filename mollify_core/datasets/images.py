"""Image files to arrays, in threads (Pillow decodes outside Python's lock). All images are opened here.

Only the formats that are promised are tried: others of Pillow's start programs. What is transparent shows a background.
"""

from __future__ import annotations

import contextlib
import io
import re
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from functools import partial

import numpy as np
from PIL import Image, ImageOps

from mollify_core.datasets.download import Progress, progress_bar
from mollify_core.datasets.specs import BACKGROUNDS
from mollify_core.datasets.threads import in_threads
from mollify_core.errors import DataError
from mollify_core.foreign import clean

SUFFIXES = (
    *(".jpg", ".jpeg", ".png", ".bmp", ".gif", ".pgm", ".ppm", ".tif", ".tiff", ".webp", ".avif"),
    *(".heic", ".heif"),  # Pillow alone cannot read them: to be told is better than to have them left out
)
FORMATS = ("JPEG", "PNG", "BMP", "GIF", "PPM", "TIFF", "WEBP", "AVIF")
"""What is opened, whatever the name says. Pillow would start Ghostscript for PostScript."""
LARGEST = 89_478_485
"""Pixels of an image: from here on Pillow warns of a decompression bomb."""
_AT_ONCE = 1 << 24  # pixels above which images are decoded one at a time: some hundred megabytes each
_large = threading.Lock()

# What Pillow warns of is told in a sentence or does not matter. These hold for all threads, as no context would.
warnings.filterwarnings("ignore", module=r"PIL\.")
warnings.simplefilter("error", Image.DecompressionBombWarning)


def is_image(name: str) -> bool:
    """Whether a file's name says that it is an image."""
    return name.lower().endswith(SUFFIXES)


def exact(raw: bytes, what: str, image_shape: tuple[int, int, int]) -> np.ndarray:
    """An image that must have `image_shape` (3, height, width), uint8; a grey one gets three equal channels.

    Raises:
        DataError: it has another size, which is found before it is decoded, or cannot be read; `what` is named.
    """
    with opened(raw, what) as image:
        if image.size != image_shape[:0:-1]:
            wide, high = image.size
            raise DataError(f"Expected {what} to be {image_shape[2]}x{image_shape[1]} pixels, but got {wide}x{high}")
        return _pixels(_rgb(image, BACKGROUNDS["white"]))


def scaled(raw: bytes, what: str, side: int, background: str = BACKGROUNDS["white"]) -> np.ndarray:
    """The centre square of an image, (3, side, side) uint8: the shorter side is scaled to `side` pixels.

    It is turned upright as its EXIF says, laid on the background where it is transparent, and scaled by Pillow's
    bicubic filter, which averages when it shrinks.

    Args:
        raw: the file.
        what: it is called in errors.
        side: in pixels.
        background: "#rrggbb".

    Raises:
        DataError: it cannot be read; `what` is named.
    """
    with opened(raw, what) as image:
        image = _rgb(ImageOps.exif_transpose(image), background)
        wide, high = image.size
        square = min(wide, high)
        left, top = (wide - square) / 2, (high - square) / 2
        box = (left, top, left + square, top + square)
        return _pixels(image.resize((side, side), Image.Resampling.BICUBIC, box=box))


@contextlib.contextmanager
def opened(raw: bytes, what: str) -> Iterator[Image.Image]:
    """An image file, to be decoded inside: one of `FORMATS`, of `LARGEST` pixels at most.

    Raises:
        DataError: it is none, or whatever is done inside fails; `what` is named.
    """
    with contextlib.ExitStack() as stack:
        stack.enter_context(_named(what))
        try:
            image = stack.enter_context(Image.open(io.BytesIO(raw), formats=FORMATS))
        except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
            pixels = re.search(r"\((\d+) pixels\)", str(error))
            got = f"{int(pixels[1]):,}" if pixels else "more"
            raise DataError(f"Expected {what} to have at most {LARGEST:,} pixels, but got {got}") from None
        wide, high = image.size
        if wide * high > LARGEST:
            raise DataError(f"Expected {what} to have at most {LARGEST:,} pixels, but got {wide * high:,}")
        if wide * high > _AT_ONCE:
            stack.enter_context(_large)
        yield image


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
    return np.asarray(image).transpose(2, 0, 1)


def _rgb(image: Image.Image, background: str) -> Image.Image:
    clear = image.info.get("transparency")
    if image.mode.startswith("I;16"):  # Pillow would clip at 255
        values = np.asarray(image)
        image = Image.fromarray((values >> 8).astype(np.uint8))
        if isinstance(clear, int):
            image.putalpha(Image.fromarray(np.where(values == clear, 0, 255).astype(np.uint8)))
    elif image.mode in ("I", "F"):
        raise ValueError("more than 16 bits per channel")
    if not image.has_transparency_data:
        return image if image.mode == "RGB" else image.convert("RGB")
    if image.mode != "RGBA":
        image = image.convert({"La": "LA"}.get(image.mode, "RGBA")).convert("RGBA")
    canvas = Image.new("RGB", image.size, background)
    canvas.paste(image, mask=image.getchannel("A"))
    return canvas


@contextlib.contextmanager
def _named(what: str) -> Iterator[None]:
    """Turns whatever Pillow raises over a damaged or hostile file into one sentence."""
    try:
        yield
    except DataError:
        raise
    except Exception as error:
        known = "not an image in a known format" if isinstance(error, Image.UnidentifiedImageError) else str(error)
        reason = clean(" ".join(known.split()), 160) or type(error).__name__
        raise DataError(f"Cannot read image {what}: {reason}") from None
