"""A whole corruption benchmark made from clean images: once, into the cache, and read from there.

A set is a folder with one .npy file for each corruption, (5 severities, n, channels, height, width) uint8, and a
manifest of their sizes and checksums. A file is written beside its place, moved there when it is whole, and only then
entered in the manifest; so a killed maker is taken up where it was, and what is damaged is made again.
"""

from __future__ import annotations

import functools
import hashlib
import io
import json
import math
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mollify_core import granted
from mollify_core.corruptions import frost, suite
from mollify_core.corruptions.benchmark import CORRUPTIONS, SEVERITIES, CorruptedSet
from mollify_core.corruptions.draws import CHUNK
from mollify_core.datasets import npy
from mollify_core.datasets.cache import locked, storage
from mollify_core.datasets.files import quoted
from mollify_core.datasets.load import ImageSet
from mollify_core.datasets.threads import single_threads
from mollify_core.errors import ConfigError, DataError, StorageError
from mollify_core.foreign import expanded

FORMAT = 1
"""Of the algorithms and of the files: another number, another folder."""


def make(
    images: ImageSet,
    *,
    fingerprint: str,
    verified: bool,
    cache_dir: str | Path,
    seed: int = 0,
    types: Sequence[str] = CORRUPTIONS,
    frost_dir: str | Path | None = None,
    threads: int | None = None,
    progress: Callable[[int, int], None] | None = None,
    warn: Callable[[str], None] = lambda message: None,
) -> CorruptedSet:
    """The clean images under corruptions at five severities, made on this machine unless they are in the cache.

    Args:
        images: clean test images, uint8 on the CPU, 1 or 3 channels, at least 8 pixels a side.
        fingerprint: of the data set that the images are from.
        verified: whether these are the official ones.
        cache_dir: where the set's folder is, or will be.
        seed: of the noise.
        types: which corruptions, of `CORRUPTIONS`.
        frost_dir: folder of photographs for frost, see `frost.find_photographs`. Without any, frost is left out.
        threads: how many work at once; default one for each core that this process may use.
        progress: called with (images made, images to be made) while anything is made.
        warn: told in one sentence when frost is left out.

    Raises:
        ConfigError: there is no such corruption, or none is left.
        DataError: the images are not as said.
        StorageError: the cache cannot be written.
    """
    for name in types:
        suite.check(images.images, name, 1)
    chosen = [name for name in CORRUPTIONS if name in types]
    folder = expanded(cache_dir) / f"corruptions-{_key(images.images, fingerprint, seed)}"
    photographs = _photographs(frost_dir, folder, chosen, warn)
    if not chosen:
        raise ConfigError("Expected one corruption or more to make, but got none")
    if missing := _missing(folder, chosen, photographs):
        with storage(folder), locked(folder.with_name(f".{folder.name}.lock")):
            missing = _missing(folder, chosen, photographs)  # another process may have been first
            _make(images.images, folder, missing, seed, photographs, threads or granted.cores(), progress)
            missing = _missing(folder, chosen, photographs)
    if missing:
        raise StorageError(f"Cannot read back {', '.join(missing)} from {str(folder)!r}")
    files = _whole(folder)
    total = hashlib.sha256(images.labels.numpy().astype("<i8").tobytes())
    for name in chosen:
        total.update(f"{name} {files[name]['sha256']}\n".encode())
    return CorruptedSet(
        types=tuple(chosen),
        labels=images.labels,
        source="made",
        verified=verified,
        fingerprint=total.hexdigest()[:16],
        read=functools.partial(_read, folder),
    )


def _key(images: Tensor, fingerprint: str, seed: int) -> str:
    """Twelve hexadecimal digits of all that determines the set but its photographs of frost."""
    digest = hashlib.sha256(json.dumps([FORMAT, fingerprint, seed, list(images.shape)]).encode())
    digest.update(images.contiguous().numpy().data)  # a data set has many parts of the same size
    return digest.hexdigest()[:12]


