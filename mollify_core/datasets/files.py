"""Named files, read where they lie: in a folder, a .zip or a .tar alike. Nothing is ever extracted by its name."""

from __future__ import annotations

import hashlib
import os
import tarfile
import zipfile
import zlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from mollify_core.datasets.threads import in_threads
from mollify_core.errors import DataError

LARGEST = 1 << 28  # bytes of one file; a photograph is far below it


class Files(ABC):
    """Files below `path`; several threads may read at once.

    Attributes:
        path: the folder or archive.
        names: relative names with "/", sorted.
    """

    path: Path
    names: list[str]

    def read(self, name: str) -> bytes:
        """The content of one file.

        Raises:
            DataError: it is not there, cannot be read, or is larger than `LARGEST`.
        """
        try:
            return self._read(name)
        except KeyError:
            raise DataError(f"Expected {str(self.path)!r} to hold {name!r}, but it does not") from None
        except (OSError, EOFError, RuntimeError, NotImplementedError, zipfile.BadZipFile, zlib.error) as error:
            reason = getattr(error, "strerror", None) or " ".join(str(error).split())
            raise DataError(f"Cannot read {name!r} in {str(self.path)!r}: {reason}") from None

    def text(self, name: str) -> str:
        """The content of one text file; raises as `read` does."""
        return self.read(name).decode("utf-8", errors="replace")

    def checksum(self, names: Sequence[str]) -> str:
        """One md5 of the names, sizes and contents of these files; raises as `read` does."""
        digest = hashlib.md5(usedforsecurity=False)
        for part in in_threads(self._describe, names):
            digest.update(part.encode())
        return digest.hexdigest()

    def _describe(self, names: Sequence[str]) -> str:
        contents = ((name, self.read(name)) for name in names)
        return "".join(
            f"{name}\0{len(content)}\0{hashlib.md5(content, usedforsecurity=False).hexdigest()}\n"
            for name, content in contents
        )

    def _refuse_escapes(self) -> None:
        for name in self.names:
            if name.startswith(("/", "\\")) or ".." in PurePosixPath(name.replace("\\", "/")).parts:
                raise DataError(f"Expected {str(self.path)!r} to hold only files below itself, but got {name!r}")

    def _check_size(self, name: str, size: int) -> None:
        if size > LARGEST:
            limit = f"{LARGEST >> 20} MiB"
            raise DataError(f"Expected {name!r} in {str(self.path)!r} to be below {limit}, but got {size} bytes")

    @abstractmethod
    def _read(self, name: str) -> bytes: ...


class FolderFiles(Files):
    """The files in a folder and its subfolders, hidden ones left out."""

    def __init__(self, path: Path) -> None:
        self.path, self.names = path, []
        for folder, folders, files in os.walk(path, onerror=self._fail):
            folders[:] = [f for f in folders if not f.startswith(".")]
            start = Path(folder).relative_to(path)
            self.names += [(start / f).as_posix() for f in files if not f.startswith(".")]
        self.names.sort()

    def _fail(self, error: OSError) -> None:
        raise DataError(f"Cannot read {error.filename!r}: {error.strerror}") from None

    def _read(self, name: str) -> bytes:
        with open(self.path / name, "rb") as file:
            self._check_size(name, os.fstat(file.fileno()).st_size)
            return file.read()


class ZipFiles(Files):
    """The files in a .zip archive."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._zip = zipfile.ZipFile(path)
        except (OSError, zipfile.BadZipFile, NotImplementedError) as error:
            raise DataError(
                f"Expected {str(path)!r} to be a whole zip archive, but reading it failed: {error}"
            ) from None
        self.names = sorted(info.filename for info in self._zip.infolist() if not info.is_dir())
        self._refuse_escapes()

    def _read(self, name: str) -> bytes:
        self._check_size(name, self._zip.getinfo(name).file_size)  # no more than this is ever unpacked
        return self._zip.read(name)


class TarFiles(Files):
    """The regular files in an uncompressed .tar archive."""

    _file: BinaryIO | None = None

    def __init__(self, path: Path) -> None:
        self.path = path
        self._places: dict[str, tuple[int, int]] = {}
        try:
            self._file = open(path, "rb")  # noqa: SIM115
            with tarfile.open(fileobj=self._file, mode="r:") as tar:
                while (member := tar.next()) is not None:
                    tar.members = []  # type: ignore[attr-defined]  # a million of them would fill the memory
                    if member.isreg() and not member.issparse():
                        self._places[member.name] = (member.offset_data, member.size)
        except (OSError, tarfile.TarError, EOFError) as error:
            reason = " ".join(str(error).split())
            raise DataError(
                f"Expected {str(path)!r} to be a whole uncompressed tar archive, but reading it failed: {reason}"
            ) from None
        self.names = sorted(self._places)
        self._refuse_escapes()

    def size(self, name: str) -> int:
        """Bytes of one file."""
        return self._places[name][1]

    def copy(self, name: str, target: Path) -> Iterator[int]:
        """Writes one file, however large, to `target`; yields the bytes of each step.

        Raises:
            DataError: it cannot be read, or the archive ends inside it.
            OSError: `target` cannot be written.
        """
        start, left = self._places[name]
        with open(target, "wb") as file:
            while left:
                block = self._read_at(start, min(left, 1 << 22), name)
                file.write(block)
                start, left = start + len(block), left - len(block)
                yield len(block)

    def __del__(self) -> None:
        if self._file is not None:
            self._file.close()

    def _read(self, name: str) -> bytes:
        start, size = self._places[name]
        self._check_size(name, size)
        return self._read_at(start, size, name)

    def _read_at(self, start: int, size: int, name: str) -> bytes:
        assert self._file is not None
        try:
            content = os.pread(self._file.fileno(), size, start)
        except OSError as error:
            raise DataError(f"Cannot read {name!r} in {str(self.path)!r}: {error.strerror}") from None
        if len(content) < size:
            raise DataError(f"Expected {str(self.path)!r} to be whole, but it ends inside {name!r}")
        return content
