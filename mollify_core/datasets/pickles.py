"""CIFAR's files: official pickles, from their folder or the .tar.gz."""

from __future__ import annotations

import hashlib
import lzma
import tarfile
import zlib
from collections.abc import Mapping
from functools import partial
from pathlib import Path

import numpy as np

from mollify_core.datasets.download import Progress
from mollify_core.datasets.source import Arrays, Source
from mollify_core.datasets.specs import DatasetSpec, PickleArchive
from mollify_core.datasets.unpickle import read_batch, read_names
from mollify_core.errors import DataError

LARGEST_MEMBER = 1 << 30  # bytes; the official files are all below a fifth of it


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
        return {name: (inside[0] / name).read_bytes() for name in names}
    except OSError as error:
        raise DataError(f"Cannot read {error.filename or str(path)!r}: {error.strerror or error}") from None


def _read_tar(path: Path, archive: PickleArchive) -> dict[str, bytes]:
    """The official files by name, read from the archive in one pass; nothing is extracted to disk."""
    names = {*archive.train, *archive.test, archive.meta}
    raw: dict[str, bytes] = {}
    try:
        with tarfile.open(path, "r|*") as tar:
            for member in tar:
                name = member.name.rsplit("/", 1)[-1]
                if name not in names or not member.isreg():
                    continue
                if member.size > LARGEST_MEMBER:
                    raise DataError(f"Expected {name} in {str(path)!r} to be below 1 GiB, but got {member.size} bytes")
                file = tar.extractfile(member)
                raw[name] = file.read() if file is not None else b""
    except (tarfile.TarError, EOFError, zlib.error, lzma.LZMAError, OSError) as error:
        reason = " ".join(str(error).split())
        raise DataError(f"Expected {str(path)!r} to be a whole tar archive, but reading it failed: {reason}") from None
    if names - raw.keys():
        missing = ", ".join(sorted(names - raw.keys()))
        raise DataError(f"Expected the archive {str(path)!r} to hold {missing}, but it ends without")
    return raw
