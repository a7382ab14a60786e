"""A data set as shards: Parquet files of images as they came, in one shuffled order, each read in groups of rows.

They are for images that no memory holds. `<split>.parquet` has the label of every image in the official order, and the
place at which the image stands; `<split>-00000.parquet` and so on hold the images by place. That order is shuffled once
for all, so the images of any group are a fair sample, and a reader needs no more than some groups at a time.

An image is kept as the file that it came as, where that is less than half of its pixels, else as these, which need no
decoding: what comes out is the same, bit by bit, as from data that are resident.
"""

from __future__ import annotations

import functools
import math
import os
import struct
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mollify_core import rng
from mollify_core.datasets.files import quoted
from mollify_core.datasets.images import scaled
from mollify_core.datasets.load import SPLITS, ImageSet, Prepared, damaged, parquet, whole_numbers
from mollify_core.datasets.specs import BACKGROUNDS, ImageFolder, colour
from mollify_core.disk import regular
from mollify_core.errors import ConfigError
from mollify_core.kinds import ListOf, Record, Whole, fits

if TYPE_CHECKING:
    import pyarrow as pa

GROUP_BYTES = 1 << 23
"""Of the images of a group of rows, at most."""
GROUPS = 16
"""Of a file, and of a window: what is read before its images are shuffled."""
LAYOUT = "shards"
"""Of a manifest: split -> `rows` and `groups` of its `Layout`."""
_FEWEST = 16  # rows of a group
_AT_ONCE = 16  # images that one thread decodes
_SPILL = 1 << 26  # bytes of images that wait in memory for their files
_RECORD = struct.Struct("<qqqq")  # place, label, index, bytes


