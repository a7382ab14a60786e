"""Read prepared data: as a table, or as images and labels in memory."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from mollify_core.datasets.files import quoted
from mollify_core.datasets.specs import DatasetSpec
from mollify_core.disk import regular
from mollify_core.errors import ConfigError, DataError, nearest
from mollify_core.foreign import clean

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq
    import torch

SPLITS = ("train", "test")
MOST_TWINS = 10_000  # pairs that are kept
VALIDATION = "validation"
"""Of a manifest's counts: how many of the training images, the last ones, are those to validate."""


@dataclass(frozen=True, eq=False)
class ImageSet:
    """Images with one class each.

    Attributes:
        images: (n, channels, height, width) uint8.
        labels: (n,) int64 class indices.
    """

    images: torch.Tensor
    labels: torch.Tensor

    def __post_init__(self) -> None:
        if self.images.ndim != 4 or self.labels.shape != self.images.shape[:1]:
            raise DataError(
                "Expected images of shape (n, channels, height, width) and n labels, "
                f"but got {tuple(self.images.shape)} and {tuple(self.labels.shape)}"
            )

    def __len__(self) -> int:
        return len(self.labels)

    def pinned(self) -> ImageSet:
        """The same in memory from which a GPU copies while this process goes on."""
        return ImageSet(self.images.pin_memory(), self.labels.pin_memory())

    def to(self, device: torch.device | str) -> ImageSet:
        """The same on a device."""
        return ImageSet(self.images.to(device, non_blocking=True), self.labels.to(device, non_blocking=True))

    def select(self, indices: np.ndarray | torch.Tensor) -> ImageSet:
        """A copy of the rows `indices`, (m,) integers, in that order."""
        import torch

        rows = torch.as_tensor(indices, dtype=torch.int64, device=self.images.device)
        return ImageSet(self.images[rows], self.labels[rows])


