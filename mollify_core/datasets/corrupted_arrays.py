"""Corrupted images as .npy files (5 n, height, width, channels) uint8 and labels.npy: written, checked and read.

Severity s is rows (s - 1) n to s n, as in the published CIFAR-10-C. No file is ever in memory as a whole.
"""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mollify_core.corruptions.benchmark import BENCHMARK, CORRUPTIONS, SEVERITIES
from mollify_core.datasets import npy
from mollify_core.datasets.download import Progress, progress_bar
from mollify_core.datasets.files import Files, TarFiles, quoted
from mollify_core.datasets.images import decode, exact, is_image, reporting
from mollify_core.datasets.specs import CorruptedSpec
from mollify_core.errors import DataError

_BLOCK = 1000  # images in memory at a time
_ARRAYS = frozenset(f"{name}.npy" for name in ("labels", *CORRUPTIONS))


def is_array(name: str) -> bool:
    """Whether a file's name is that of labels or of a corruption's array."""
    return name.rsplit("/", 1)[-1] in _ARRAYS


def copy(files: Sequence[TarFiles], draft: Path, spec: CorruptedSpec, progress: Progress | None) -> None:
    """Copies the .npy files out of an archive."""
    parts = [(tar, name) for tar in files for name in tar.names if is_array(name)]
    total = sum(tar.size(name) for tar, name in parts)
    done = 0
    with nullcontext(progress) if progress else progress_bar(spec.name) as callback:
        for tar, name in parts:
            for written in tar.copy(name, draft / name.rsplit("/", 1)[-1]):
                done += written
                if callback is not None:
                    callback(done, total)


def cell(name: str) -> tuple[str, int] | None:
    """(corruption, severity) of an image file called …/corruption/severity/class/image."""
    parts = name.split("/")[-4:]
    if len(parts) < 4 or parts[0] not in CORRUPTIONS or parts[1] not in tuple("12345") or not is_image(name):
        return None
    return parts[0], int(parts[1])


def convert(files: Sequence[Files], draft: Path, spec: CorruptedSpec, progress: Progress | None) -> None:
    """Decodes image files into one .npy file for each corruption."""
    cells: dict[tuple[str, int], list[tuple[Files, str]]] = defaultdict(list)
    for part in files:
        for name in part.names:
            if (place := cell(name)) is not None:
                cells[place].append((part, name))
    types = [name for name in CORRUPTIONS if name in BENCHMARK or any((name, s) in cells for s in SEVERITIES)]
    first: list[str] = []
    for name in types:
        for severity in SEVERITIES:
            what = f"{name!r} at severity {severity} of {spec.name}"
            rows = cells.get((name, severity))
            if rows is None:
                raise DataError(f"Expected images of {what}, but there are none")
            rows.sort(key=lambda row: row[1].split("/")[-2:])
            classes = [row[1].split("/")[-2] for row in rows]
            if len(set(classes)) != spec.classes:
                raise DataError(f"Expected {spec.classes} classes in {what}, but got {len(set(classes))}")
            first = first or classes
            if classes != first:
                raise DataError(
                    f"Expected the same classes and numbers of images in {what} as in the first, but got others"
                )
    labels = np.unique(first, return_inverse=True)[1]
    n, (channels, high, wide) = len(labels), spec.image_shape
    np.save(draft / "labels.npy", np.tile(labels.astype(np.int64), len(SEVERITIES)))
    done, total = 0, len(types) * len(SEVERITIES) * n
    header = {"descr": "|u1", "fortran_order": False, "shape": (len(SEVERITIES) * n, high, wide, channels)}
    with reporting(progress, spec.name) as callback:
        for name in types:
            with open(draft / f"{name}.npy", "wb") as file:  # plain writes: a full disk is an error, not a crash
                np.lib.format.write_array_header_1_0(file, header)
                for severity in SEVERITIES:
                    rows = cells[name, severity]
                    for start in range(0, n, _BLOCK):
                        block = rows[start : start + _BLOCK]
                        images = decode(partial(_image, block, spec.image_shape), len(block), spec.image_shape)
                        file.write(np.ascontiguousarray(images.transpose(0, 2, 3, 1)).data)
                        done += len(block)
                        if callback is not None:
                            callback(done, total)


def _image(rows: list[tuple[Files, str]], image_shape: tuple[int, int, int], row: int) -> np.ndarray:
    files, name = rows[row]
    return exact(files.read(name), repr(name), image_shape)


def describe(folder: Path, spec: CorruptedSpec, where: str) -> dict[str, Any]:
    """Checks the .npy files in `folder`; their corruptions, the images in a cell, and the fingerprint.

    Raises:
        DataError: one is missing, damaged, or of another form; `where` says where they came from.
    """
    missing = [name for name in ("labels", *BENCHMARK) if not (folder / f"{name}.npy").is_file()]
    if missing:
        raise DataError(f"Expected {where!r} to hold {missing[0]}.npy, but it does not")
    labels = load(folder / "labels.npy", where)
    if labels.ndim != 1 or not np.issubdtype(labels.dtype, np.integer) or not len(labels) or len(labels) % 5:
        raise DataError(
            f"Expected labels.npy in {where!r} to hold 5 n integers, but got {labels.dtype} of shape {labels.shape}"
        )
    if labels.min() < 0 or labels.max() >= spec.classes:
        worst = labels.min() if labels.min() < 0 else labels.max()
        raise DataError(f"Expected labels.npy in {where!r} to be in [0, {spec.classes}), but got {worst}")
    by_severity = labels.reshape(len(SEVERITIES), -1)
    if (by_severity != by_severity[0]).any():
        raise DataError(f"Expected labels.npy in {where!r} to be equal for every severity, but they are not")
    types = [name for name in CORRUPTIONS if (folder / f"{name}.npy").is_file()]
    channels, high, wide = spec.image_shape
    digest = hashlib.sha256(json.dumps([types, len(labels), spec.image_shape]).encode())
    digest.update(labels.astype("<i8").data)
    for name in types:
        images = load(folder / f"{name}.npy", where)
        if images.dtype != np.uint8 or images.shape != (len(labels), high, wide, channels):
            raise DataError(
                f"Expected {name}.npy in {where!r} to be uint8 of shape {(len(labels), high, wide, channels)}, "
                f"but got {images.dtype} of shape {images.shape}"
            )
        for start in range(0, len(images), _BLOCK):
            digest.update(np.ascontiguousarray(images[start : start + _BLOCK]).data)
    return {"types": types, "n": by_severity.shape[1], "fingerprint": digest.hexdigest()[:16]}


def load(path: Path, where: str | None = None) -> np.ndarray:
    """A .npy file, mapped privately into memory, so that PyTorch may take it for writable; pickles are refused.

    Raises:
        DataError: it cannot be read so; `where` says where it came from, if not from its folder.
    """
    what = f"{path.name} in {quoted(where or path.parent)}"
    return npy.load(path, f"Expected {what} to be a whole .npy file of numbers, but reading it failed")


def read(folder: Path, n: int, name: str, severity: int) -> Tensor:
    """One cell, (n, channels, height, width) uint8, a view of the file; raises as `load` does."""
    images = load(folder / f"{name}.npy")
    return torch.from_numpy(images[(severity - 1) * n : severity * n]).permute(0, 3, 1, 2)
