"""Images in tables: a Hugging Face dataset saved to disk (Arrow files), or a folder of Parquet files as on its Hub.

An image is its file's bytes, alone or in a struct with a path, which is never followed. A class is a number, with names
where the features say them, or a name.
"""

from __future__ import annotations

import contextlib
import dataclasses
import mmap
import os
import threading
from abc import ABC, abstractmethod
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from itertools import accumulate
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any

from mollify_core import documents
from mollify_core.datasets.files import Files, quoted, reason
from mollify_core.datasets.listing import Listed
from mollify_core.datasets.load import parquet
from mollify_core.datasets.packed import classed, splits, tested
from mollify_core.datasets.tree import TRAIN, role
from mollify_core.disk import regular
from mollify_core.errors import DataError
from mollify_core.foreign import shown
from mollify_core.kinds import ListOf, MapOf, Maybe, Record, Text, checked, fits

if TYPE_CHECKING:
    import pyarrow as pa

_IMAGES, _LABELS = ("image", "img"), ("label", "labels")
_KEPT = 1 << 30  # bytes of groups of rows that stay in memory
_GROUP = 1 << 33  # bytes that a group of rows may claim
_FEATURES = b"huggingface"  # of a schema's metadata


def saved(path: Path) -> Listed | None:
    """A Hugging Face dataset, or a dictionary of its splits, that `save_to_disk` wrote; None where there is none.

    Raises:
        DataError: it is damaged, or its columns are no images and labels.
    """
    left_out: dict[str, int] = {}
    if (path / "dataset_dict.json").is_file():
        named = _json(path / "dataset_dict.json", Record({"splits": ListOf(Text(200), 1, 100)}))["splits"]
        of = {_plain(folder, path): role(folder) for folder in named}
        roles = [split for split in of.values() if split]
        if len(set(roles)) < len(roles) or TRAIN not in roles:
            got = ", ".join(shown(name, 40) for name in named)
            raise DataError(f"Expected the splits of {quoted(path)} to be train, test and validation, but got {got}")
        folders = {split: names[0] for split, names in tested({s: [f] for f, s in of.items() if s}).items()}
        left_out = {"splits of other names": len(of) - len(roles)} if len(of) > len(roles) else {}
    elif (path / "state.json").is_file():
        folders = {TRAIN: ""}
    else:
        return None
    files = {
        split: [f"{folder}/{name}".lstrip("/") for name in _arrow(path / folder)] for split, folder in folders.items()
    }
    tables = {name: _Arrow(path / name) for names in files.values() for name in names}
    info = path / folders[TRAIN] / "dataset_info.json"
    features = _json(info, MapOf()).get("features") if info.is_file() else None
    found = _listed(path, files, tables, "a Hugging Face dataset saved to disk", features)
    return dataclasses.replace(found, folders={} if folders == {TRAIN: ""} else folders, left_out=left_out)


def parquets(path: Path) -> Listed | None:
    """A folder of Parquet files, see `packed.splits`; None where there are none.

    Raises:
        DataError: a file is damaged, or its columns are no images and labels.
    """
    files = splits(path, ".parquet")
    if not files:
        return None
    kept = _Kept()
    known = {name: _Parquet(path / name, kept) for names in files.values() for name in names}
    return _listed(path, files, known, f"{len(known):,} Parquet file{'s' * (len(known) > 1)}", None, kept)


def _listed(
    path: Path,
    files: Mapping[str, Sequence[str]],
    known: Mapping[str, _Table],
    form: str,
    features: Any,
    kept: _Kept | None = None,
) -> Listed:
    labels: dict[str, list[int | str]] = {split: [] for split in files}
    rows: dict[str, list[str]] = {split: [] for split in files}
    names: list[str] | None = None
    for split, of_split in files.items():
        for name in of_split:
            table = known[name]
            found = table.opened(features)
            if names is not None and found != names:
                raise DataError(
                    f"Expected the same classes in all files of {quoted(path)}, but {quoted(name)} has others"
                )
            names = found
            of_file = table.labels()
            labels[split] += of_file
            rows[split] += [f"{name}/{row}" for row in range(len(of_file))]
    called, numbers = classed(path, labels, names or ())
    listed = {split: list(zip(rows[split], numbers[split], strict=True)) for split in files}
    return Listed(_Rows(path, known, rows, kept), called, listed, form=form)


