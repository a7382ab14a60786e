"""CIFAR's files: official pickles, from their folder or the .tar.gz."""

from __future__ import annotations

import bz2
import gzip
import hashlib
import io
import lzma
import os
import tarfile
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from mollify_core.datasets.download import Progress
from mollify_core.datasets.files import quoted, unlinked
from mollify_core.datasets.source import Arrays, Source
from mollify_core.datasets.specs import DatasetSpec, PickleArchive
from mollify_core.datasets.unpickle import read_batch, read_names
from mollify_core.disk import regular
from mollify_core.errors import DataError
from mollify_core.foreign import clean

LARGEST = 1 << 28  # bytes of a file, and of an archive unpacked; the official ones have 190 MB


def source(dataset: DatasetSpec, archive: PickleArchive, path: Path, where: str) -> Source:
    """The official files in `path`: their folder, its parent, a folder with the archive, or the archive.

    Raises:
        DataError: they are not there, or not all, or the archive is damaged.
    """
    raw = _find(path, archive)
    checksums = {file: hashlib.md5(raw[file], usedforsecurity=False).hexdigest() for file in dataset.checksums}
    return Source(where, checksums, partial(_parse, dataset, archive, raw))


def _parse(
    dataset: DatasetSpec, archive: PickleArchive, raw: Mapping[str, bytes], _: Progress | None
) -> tuple[Arrays, list[str]]:
    arrays: Arrays = {}
    for split, files in (("train", archive.train), ("test", archive.test)):
        batches = [
            read_batch(
                raw[file],
                repr(file),
                image_shape=dataset.image_shape,
                classes=dataset.classes,
                labels_key=archive.labels_key,
            )
            for file in files
        ]
        images, labels = (np.concatenate(parts) for parts in zip(*batches, strict=True))
        arrays[split] = images, labels
    return arrays, read_names(raw[archive.meta], repr(archive.meta), key=archive.names_key, classes=dataset.classes)


def _find(path: Path, archive: PickleArchive) -> dict[str, bytes]:
    """The official files by name."""
    names = (*archive.train, *archive.test, archive.meta)
    try:
        if not path.exists():
            raise DataError(f"Expected the data folder to be an existing folder or archive, but got {str(path)!r}")
        if path.is_file():
            return _read_tar(path, archive)
        inside = [p for p in (path, path / archive.folder) if any((p / name).is_file() for name in names)]
        if not inside and (path / archive.filename).is_file():
            return _read_tar(path / archive.filename, archive)
        if not inside:
            raise DataError(
                f"Expected {str(path)!r} to hold {archive.folder} or {archive.filename}, but it has neither"
            )
        missing = [name for name in names if not (inside[0] / name).is_file()]
        if missing:
            raise DataError(
                f"Expected {str(inside[0])!r} to hold {', '.join(names)}, but {', '.join(missing)} is missing"
            )
        return {name: _content(unlinked(inside[0] / name)) for name in names}
    except OSError as error:
        raise DataError(f"Cannot read {error.filename or str(path)!r}: {error.strerror or error}") from None


def _content(path: Path) -> bytes:
    with regular(path) as file:
        _check_size(path.name, os.fstat(file.fileno()).st_size, path.parent)
        return file.read(LARGEST + 1)


def _check_size(name: str, size: int, path: Path) -> None:
    if size > LARGEST:
        raise DataError(f"Expected {name} in {quoted(path)} to be below {LARGEST >> 20} MiB, but got {size} bytes")


class _Unpacked(io.RawIOBase):
    """What a stream unpacks to, as far as an archive may be large: a small one can unpack to all memory."""

    def __init__(self, stream: Any, path: Path) -> None:
        self._stream, self._path, self._done = stream, path, 0

    def read(self, size: int = -1) -> bytes:
        block = self._stream.read(min(size, 1 << 20) if size >= 0 else 1 << 20)
        self._done += len(block)
        _check_size("the content", self._done, self._path)
        return block


_UNPACKERS: dict[bytes, Callable[[Any], Any]] = {b"\x1f\x8b": gzip.open, b"BZh": bz2.open, b"\xfd7zXZ": lzma.open}
"""How a file begins -> what unpacks it."""


def _read_tar(path: Path, archive: PickleArchive) -> dict[str, bytes]:
    """The official files by name, read from the archive in one pass; nothing is extracted to disk."""
    names = {*archive.train, *archive.test, archive.meta}
    raw: dict[str, bytes] = {}
    try:
        with regular(path) as file:
            start = file.peek(8)
            stream = next((unpack(file) for magic, unpack in _UNPACKERS.items() if start.startswith(magic)), file)
            with tarfile.open(fileobj=_Unpacked(stream, path), mode="r|") as tar:
                for member in tar:
                    _check_size(clean(member.name, 60), abs(member.size), path)
                    name = member.name.rsplit("/", 1)[-1]
                    if name in names and member.isreg():
                        content = tar.extractfile(member)
                        raw[name] = content.read() if content is not None else b""
    except DataError:
        raise
    except Exception as error:  # an archive that lies can have nearly anything raised
        reason = clean(" ".join(str(error).split()), 160) or type(error).__name__
        raise DataError(f"Expected {quoted(path)} to be a whole tar archive, but reading it failed: {reason}") from None
    if names - raw.keys():
        missing = ", ".join(sorted(names - raw.keys()))
        raise DataError(f"Expected the archive {quoted(path)} to hold {missing}, but it ends without")
    return raw