def _photographs(
    frost_dir: str | Path | None, folder: Path, chosen: list[str], warn: Callable[[str], None]
) -> Path | None:
    """The folder of photographs; where there is none, `chosen` loses frost, unless it was made before."""
    if "frost" not in chosen:
        return None
    try:
        return frost.find_photographs(frost_dir)
    except ConfigError as error:
        if frost_dir is not None:
            raise
        if "frost" not in _whole(folder):
            chosen.remove("frost")
            warn(f"Frost is left out. {error}")
        return None


def _missing(folder: Path, chosen: Sequence[str], photographs: Path | None) -> list[str]:
    """Those of `chosen` that are not made, or not whole, or made of other photographs."""
    files = _whole(folder)
    if photographs is not None and files.get("frost", {}).get("photographs") != frost.digest(photographs):
        files.pop("frost", None)
    return [name for name in chosen if name not in files]


def _whole(folder: Path) -> dict[str, dict[str, Any]]:
    """The manifest's entries of the corruptions whose files have the size that was written."""
    try:
        files: dict[str, dict[str, Any]] = json.loads((folder / "manifest.json").read_bytes())["files"]
        return {name: entry for name, entry in files.items() if _size(folder / f"{name}.npy") == entry["bytes"]}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}


def _size(path: Path) -> int | None:
    return path.stat().st_size if path.is_file() else None


def _make(
    images: Tensor,
    folder: Path,
    missing: Sequence[str],
    seed: int,
    photographs: Path | None,
    threads: int,
    progress: Callable[[int, int], None] | None,
) -> None:
    """Writes the corruptions `missing`, and enters each in the manifest."""
    parts = [(severity, number) for severity in SEVERITIES for number in range(math.ceil(len(images) / CHUNK))]
    shape = (len(SEVERITIES), *images.shape)
    done, total = 0, len(missing) * len(SEVERITIES) * len(images)

    def contents(chunks: Iterable[Tensor]) -> Iterator[bytes | memoryview]:
        nonlocal done
        header = io.BytesIO()
        np.lib.format.write_array_header_1_0(header, {"descr": "|u1", "fortran_order": False, "shape": shape})
        yield header.getvalue()
        for chunk in chunks:
            yield chunk.view(-1).numpy().data
            done += len(chunk)
            if progress is not None:
                progress(done, total)

    with single_threads(threads) as pool:
        for name in missing:
            chunk = functools.partial(suite.corrupt_chunk, images, name, seed=seed, frost_folder=photographs)
            entry = _write(folder / f"{name}.npy", contents(pool.map(chunk, *zip(*parts, strict=True))))
            if name == "frost" and photographs is not None:
                entry["photographs"] = frost.digest(photographs)
            manifest = {"format": FORMAT, "seed": seed, "files": _whole(folder) | {name: entry}}
            _write(folder / "manifest.json", [json.dumps(manifest, indent=2).encode()])


def _write(path: Path, contents: Iterable[bytes | memoryview]) -> dict[str, Any]:
    """Writes a file beside its place and moves it there when it is on the disk; its size and sha256."""
    draft = path.with_name(f".{path.name}.draft")
    digest = hashlib.sha256()
    try:
        with open(draft, "wb") as file:
            for piece in contents:
                file.write(piece)
                digest.update(piece)
            file.flush()
            os.fsync(file.fileno())
            size = file.tell()
        draft.replace(path)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise
    return {"bytes": size, "sha256": digest.hexdigest()}


def _read(folder: Path, name: str, severity: int) -> Tensor:
    path = folder / f"{name}.npy"
    array = npy.load(path, f"Cannot read {quoted(path)}; delete it to have it made again")
    if array.dtype != np.uint8 or array.ndim != 5 or len(array) != len(SEVERITIES):
        raise DataError(
            f"Expected {quoted(path)} to hold uint8 images at {len(SEVERITIES)} severities, but got {array.dtype} of "
            f"shape {array.shape}; delete it to have it made again"
        )
    return torch.from_numpy(array[severity - 1])