class _Rows(Files):
    """The images of tables, called by the file's name and the row."""

    def __init__(
        self, path: Path, tables: Mapping[str, _Table], rows: Mapping[str, list[str]], kept: _Kept | None
    ) -> None:
        self.path, self._tables, self._kept = path, tables, kept
        self.names = sorted(name for part in rows.values() for name in part)

    def places(self, names: Sequence[str]) -> list[Path]:
        return [table.path for table in self._tables.values()]

    def forget(self) -> None:
        if self._kept is not None:
            self._kept.clear()

    def _read(self, name: str) -> bytes:
        file, _, row = name.rpartition("/")
        content = self._tables[file].image(int(row))
        if content is None:
            raise DataError(f"Expected the bytes of an image in {quoted(name)} of {quoted(self.path)}, but got none")
        self._check_size(name, len(content))
        return content


class _Table(ABC):
    """One file with a column of images and one of their labels.

    Attributes:
        path: of the file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._image = self._label = ""

    def opened(self, features: Any) -> list[str]:
        """Finds the columns; the names of the classes, where they have some.

        Args:
            features: as dataset_info.json has them, where the file's own are not known.

        Raises:
            DataError: it is damaged, or has no such columns.
        """
        import pyarrow as pa

        with _guarded(self.path):
            schema = self._schema()
            own = (schema.metadata or {}).get(_FEATURES)
            with contextlib.suppress(DataError, KeyError, TypeError):
                features = documents.json_of(own)["info"]["features"] if own else features
            features = features if isinstance(features, dict) else {}
            self._image = self._column(schema, _IMAGES, "images")
            self._label = self._column(schema, _LABELS, "labels")
            kind = schema.field(self._image).type
            if pa.types.is_struct(kind):
                kind = kind.field("bytes").type if kind.get_field_index("bytes") >= 0 else kind
            if not (pa.types.is_binary(kind) or pa.types.is_large_binary(kind)):
                raise DataError(
                    f"Expected column {shown(self._image)} of {quoted(self.path)} to hold the bytes of images, but its "
                    f"type is {shown(str(kind), 80)}"
                )
            label = features.get(self._label)
            names = label.get("names") if isinstance(label, dict) else None
            return names if names and fits(names, ListOf(Text(1000), most=10**6)) else []

    def labels(self) -> list[int | str]:
        """The label of every row; raises as `opened` does."""
        import pyarrow as pa

        with _guarded(self.path):
            column = self._labels()
            kind = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
            if column.null_count:
                raise DataError(
                    f"Expected a label in every row of {quoted(self.path)}, but {column.null_count} have none"
                )
            if pa.types.is_integer(kind) or pa.types.is_boolean(kind):
                return [int(label) for label in column.to_pylist()]
            if pa.types.is_string(kind) or pa.types.is_large_string(kind):
                return column.to_pylist()
            raise DataError(
                f"Expected column {shown(self._label)} of {quoted(self.path)} to hold numbers or names of classes, but "
                f"its type is {shown(str(kind), 80)}"
            )

    def image(self, row: int) -> bytes | None:
        """The file of one row's image; None where there is none. Raises as `opened` does."""
        with _guarded(self.path):
            return self._bytes(row)

    def _column(self, schema: pa.Schema, names: Sequence[str], what: str) -> str:
        found = [name for name in names if name in schema.names]
        if not found or schema.names.count(found[0]) > 1:
            got = ", ".join(shown(name, 40) for name in schema.names[:8]) or "none"
            wanted = f"a column {' or '.join(names)} of {what}"
            raise DataError(f"Expected {quoted(self.path)} to have {wanted}, but its columns are {got}")
        return found[0]

    @abstractmethod
    def _schema(self) -> pa.Schema: ...

    @abstractmethod
    def _labels(self) -> pa.ChunkedArray: ...

    @abstractmethod
    def _bytes(self, row: int) -> bytes | None: ...


class _Arrow(_Table):
    """A file of Arrow's streaming format, mapped into memory; only what is asked for is read."""

    def _schema(self) -> pa.Schema:
        import pyarrow as pa

        with regular(self.path) as held:
            content = mmap.mmap(held.fileno(), 0, access=mmap.ACCESS_READ)
        with pa.ipc.open_stream(pa.py_buffer(content), options=pa.ipc.IpcReadOptions(use_threads=False)) as reader:
            self._table = reader.read_all()
        return self._table.schema

    def _labels(self) -> pa.ChunkedArray:
        for name in (self._image, self._label):  # offsets that lie would be followed
            self._table[name].validate(full=True)
        self._chunks = self._table[self._image].chunks
        self._ends = list(accumulate(map(len, self._chunks)))
        return self._table[self._label]

    def _bytes(self, row: int) -> bytes | None:
        return _payload(self._chunks, self._ends, row)