@dataclass(frozen=True)
class Prepared:
    """A data set in the cache.

    Attributes:
        spec: what it is.
        folder: holds train.parquet, test.parquet and manifest.json.
        manifest: name, counts, class names, shape, scaling, where it came from, checksums. The images that validate, of
            a set that has a split for that, are the last of the training images and counted as "validation" too.
        groups: split -> (n,) int64 number of each image's group; empty where nobody has said which belong together.
    """

    spec: DatasetSpec
    folder: Path
    manifest: dict[str, Any]
    groups: Mapping[str, np.ndarray] = field(default_factory=dict, repr=False, compare=False)

    @property
    def verified(self) -> bool:
        """Whether the files are what they are said to be: the official ones, or a folder of one's own."""
        return self.manifest["verified"]

    @property
    def official(self) -> bool:
        """Whether there are official files, and these are they."""
        return self.verified and bool(self.spec.checksums)

    @property
    def fingerprint(self) -> str:
        """Sixteen hexadecimal digits of the images, labels and groups, equal wherever these are equal."""
        return self.manifest["fingerprint"]

    @property
    def validation(self) -> int:
        """How many of the training images, the last ones, are those to validate; 0 where some are to be held out."""
        return self.manifest["counts"].get(VALIDATION, 0)

    @property
    def twins(self) -> list[list[int]]:
        """Pairs of rows, those of train and then those of test, whose images are nearly the same; see `twins.twins`."""
        return self.manifest.get("twins") or []

    def table(self, split: str) -> pa.Table:
        """One split as a table.

        Args:
            split: "train" or "test".

        Returns:
            Columns image (fixed-shape tensor (C, H, W) uint8), label (int64) and index (int64, the row in the
            official order). The file itself stores an image as C * H * W bytes, since Parquet would read single
            numbers twenty times slower.

        Raises:
            ConfigError: there is no such split.
            DataError: the file is damaged or gone.
        """
        import pyarrow as pa

        def read(file: pq.ParquetFile) -> pa.Table:  # a chunk for each group: all in one would be copied on the way
            return pa.concat_tables([file.read_row_group(g, use_threads=False) for g in range(file.num_row_groups)])

        table = self._read(split, read)
        kind = pa.fixed_shape_tensor(pa.uint8(), self.spec.image_shape)
        size = kind.storage_type.list_size
        chunks = []
        for chunk in table["image"].chunks:  # the same bytes under another type: nothing is copied
            pixels = pa.Array.from_buffers(
                pa.uint8(), len(chunk) * size, [None, chunk.buffers()[1]], offset=chunk.offset * size
            )
            chunks.append(pa.ExtensionArray.from_storage(kind, pa.FixedSizeListArray.from_arrays(pixels, size)))
        return table.set_column(0, "image", pa.chunked_array(chunks, kind))

    def labels(self, split: str) -> np.ndarray:
        """(n,) int64 classes of one split, without its images; raises as `table` does."""
        return whole_numbers(
            self._read(split, lambda file: file.read(columns=["label", "index"], use_threads=False))["label"]
        )

    def tensors(self, split: str) -> ImageSet:
        """One split in memory of its own, writable; raises as `table` does."""
        import torch

        table = self.table(split)
        images = torch.empty((len(table), *self.spec.image_shape), dtype=torch.uint8)
        start = 0
        for chunk in table["image"].chunks:
            images[start : start + len(chunk)].numpy()[:] = chunk.to_numpy_ndarray()
            start += len(chunk)
        return ImageSet(images, torch.from_numpy(whole_numbers(table["label"])))

    def select(self, split: str, rows: np.ndarray) -> ImageSet:
        """The rows `rows`, (m,) integers, in that order; nothing is read but the groups of rows that hold them."""
        import numpy as np
        import torch

        def read(file: pq.ParquetFile) -> pa.Table:
            sizes = [file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)]
            ends = np.cumsum(sizes)
            groups = np.unique(np.searchsorted(ends, rows, side="right"))
            held = np.concatenate([np.arange(ends[group] - sizes[group], ends[group]) for group in groups])
            return file.read_row_groups(groups.tolist(), use_threads=False).take(np.searchsorted(held, rows))

        table = self._read(split, read)
        pixels = np.frombuffer(b"".join(table["image"].to_pylist()), np.uint8)
        images = torch.from_numpy(pixels.reshape(-1, *self.spec.image_shape).copy())
        return ImageSet(images, torch.from_numpy(whole_numbers(table["label"])))

    def _read(self, split: str, read: Callable[[pq.ParquetFile], pa.Table]) -> pa.Table:
        """What is read of a split's file, which is what the manifest says of it."""
        import numpy as np

        if split not in SPLITS:
            raise ConfigError(f"Unknown split {split!r}{nearest(split, SPLITS)}")
        path = self.folder / f"{split}.parquet"
        try:
            with regular(path) as held, parquet(held) as file:
                self._check_form(file, self.manifest["counts"][split], os.fstat(held.fileno()).st_size)
                table = read(file)
                whole = len(table) == self.manifest["counts"][split]
            if whole and not np.array_equal(whole_numbers(table["index"]), np.arange(len(table))):
                raise ValueError("its columns are mixed up")
            labels = whole_numbers(table["label"])
            if any(column.null_count for column in table.columns):
                raise ValueError("values are missing")
            if len(table) and not 0 <= labels.min() <= labels.max() < self.spec.classes:
                raise ValueError(f"labels are not in [0, {self.spec.classes})")
            return table
        except Exception as error:  # a damaged file can have nearly anything raised
            raise damaged(path, error) from None

    def _check_form(self, file: pq.ParquetFile, rows: int, size: int) -> None:
        """Raises a ValueError unless a file is of the form in which it was written; then nothing is larger than it is.

        Args:
            file: of images.
            rows: their number.
            size: of the file, in bytes.
        """
        import pyarrow as pa

        each = math.prod(self.spec.image_shape)
        fields = [("image", pa.binary(each)), ("label", pa.int64()), ("index", pa.int64())]
        if not file.schema_arrow.equals(pa.schema(fields)):
            raise ValueError("its columns are others")
        if file.metadata.num_rows != rows or rows * each > size:
            raise ValueError(f"it has {size} bytes and {file.metadata.num_rows} images, not {rows} of {each} bytes")
        for group in range(file.num_row_groups):
            known = file.metadata.row_group(group)
            columns = [known.column(column) for column in range(known.num_columns)]
            if any(column.compression != "UNCOMPRESSED" or column.has_dictionary_page for column in columns):
                raise ValueError("it is written in another way")
            if known.num_rows * each > size or any(column.num_values != known.num_rows for column in columns):
                raise ValueError("its groups of rows are none")


def damaged(path: Path, error: Exception) -> DataError:
    """What to say of a prepared file that cannot be read."""
    reason = clean(" ".join(str(error).split()), 160) or type(error).__name__
    return DataError(f"Cannot read {quoted(path)}; delete its folder to have it prepared again: {reason}")


def parquet(held: BinaryIO) -> pq.ParquetFile:
    """A Parquet file, opened; read it with `use_threads=False`.

    A thread of Arrow's that still holds a Python file when Python ends aborts the process: so none may read one,
    neither ahead nor beside another. One column has nearly all bytes, so nothing is lost.
    """
    import pyarrow.parquet as pq

    return pq.ParquetFile(held, page_checksum_verification=True, pre_buffer=False)


def whole_numbers(column: pa.ChunkedArray) -> np.ndarray:
    """(n,) int64 of a column without gaps; pyarrow's own way imports pandas, which takes half a second."""
    import numpy as np

    chunks = [np.frombuffer(c.buffers()[1], np.int64)[c.offset : c.offset + len(c)] for c in column.chunks if len(c)]
    return np.concatenate([np.empty(0, np.int64), *chunks])
