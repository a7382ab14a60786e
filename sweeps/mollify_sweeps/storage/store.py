"""Where a sweep is kept: a local folder or s3://bucket/prefix (other stores by AWS_ENDPOINT_URL), and its layout.

<storage>/<sweep>/
  sweep.json                     what the sweep is
  study.sqlite                   the study (a snapshot of it, when the storage is not local)
  driver.json                    who runs it, when the storage is not local
  trials/00012/                  recipe.json, metrics.jsonl, validation.npz, checkpoints/epoch-0007/
  report/                        report.html, trials.parquet, best_recipe.json, summary.md, plots/*.png
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from pyarrow import fs

from mollify_core.checkpoint import make_folder
from mollify_core.disk import sync
from mollify_core.documents import MOST_BYTES
from mollify_core.errors import ConfigError, StorageError, first_line
from mollify_core.foreign import expanded, shown
from mollify_sweeps.storage.patience import Patience, retry

# A server that hangs is given up after so long without a byte, three times; Arrow itself would wait for minutes.
_TIMEOUTS = {"connect_timeout": 5.0, "request_timeout": 10.0}

SWEEP, STUDY = "sweep.json", "study.sqlite"


class Store:
    """A folder on local disk or in an object store. Cheap to build, and picklable by its `uri`.

    Args:
        uri: where.
        opened: False: `open` is called later, with patience; the URI is known to be right.

    Raises:
        StorageError: see `open`.
    """

    def __init__(self, uri: str, *, opened: bool = True) -> None:
        if "@" in uri.partition("://")[2].partition("/")[0]:
            raise StorageError("Expected a storage URI without credentials (they belong into AWS_… or a profile)")
        self.uri = uri if "://" in uri else _folder(uri)
        if opened:
            self.open()

    def open(self) -> None:
        """Finds the file system of the URI, once; where it does not say the region of its bucket, the store is asked.

        Raises:
            StorageError: there is no such one, or the store does not answer.
        """
        if "fs" in vars(self):
            return
        try:
            if "://" in self.uri:
                self.fs, self.root = fs.FileSystem.from_uri(self.uri)
                if not self.root:
                    raise ValueError("it names no bucket")
                self.uri = self.uri.rstrip("/")
                if isinstance(self.fs, fs.S3FileSystem):
                    rebuild, (options,) = self.fs.__reduce__()  # what the URI and the environment have said
                    self.fs = rebuild({**options, **_TIMEOUTS})
            else:
                self.fs, self.root = fs.LocalFileSystem(), self.uri
        except (OSError, ValueError, NotImplementedError) as error:
            raise StorageError(f"Cannot use storage {self.uri!r}: {first_line(error)}") from None

    def patience(self, tell: Callable[[str | None], None] = lambda text: None) -> Patience:
        """Patience with this store."""
        return Patience(self.uri, tell, self.renew)

    def __reduce__(self) -> tuple:
        return Store, (self.uri,)

    def __truediv__(self, name: str) -> Store:
        return self._longer(f"/{name}")

    @property
    def name(self) -> str:
        """Of the folder."""
        return self._parts[1]

    @property
    def parent(self) -> str:
        """URI of the folder that this one is in."""
        return self._parts[0]

    @property
    def _parts(self) -> tuple[str, str]:
        path, question, options = self._split
        head, _, name = path.rstrip("/").rpartition("/")
        return f"{head}{question}{options}", name

    @property
    def _split(self) -> tuple[str, str, str]:
        # Options of a URI stand behind the path; in a path a question mark is one.
        return self.uri.partition("?") if "://" in self.uri else (self.uri, "", "")

    def beside(self, suffix: str) -> Store:
        """The folder beside this one whose name has a suffix."""
        return self._longer(suffix)

    def _longer(self, more: str) -> Store:
        path, question, options = self._split
        other = Store(f"{path.rstrip('/')}{more}{question}{options}", opened=False)
        if "fs" in vars(self):
            other.fs, other.root = self.fs, f"{self.root}{more}"
        return other

    def renew(self) -> None:
        """Looks for the credentials anew, as in a file that has been written since; where there are none, nothing."""
        if isinstance(vars(self).get("fs"), fs.S3FileSystem):
            rebuild, (options,) = self.fs.__reduce__()
            self.fs = rebuild(options)

    @property
    def local(self) -> Path | None:
        """The folder, when it is on this machine's disk."""
        return Path(self.root) if isinstance(self.fs, fs.LocalFileSystem) else None

    def write(self, name: str, data: bytes) -> None:
        """Writes a file as a whole: a reader sees the old content or the new one, never a part."""
        path = f"{self.root}/{name}"
        make_folder(self.fs, path.rsplit("/", 1)[0])
        if self.local is None:  # an object appears when its upload is complete
            with self.fs.open_output_stream(path, compression=None) as stream:
                stream.write(data)
            return
        temporary = Path(f"{path}.{os.getpid()}.tmp")
        try:
            with open(temporary, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
            sync(Path(path).parent)
        except OSError:  # a full disk needs its room back
            temporary.unlink(missing_ok=True)
            raise

    def read(self, name: str) -> bytes | None:
        """The content of a file, or None when there is none; of a document no more than what a reader takes, and a bit.

        Raises:
            StorageError: a file is in the place of one of its folders.
            OSError: the storage failed.
        """
        try:
            with self.fs.open_input_stream(f"{self.root}/{name}", compression=None) as stream:
                return stream.read(MOST_BYTES + 1) if name.endswith(".json") else stream.read()
        except FileNotFoundError:
            return None
        except NotADirectoryError:
            raise StorageError(f"Cannot use storage {shown(self.uri, 200)}: a part of its path is a file") from None

    def upload(self, folder: Path) -> None:
        """Copies the files below a local folder here.

        Raises:
            StorageError: the storage cannot be written; one sentence.
        """
        for file in sorted(p for p in folder.rglob("*") if p.is_file()):
            name, data = file.relative_to(folder).as_posix(), file.read_bytes()
            try:
                retry(lambda name=name, data=data: self.write(name, data))  # type: ignore[misc]
            except OSError as error:
                raise StorageError(f"Cannot write to storage {self.uri!r}: {first_line(error)}") from None

    def check_writable(self) -> None:
        """Writes and removes a small file.

        Raises:
            StorageError: the storage cannot be written; one sentence.
        """
        probe = f".probe-{os.getpid()}"
        try:
            self.write(probe, b"mollify")
            self.fs.delete_file(f"{self.root}/{probe}")
        except OSError as error:
            raise StorageError(f"Cannot write to storage {self.uri!r}: {first_line(error)}") from None


def _folder(path: str) -> str:
    """The whole path of a local folder, without links."""
    try:
        return str(expanded(path, written=True).resolve())
    except (OSError, ConfigError) as error:
        raise StorageError(f"Cannot use storage {shown(path)}: {first_line(error)}") from None


def trial_folder(number: int) -> str:
    return f"trials/{number:05d}"
