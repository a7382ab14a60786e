"""Named files, read where they lie: in a folder, a .zip or a .tar alike. Nothing is ever extracted by its name."""

from __future__ import annotations

import hashlib
import os
import tarfile
import zipfile
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath

from mollify_core.datasets.threads import in_threads
from mollify_core.disk import regular
from mollify_core.errors import DataError
from mollify_core.foreign import clean, shown

LARGEST = 1 << 28  # bytes of one file; a photograph is far below it


def quoted(path: object) -> str:
    """A path or name of somebody else's as an error's sentence quotes it."""
    return shown(str(path), 220)


def reason(error: Exception) -> str:
    """Why something could not be read, as a sentence quotes it."""
    said = getattr(error, "strerror", None) or " ".join(str(error).split())
    return clean(said, 160) or type(error).__name__


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
            raise DataError(f"Expected {quoted(self.path)} to hold {quoted(name)}, but it does not") from None
        except DataError:
            raise
        except Exception as error:  # an archive that lies can have nearly anything raised
            raise DataError(f"Cannot read {quoted(name)} in {quoted(self.path)}: {reason(error)}") from None

    def text(self, name: str) -> str:
        """The content of one text file; raises as `read` does."""
        return self.read(name).decode("utf-8", errors="replace")

    def checksum(self, names: Sequence[str]) -> str:
        """One md5 of the names, sizes and contents of these files; raises as `read` does."""
        digest = hashlib.md5(usedforsecurity=False)
        for part in in_threads(self._describe, names):
            digest.update(os.fsencode(part))
        return digest.hexdigest()

    def places(self, names: Sequence[str]) -> list[Path]:
        """The files on disk that hold these, whose times tell whether they were changed; none where they do not."""
        return [self.path]

    def forget(self) -> None:
        """Lets go of what reading has kept in memory: nothing here. It can be read again."""
        return

    def _describe(self, names: Sequence[str]) -> str:
        contents = ((name, self.read(name)) for name in names)
        return "".join(
            f"{name}\0{len(content)}\0{hashlib.md5(content, usedforsecurity=False).hexdigest()}\n"
            for name, content in contents
        )

    def _refuse_escapes(self) -> None:
        for name in self.names:
            if name.startswith(("/", "\\")) or ".." in PurePosixPath(name.replace("\\", "/")).parts:
                raise DataError(f"Expected {quoted(self.path)} to hold only files below itself, but got {quoted(name)}")

    def _check_size(self, name: str, size: int) -> None:
        if size > LARGEST:
            limit = f"{LARGEST >> 20} MiB"
            raise DataError(f"Expected {quoted(name)} in {quoted(self.path)} to be below {limit}, but got {size} bytes")

    @abstractmethod
    def _read(self, name: str) -> bytes: ...


class FolderFiles(Files):
    """The files in a folder and its subfolders, hidden ones left out; what is not listed is not read.

    Args:
        path: the folder, which may be a link itself; those below it are refused, as an archive has none.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.names = sorted(self._below(path, ""))
        self._known = frozenset(self.names)

    def _below(self, folder: Path, prefix: str) -> Iterator[str]:
        open_folders = [(folder, prefix)]
        while open_folders:
            folder, prefix = open_folders.pop()
            for entry in entries(folder):
                name = prefix + entry.name
                if entry.name.startswith("."):
                    continue
                if entry.is_symlink():
                    raise DataError(f"Expected {quoted(self.path)} to hold no links, but {quoted(name)} is one")
                if entry.is_dir():
                    open_folders.append((folder / entry.name, f"{name}/"))
                else:
                    yield name

    def places(self, names: Sequence[str]) -> list[Path]:
        return [self.path / name for name in names]

    def _read(self, name: str) -> bytes:
        if name not in self._known:
            raise KeyError(name)
        return self._content(self.path / name, name)

    def _content(self, place: Path, name: str) -> bytes:
        with regular(place) as file:
            self._check_size(name, os.fstat(file.fileno()).st_size)
            return file.read(LARGEST + 1)


def entries(folder: Path) -> list[os.DirEntry[str]]:
    """What a folder holds, sorted by name.

    Raises:
        DataError: it cannot be read.
    """
    try:
        with os.scandir(folder) as found:
            return sorted(found, key=lambda entry: entry.name)
    except OSError as error:
        raise DataError(f"Cannot read {quoted(folder)}: {error.strerror}") from None


def unlinked(path: Path) -> Path:
    """A file that somebody else may have made, which is no link: they may lead anywhere.

    Raises:
        DataError: it is one.
    """
    if path.is_symlink():
        raise DataError(f"Expected a file rather than a link, but got {quoted(path)}")
    return path


class ZipFiles(Files):
    """The files in a .zip archive."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._zip = zipfile.ZipFile(path)
            self.names = sorted(n for n in self._zip.namelist() if n and not n.endswith("/"))
        except Exception as error:  # a directory that lies can have nearly anything raised
            raise DataError(
                f"Expected {quoted(path)} to be a whole zip archive, but reading it failed: {reason(error)}"
            ) from None
        self._refuse_escapes()

    def _read(self, name: str) -> bytes:
        info = self._zip.getinfo(name)
        self._check_size(name, info.file_size)  # no more than this is ever unpacked by these two
        if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise NotImplementedError("it is compressed by another method than deflate")
        return self._zip.read(name)


class TarFiles(Files):
    """The regular files in an uncompressed .tar archive, which is open only while it is read: there may be many."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._places: dict[str, tuple[int, int]] = {}
        try:
            with regular(path) as file, tarfile.open(fileobj=file, mode="r:") as tar:
                length = os.fstat(file.fileno()).st_size
                while (member := tar.next()) is not None:
                    tar.members = []  # type: ignore[attr-defined]  # a million of them would fill the memory
                    if member.size < 0 or not 0 <= member.offset_data <= length:  # it would be read for ever
                        raise tarfile.ReadError("a file's size is none")
                    if member.isreg() and not member.issparse():
                        self._places[member.name] = (member.offset_data, member.size)
                if os.pread(file.fileno(), tarfile.BLOCKSIZE, tar.offset).strip(b"\0") or tar.offset >= length:
                    raise tarfile.ReadError("it ends without the mark of an end")
        except Exception as error:  # a header that lies can have nearly anything raised
            raise DataError(
                f"Expected {quoted(path)} to be a whole uncompressed tar archive, but reading it failed: "
                f"{reason(error)}"
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

    def _read(self, name: str) -> bytes:
        start, size = self._places[name]
        self._check_size(name, size)
        return self._read_at(start, size, name)

    def _read_at(self, start: int, size: int, name: str) -> bytes:
        try:
            with regular(self.path) as file:
                content = os.pread(file.fileno(), size, start)
        except OSError as error:
            raise DataError(f"Cannot read {quoted(name)} in {quoted(self.path)}: {error.strerror}") from None
        if len(content) < size:
            raise DataError(f"Expected {quoted(self.path)} to be whole, but it ends inside {quoted(name)}")
        return content
