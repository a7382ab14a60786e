"""Images that no memory holds: which of them are an epoch's, in which order, and how they get to a step in time.

The order of an epoch is a pure function of (seed, epoch) and the data set: groups of rows are shuffled, some at a time
make a window, and the images of a window are shuffled. It is cut into steps as any other order is, so the images of a
step are the same for any number of workers, none is dropped or seen twice, and a step's number is all that a resumed
training needs. (The shards themselves are in shuffled order, so a window is a fair sample.)
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from mollify_core import rng
from mollify_core.corruptions.draws import CHUNK
from mollify_core.corruptions.heldout import HELDOUT, SEVERITIES
from mollify_core.corruptions.suite import check, corrupt_rows
from mollify_core.datasets.load import ImageSet
from mollify_core.datasets.shards import GROUP_BYTES, GROUPS, Shards
from mollify_core.datasets.threads import ahead
from mollify_core.measure.metrics import COLUMNS, per_image
from mollify_core.measure.validation import CELLS, ValidationSet, epoch_images
from mollify_core.steps import Steps

if TYPE_CHECKING:
    import pyarrow as pa

_CHUNK = 64  # images that are decoded together
_AHEAD = 8  # such chunks that wait for their step
_PATIENCE = 10.0  # seconds that a thread has to end
_KEPT = 1 << 30  # bytes of corrupted validation images that stay in memory
_SAMPLE = 64  # images that an epoch measures at least
Fetch = Callable[[Sequence[np.ndarray]], Iterator["pa.Table"]]
"""Reads the images at some places, and at others: as `Shards.read` does, whole or in pieces."""


@dataclass(frozen=True)
class Window:
    """Some groups of an epoch, and their images in their order.

    Attributes:
        places: (m,) int64 places of its images.
        start: where the first of them stands in the epoch.
    """

    places: np.ndarray
    start: int


@dataclass(frozen=True)
class Stream:
    """The images to fit, streamed; a training asks it for what it would index in resident images.

    Attributes:
        shards: where they are.
        labels: (n,) int64, in the official order.
        places: (n,) int64, where they stand in the shards.
        threads: that decode.
        fetch: reads windows; by default this process does.
    """

    shards: Shards
    labels: Tensor
    places: np.ndarray
    threads: int = 1
    fetch: Fetch | None = None

    def __len__(self) -> int:
        return len(self.labels)

    def windows(self, seed: int, epoch: int) -> list[Window]:
        """The whole order of an epoch."""
        (places, starts), many = self._groups, self.shards.layout.groups
        shuffled = torch.randperm(len(starts) - 1, generator=rng.generator(seed, epoch, 0, "groups")).numpy()
        found, start = [], 0
        for number, first in enumerate(range(0, len(shuffled), many)):
            groups = shuffled[first : first + many]
            held = np.concatenate([places[starts[group] : starts[group + 1]] for group in groups])
            generator = rng.generator(seed, epoch, number, "window")
            held = held[torch.randperm(len(held), generator=generator).numpy()]
            found.append(Window(held, start))
            start += len(held)
        return found

    def readings(self, seed: int, epoch: int, steps: Steps, rank: int, first: int) -> list[np.ndarray]:
        """Places of what a worker reads of an epoch from a step on, by window: its share of each step, in order."""
        found, at, last = [], first * steps.size, len(steps) - 1
        whole = last * steps.size if steps.whole(last) else len(self)  # from here on every worker takes all
        for window in self.windows(seed, epoch):
            standing = np.arange(window.start, window.start + len(window.places))
            mine = window.places[(standing >= at) & ((standing % steps.workers == rank) | (standing >= whole))]
            if len(mine):
                found.append(mine)
        return found

    def batches(
        self, seed: int, epochs: int, epoch: int, steps: Steps, rank: int, first: int = 0
    ) -> Generator[ImageSet]:
        """A worker's images of each step of an epoch, on the CPU; the next epoch is begun before this one has ended.

        Args:
            seed: of the recipe.
            epochs: in all.
            epoch: index, from 0.
            steps: of an epoch.
            rank: the worker's.
            first: step to begin with.
        """
        pipe = self._begun.pop((seed, epoch, rank, first), None) or self._pipe(seed, epoch, steps, rank, first)
        self.close()
        try:
            for step in range(first, len(steps)):
                images = pipe.take(len(steps.share(step, rank)))
                following = (seed, epoch + 1, rank, 0)
                if (pipe.read or step == len(steps) - 1) and epoch + 1 < epochs and following not in self._begun:
                    self._begun[following] = self._pipe(seed, epoch + 1, steps, rank, 0)
                yield images
        finally:
            pipe.close()

    def sample(self, count: int, seed: int) -> ImageSet:
        """So many images, or all where there are fewer: the first of an order of their own."""
        steps = Steps(len(self), min(count, len(self)), 1)
        places = np.concatenate(self.readings(seed, -1, steps, 0, 0))[: steps.size]
        return self.shards.decode(self.shards.read(places))

    def close(self) -> None:
        """Ends what has been begun for an epoch that will not come."""
        for key in list(self._begun):
            self._begun.pop(key).close()

    def _pipe(self, seed: int, epoch: int, steps: Steps, rank: int, first: int) -> _Pipe:
        readings = self.readings(seed, epoch, steps, rank, first)
        return _Pipe(self.shards, readings, self.fetch or _fetching(self.shards), self.threads)

    @cached_property
    def _groups(self) -> tuple[np.ndarray, np.ndarray]:
        """(places in ascending order, where each group that has some begins among them, and the end)."""
        places = np.sort(self.places)
        return places, np.append(np.unique(places // self.shards.layout.rows, return_index=True)[1], len(places))

    @cached_property
    def _begun(self) -> dict[tuple[int, int, int, int], _Pipe]:
        return {}


class _Pipe:
    """Reads and decodes in a thread of its own, a little ahead of who takes.

    Attributes:
        read: whether all of it has been read and decoded.
    """

    def __init__(self, shards: Shards, readings: Sequence[np.ndarray], fetch: Fetch, threads: int) -> None:
        self._shards, self._readings, self._fetch, self._threads = shards, readings, fetch, threads
        self._chunks: queue.Queue[ImageSet | BaseException] = queue.Queue(_AHEAD)
        self._left: list[ImageSet] = []
        self._ended = threading.Event()
        self.read = False
        self._thread = threading.Thread(target=self._work, name="stream", daemon=True)
        self._thread.start()

    def take(self, count: int) -> ImageSet:
        """The next images, so many."""
        held = sum(map(len, self._left))
        while held < count:
            chunk = self._chunks.get()
            if isinstance(chunk, BaseException):
                raise chunk
            self._left.append(chunk)
            held += len(chunk)
        images = torch.cat([chunk.images for chunk in self._left])
        labels = torch.cat([chunk.labels for chunk in self._left])
        self._left = [ImageSet(images[count:], labels[count:])] if held > count else []
        return ImageSet(images[:count], labels[:count])

    def close(self) -> None:
        """Ends the thread; what it has read is lost."""
        self._ended.set()
        until = time.monotonic() + _PATIENCE
        while self._thread.is_alive() and time.monotonic() < until:
            try:
                self._chunks.get(timeout=0.05)
            except queue.Empty:
                continue

    def _work(self) -> None:
        tables = self._fetch(self._readings)
        try:
            with ThreadPoolExecutor(self._threads) as pool:
                for table in tables:
                    for start in range(0, len(table), _CHUNK):
                        self._chunks.put(self._shards.decode(table.slice(start, _CHUNK), pool))
                        if self._ended.is_set():
                            return
            self.read = True
        except BaseException as error:
            self._chunks.put(error)
        finally:
            close = getattr(tables, "close", None)
            if close is not None:
                close()


@dataclass(frozen=True)
class StreamedValidation:
    """Validation images of which only those that an epoch measures are held; see `ValidationSet`, whose place it takes.

    Its order is that of the shards: those that choose, then those that only judge, as everywhere.

    Attributes:
        shards: where they are.
        places: (n,) int64, where they stand in the shards.
        labels: (n,) int64.
        choosing: how many images choose.
        first: the first of these, clean and corrupted, in memory.
        seed: of the corruptions.
        fetch: reads them; by default this process does.
        groups: (n,) int64 numbers of the groups that images belong to; None where there are no groups.
    """

    shards: Shards
    places: np.ndarray
    labels: Tensor
    choosing: int
    first: ValidationSet
    seed: int
    fetch: Fetch | None = None
    groups: Tensor | None = None

    @classmethod
    def make(
        cls,
        shards: Shards,
        places: np.ndarray,
        labels: np.ndarray,
        judging: np.ndarray,
        n_fit: int,
        *,
        seed: int,
        device: torch.device | str,
        first: ImageSet | None = None,
        fetch: Fetch | None = None,
        groups: np.ndarray | None = None,
    ) -> StreamedValidation:
        """Orders the images, and corrupts the first of them.

        Args:
            shards: where they are.
            places, labels: of the validation images, in the official order.
            judging: row numbers of those that only judge.
            n_fit: number of images to fit.
            seed: of the corruptions.
            device: where the first are to be.
            first: these, where somebody has read them already, see `first_places`.
            fetch: reads the others.
            groups: (n,) of the validation images, in the official order.
        """
        order, choosing = _order(places, judging)
        if first is None:
            first = shards.decode(shards.read(first_places(shards, places, judging, n_fit)))
        check(first.images, *_CELLS[0])
        cells = torch.empty((CELLS, *first.images.shape), dtype=torch.uint8)
        cells[0] = first.images
        for cell, (name, severity) in enumerate(_CELLS, 1):
            cells[cell] = _corrupted(first.images, name, severity, 0, seed)
        known = ValidationSet(cells.to(device), first.labels.to(device), len(first))
        ordered = torch.from_numpy(labels[order]).to(device)
        together = None if groups is None else torch.from_numpy(groups[order])
        return cls(shards, places[order], ordered, choosing, known, seed, fetch, together)

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def cells(self) -> Tensor:
        """Those of the first images."""
        return self.first.cells

    def of_epoch(self, n_fit: int) -> int:
        """How many images an epoch measures."""
        return len(self.first)

    def measure(self, forward: Callable[[Tensor], Tensor], rows: range) -> Tensor:
        """See `ValidationSet.measure`. All images are read again, and corrupted some at a time.

        Args:
            forward: as there.
            rows: those of a worker, as `Worker.share` gives them; of all images it measures other rows than these.
        """
        if rows.stop <= len(self.first):
            return self.first.measure(forward, rows)
        values = torch.zeros(CELLS, len(self), len(COLUMNS))
        chunks = range(rows.start, -(-len(self) // CHUNK), rows.step)
        wanted = [self.places[chunk * CHUNK : (chunk + 1) * CHUNK] for chunk in chunks]
        tables = (self.fetch or _fetching(self.shards))(wanted)
        device = self.labels.device
        with ThreadPoolExecutor(torch.get_num_threads()) as pool:
            for chunk, table in zip(chunks, _cut(tables, [len(places) for places in wanted]), strict=True):
                images = self.shards.decode(table, pool).images
                part = slice(chunk * CHUNK, chunk * CHUNK + len(images))
                for cell, (name, severity) in enumerate((("", 0), *_CELLS)):
                    shown = _corrupted(images, name, severity, chunk, self.seed) if name else images
                    values[cell, part] = per_image(forward(shown.to(device)), self.labels[part]).cpu()
        return values


_CELLS = [(name, severity) for name in HELDOUT for severity in SEVERITIES]


def _fetching(shards: Shards) -> Fetch:
    """Reads in this process, one reading ahead."""

    def fetch(readings: Sequence[np.ndarray]) -> Iterator[pa.Table]:
        with ThreadPoolExecutor(1) as pool:
            yield from ahead(pool, shards.read, readings, 2)

    return fetch


def epoch_sample(n_fit: int, choosing: int, image_bytes: int) -> int:
    """How many of the images that choose an epoch measures: as of resident images, but no more than stay in memory."""
    return min(epoch_images(n_fit, choosing), max(_SAMPLE, _KEPT // (CELLS * image_bytes)))


def held_bytes(image_bytes: int, n_fit: int, choosing: int) -> int:
    """What a training holds of streamed images: what an epoch measures, clean and corrupted, and two windows."""
    return image_bytes * CELLS * epoch_sample(n_fit, choosing, image_bytes) + 2 * GROUPS * GROUP_BYTES


def first_places(shards: Shards, places: np.ndarray, judging: np.ndarray, n_fit: int) -> np.ndarray:
    """Places of the images that an epoch measures: the first of those that choose."""
    order, choosing = _order(places, judging)
    return places[order][: epoch_sample(n_fit, choosing, shards.image_bytes)]


def _order(places: np.ndarray, judging: np.ndarray) -> tuple[np.ndarray, int]:
    """(rows of the validation images in their order, how many of them choose)."""
    judges = np.zeros(len(places), bool)
    judges[judging] = True
    by_place = np.argsort(places)
    order = np.concatenate([by_place[~judges[by_place]], by_place[judges[by_place]]])
    return order, len(places) - int(judges.sum())


def _corrupted(images: Tensor, name: str, severity: int, chunk: int, seed: int) -> Tensor:
    """Images from chunk * CHUNK on, corrupted as they would be among all."""
    parts = [
        corrupt_rows(part, name, severity, number, seed=seed) for number, part in enumerate(images.split(CHUNK), chunk)
    ]
    return torch.cat(parts)


def _cut(tables: Iterator[pa.Table], lengths: Sequence[int]) -> Iterator[pa.Table]:
    """The rows of tables in other pieces."""
    import pyarrow as pa

    held: list[pa.Table] = []
    for length in lengths:
        while sum(map(len, held)) < length:
            held.append(next(tables))
        whole = pa.concat_tables(held)
        yield whole.slice(0, length)
        held = [whole.slice(length)]