@dataclass(frozen=True)
class Layout:
    """Where the images of one split stand; a manifest says it, since the order of a training depends on it.

    Attributes:
        count: of images.
        rows: images in a group.
        groups: in a file, and in a window.
    """

    count: int
    rows: int
    groups: int

    @classmethod
    def of(cls, count: int, image_bytes: int) -> Layout:
        """That of so many images, of so many bytes of pixels each, that are written now."""
        return cls(count, max(_FEWEST, GROUP_BYTES // image_bytes), GROUPS)

    @property
    def files(self) -> int:
        """Files in all."""
        return math.ceil(self.count / (self.rows * self.groups))

    def size(self, group: int) -> int:
        """Images in one group."""
        return min(self.rows, self.count - group * self.rows)


class Writer:
    """Writes the images of one split, given in the official order, by their places.

    No more of them is in memory than a file holds: they are put down roughly by place first, and in order then.

    Args:
        folder: where to.
        split: "train" or "test".
        layout: where they will stand.
    """

    def __init__(self, folder: Path, split: str, layout: Layout) -> None:
        import torch

        self._folder, self._split, self._layout = folder, split, layout
        generator = rng.generator("shards", split, layout.count)
        self._places = torch.randperm(layout.count, generator=generator).numpy()
        self._labels = np.empty(layout.count, np.int64)
        self._waiting: dict[int, list[bytes]] = {}
        self._bytes = self._written = 0

    def add(self, labels: np.ndarray, payloads: Sequence[bytes]) -> None:
        """Takes the next images."""
        each = self._layout.rows * self._layout.groups
        for label, payload in zip(labels.tolist(), payloads, strict=True):
            place = int(self._places[self._written])
            self._labels[self._written] = label
            record = _RECORD.pack(place, label, self._written, len(payload))
            self._waiting.setdefault(place // each, []).extend((record, payload))
            self._written += 1
            self._bytes += len(payload)
        if self._bytes > _SPILL:
            self._spill()

    def close(self) -> None:
        """Writes the files; all images have been given."""
        import pyarrow as pa

        assert self._written == self._layout.count
        self._spill()
        for file in range(self._layout.files):
            spilt = self._spilt(file)
            rows = sorted(_records(spilt.read_bytes()), key=lambda row: row[0])
            columns = {
                "image": pa.array([row[3] for row in rows], pa.binary()),
                "label": pa.array([row[1] for row in rows], pa.int64()),
                "index": pa.array([row[2] for row in rows], pa.int64()),
            }
            write_parquet(shard(self._folder, self._split, file), pa.table(columns), self._layout.rows)
            spilt.unlink()
        index = pa.table({"label": self._labels, "place": self._places})
        write_parquet(self._folder / f"{self._split}.parquet", index, 1 << 20)

    def _spill(self) -> None:
        for file, records in self._waiting.items():
            with open(self._spilt(file), "ab") as spilt:
                spilt.writelines(records)
        self._waiting, self._bytes = {}, 0

    def _spilt(self, file: int) -> Path:
        return self._folder / f"{self._split}-{file:05d}.spilt"


@dataclass(frozen=True)
class Shards:
    """One split's shards, to be read by anybody who sees their folder. Cheap to build, and picklable.

    Attributes:
        folder: of the prepared data set.
        split: "train" or "test".
        layout: of its images.
        image_shape: (channels, height, width) of an image.
        classes: number of classes.
        background: "#rrggbb" that shows where an image is transparent.
    """

    folder: Path
    split: str
    layout: Layout
    image_shape: tuple[int, int, int]
    classes: int
    background: str

    @property
    def image_bytes(self) -> int:
        """Of one image's pixels."""
        return math.prod(self.image_shape)

    def read(self, places: np.ndarray) -> pa.Table:
        """Columns image (binary, see `decode`), label and index of the images at (m,) places, in this order.

        Raises:
            DataError: a file is damaged or gone.
        """
        import pyarrow as pa

        of_group = places // self.layout.rows
        tables, rows = [], []  # what is wanted of each group, and where it is wanted
        for group in np.unique(of_group).tolist():
            rows.append(np.flatnonzero(of_group == group))
            tables.append(self._group(group).take(places[rows[-1]] - group * self.layout.rows))
        return pa.concat_tables(tables).take(np.argsort(np.concatenate(rows))).combine_chunks()

    def decode(self, table: pa.Table, pool: Executor | None = None) -> ImageSet:
        """The images of a table of `read`, in memory of their own.

        Args:
            table: some rows.
            pool: threads that help.

        Raises:
            DataError: an image is damaged.
        """
        import torch

        images = np.empty((len(table), *self.image_shape), np.uint8)
        payloads = [payload for chunk in table["image"].chunks for payload in chunk]

        def fill(start: int) -> None:
            for row, kept in enumerate(payloads[start : start + _AT_ONCE], start):
                raw = kept.as_buffer()
                if len(raw) == self.image_bytes:
                    images[row] = np.frombuffer(raw, np.uint8).reshape(self.image_shape)
                else:
                    what = f"an image of {self.split} in {quoted(self.folder)}"
                    images[row] = scaled(raw.to_pybytes(), what, self.image_shape[-1], self.background)

        starts = range(0, len(images), _AT_ONCE)
        for _ in map(fill, starts) if pool is None else pool.map(fill, starts):
            pass
        return ImageSet(torch.from_numpy(images), torch.from_numpy(whole_numbers(table["label"])))

    def _group(self, group: int) -> pa.Table:
        import pyarrow as pa

        in_file, number = divmod(group, self.layout.groups)
        path = shard(self.folder, self.split, in_file)
        fields = [("image", pa.binary()), ("label", pa.int64()), ("index", pa.int64())]
        try:
            with regular(path) as held, parquet(held) as file:
                if not file.schema_arrow.equals(pa.schema(fields)):
                    raise ValueError("its columns are others")
                self._check(file.metadata.row_group(number), group, os.fstat(held.fileno()).st_size)
                table = file.read_row_group(number, use_threads=False)
            labels = whole_numbers(table["label"])
            if any(column.null_count for column in table.columns):
                raise ValueError("values are missing")
            if len(labels) and not 0 <= labels.min() <= labels.max() < self.classes:
                raise ValueError(f"labels are not in [0, {self.classes})")
            return table
        except Exception as error:  # a damaged file can have nearly anything raised
            raise damaged(path, error) from None

    def _check(self, known: Any, group: int, size: int) -> None:
        columns = [known.column(column) for column in range(known.num_columns)]
        if known.num_rows != self.layout.size(group) or any(c.num_values != known.num_rows for c in columns):
            raise ValueError("its groups of rows are others")
        if any(c.compression != "UNCOMPRESSED" or c.has_dictionary_page for c in columns):
            raise ValueError("it is written in another way")
        if sum(c.total_uncompressed_size for c in columns) > size:
            raise ValueError("it claims more than it holds")


@dataclass(frozen=True)
class Sharded(Prepared):
    """A prepared data set whose images are in shards."""

    def shards(self, split: str) -> Shards:
        """Those of one split."""
        source = self.spec.source
        shown = colour(source.background) if isinstance(source, ImageFolder) else BACKGROUNDS["white"]
        layout = Layout(self.manifest["counts"][split], *self.manifest[LAYOUT][split])
        return Shards(self.folder, split, layout, self.spec.image_shape, self.spec.classes, shown)

    def places(self, split: str) -> np.ndarray:
        """(n,) int64 place of every image, in the official order; raises as `table` does."""
        return _index(self.folder / f"{split}.parquet", self.manifest["counts"][split], self.spec.classes)[1]

    def labels(self, split: str) -> np.ndarray:
        return _index(self.folder / f"{split}.parquet", self.manifest["counts"][split], self.spec.classes)[0]

    def table(self, split: str) -> pa.Table:
        raise ConfigError(f"Expected images in memory, but those of {self.spec.name} are streamed")

    def tensors(self, split: str) -> ImageSet:
        return self.select(split, np.arange(self.manifest["counts"][split]))

    def select(self, split: str, rows: np.ndarray) -> ImageSet:
        import torch

        shards, places = self.shards(split), self.places(split)[np.asarray(rows, np.int64)]
        images = torch.empty((len(places), *self.spec.image_shape), dtype=torch.uint8)
        labels = torch.empty(len(places), dtype=torch.int64)
        of_group = places // shards.layout.rows
        for group in np.unique(of_group).tolist():
            mine = np.flatnonzero(of_group == group)
            found = shards.decode(shards.read(places[mine]))
            images[mine], labels[mine] = found.images, found.labels
        return ImageSet(images, labels)


def payload(pixels: np.ndarray, raw: bytes | None) -> bytes:
    """What is kept of an image: the file that it came as, where that is less than half of its pixels, else these."""
    return pixels.tobytes() if raw is None or 2 * len(raw) > pixels.nbytes else raw


def are_there(manifest: dict[str, Any]) -> bool:
    """Whether a manifest says where images stand, and knows all their files."""
    if not fits(manifest.get(LAYOUT), Record(dict.fromkeys(SPLITS, ListOf(Whole(1, 2**40), 2, 2)))):
        return False
    layouts = {split: Layout(manifest["counts"][split], *manifest[LAYOUT][split]) for split in SPLITS}
    names = {shard(Path(), split, file).name for split, layout in layouts.items() for file in range(layout.files)}
    return names <= manifest["files"].keys()


def shard(folder: Path, split: str, file: int) -> Path:
    """One of the files that hold a split's images."""
    return folder / f"{split}-{file:05d}.parquet"


def write_parquet(path: Path, table: pa.Table, rows: int) -> None:
    """Writes a table in groups of so many rows, with checksums and plainly, as all prepared data are."""
    import pyarrow.parquet as pq

    with open(path, "wb") as file:  # Arrow takes no paths but UTF-8
        pq.write_table(
            table,
            file,
            row_group_size=rows,
            compression="none",
            use_dictionary=False,
            write_statistics=False,
            write_page_checksum=True,
        )


@functools.lru_cache(maxsize=4)  # asked for several times on the way to a plan
def _index(path: Path, count: int, classes: int) -> tuple[np.ndarray, np.ndarray]:
    import pyarrow as pa

    try:
        with regular(path) as held, parquet(held) as file:
            if not file.schema_arrow.equals(pa.schema([("label", pa.int64()), ("place", pa.int64())])):
                raise ValueError("its columns are others")
            if file.metadata.num_rows != count or 16 * count > os.fstat(held.fileno()).st_size:
                raise ValueError(f"it does not hold {count} rows")
            table = file.read(use_threads=False)
        labels, places = whole_numbers(table["label"]), whole_numbers(table["place"])
        if any(column.null_count for column in table.columns) or not 0 <= labels.min() <= labels.max() < classes:
            raise ValueError(f"labels are not in [0, {classes})")
        if not np.array_equal(np.sort(places), np.arange(count)):
            raise ValueError("places are not those of its images")
        return labels, places
    except Exception as error:
        raise damaged(path, error) from None


def _records(data: bytes) -> Iterator[tuple[int, int, int, bytes]]:
    at = 0
    while at < len(data):
        place, label, index, length = _RECORD.unpack_from(data, at)
        at += _RECORD.size
        yield place, label, index, data[at : at + length]
        at += length
