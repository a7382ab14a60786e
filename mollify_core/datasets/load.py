"""Read prepared data: as a table, or as images and labels in memory."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mollify_core.datasets.specs import DatasetSpec
from mollify_core.errors import ConfigError, DataError, nearest

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa
    import torch

SPLITS = ("train", "test")


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
        manifest: name, counts, class names, shape, scaling, where it came from, checksums.
    """

    spec: DatasetSpec
    folder: Path
    manifest: dict[str, Any]

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
        """Sixteen hexadecimal digits of the images and labels, equal wherever these are equal."""
        return self.manifest["fingerprint"]

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
        import pyarrow.parquet as pq

        table = self._read(split, lambda path: pq.read_table(path, page_checksum_verification=True))
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
        import pyarrow.parquet as pq

        return self._read(split, lambda path: pq.read_table(path, columns=["label"]))["label"].to_numpy()

    def tensors(self, split: str) -> ImageSet:
        """One split in memory of its own, writable; raises as `table` does."""
        import torch

        table = self.table(split)
        images = torch.empty((len(table), *self.spec.image_shape), dtype=torch.uint8)
        start = 0
        for chunk in table["image"].chunks:
            images[start : start + len(chunk)].numpy()[:] = chunk.to_numpy_ndarray()
            start += len(chunk)
        return ImageSet(images, torch.from_numpy(table["label"].to_numpy().copy()))

    def select(self, split: str, rows: np.ndarray) -> ImageSet:
        """The rows `rows`, (m,) integers, in that order; nothing is read but the groups of rows that hold them."""
        import numpy as np
        import pyarrow.parquet as pq
        import torch

        def read(path: Path) -> pa.Table:
            with pq.ParquetFile(path, page_checksum_verification=True) as file:
                sizes = [file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)]
                ends = np.cumsum(sizes)
                groups = np.unique(np.searchsorted(ends, rows, side="right"))
                held = np.concatenate([np.arange(ends[group] - sizes[group], ends[group]) for group in groups])
                return file.read_row_groups(groups.tolist()).take(np.searchsorted(held, rows))

        table = self._read(split, read)
        pixels = np.frombuffer(b"".join(table["image"].to_pylist()), np.uint8)
        images = torch.from_numpy(pixels.reshape(-1, *self.spec.image_shape).copy())
        return ImageSet(images, torch.from_numpy(table["label"].to_numpy().copy()))

    def _read(self, split: str, read: Callable[[Path], pa.Table]) -> pa.Table:
        import pyarrow as pa

        if split not in SPLITS:
            raise ConfigError(f"Unknown split {split!r}{nearest(split, SPLITS)}")
        path = self.folder / f"{split}.parquet"
        try:
            return read(path)
        except (OSError, pa.ArrowException) as error:
            reason = " ".join(str(error).split())
            raise DataError(
                f"Cannot read {str(path)!r}; delete its folder to have it prepared again: {reason}"
            ) from None