class _Kept:
    """Groups of rows of Parquet files that were read last, so many as `_KEPT` bytes."""

    def __init__(self) -> None:
        self._groups: OrderedDict[tuple[Path, int], pa.ChunkedArray] = OrderedDict()
        self.lock = threading.Lock()

    def get(self, key: tuple[Path, int]) -> pa.ChunkedArray | None:
        if key in self._groups:
            self._groups.move_to_end(key)
        return self._groups.get(key)

    def clear(self) -> None:
        with self.lock:
            self._groups.clear()

    def put(self, key: tuple[Path, int], column: pa.ChunkedArray) -> None:
        self._groups[key] = column
        while len(self._groups) > 1 and sum(held.nbytes for held in self._groups.values()) > _KEPT:
            self._groups.popitem(last=False)


class _Parquet(_Table):
    """A Parquet file, read in groups of rows."""

    def __init__(self, path: Path, kept: _Kept) -> None:
        super().__init__(path)
        self._kept = kept

    def _schema(self) -> pa.Schema:
        with regular(self.path) as held, parquet(held) as file:
            groups = [file.metadata.row_group(number) for number in range(file.num_row_groups)]
            size = os.fstat(held.fileno()).st_size
            if any(group.total_byte_size > max(_GROUP, 100 * size) for group in groups):
                raise ValueError("it claims more than it can hold")
            self._ends = list(accumulate(group.num_rows for group in groups))
            return file.schema_arrow

    def _labels(self) -> pa.ChunkedArray:
        with regular(self.path) as held, parquet(held) as file:
            column = file.read(columns=[self._label], use_threads=False)[self._label]
        if len(column) != (self._ends[-1] if self._ends else 0):
            raise ValueError("it does not hold the rows that it claims")
        return column

    def _bytes(self, row: int) -> bytes | None:
        group = bisect_right(self._ends, row)
        with self._kept.lock:  # one thread reads what the others wait for
            column = self._kept.get((self.path, group))
            if column is None:
                with regular(self.path) as held, parquet(held) as file:
                    column = file.read_row_group(group, columns=[self._image], use_threads=False)[self._image]
                self._kept.put((self.path, group), column)
        ends = list(accumulate(map(len, column.chunks)))
        return _payload(column.chunks, ends, row - (self._ends[group - 1] if group else 0))


def _payload(chunks: Sequence[pa.Array], ends: Sequence[int], row: int) -> bytes | None:
    number = bisect_right(ends, row)
    value = chunks[number][row - (ends[number - 1] if number else 0)]
    if value.is_valid and hasattr(value, "keys"):
        value = value["bytes"]
    return value.as_py() if value.is_valid else None


def _arrow(folder: Path) -> list[str]:
    """The data files of one saved dataset, in their order."""
    files = Maybe(ListOf(Record({"filename": Text(1000)}), most=10**6))
    state = _json(folder / "state.json", Record({}, {"_data_files": files, "_indices_data_files": Maybe(ListOf(None))}))
    if state.get("_indices_data_files"):
        raise DataError(
            f"Expected {quoted(folder)} to be saved without indices: `flatten_indices` before `save_to_disk`"
        )
    names = [_plain(one["filename"], folder) for one in state.get("_data_files") or ()]
    if not names:
        raise DataError(f"Expected state.json in {quoted(folder)} to name its data files, but it names none")
    return names


def _plain(name: str, folder: Path) -> str:
    """A name of something in a folder itself."""
    if PurePath(name).name != name or name.startswith("."):
        raise DataError(f"Expected {quoted(folder)} to name only what is in it, but got {quoted(name)}")
    return name


def _json(path: Path, kind: Any) -> Any:
    return checked(documents.load(path), kind, quoted(path))


@contextlib.contextmanager
def _guarded(path: Path) -> Iterator[None]:
    try:
        yield
    except DataError:
        raise
    except Exception as error:  # a damaged file can have nearly anything raised
        raise DataError(f"Cannot read {quoted(path)}: {reason(error)}") from None
