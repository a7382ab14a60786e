"""From source files to Parquet: find or fetch them, check them, and write them once into the cache."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import re
from collections.abc import Mapping, Sequence
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Any

import numpy as np

from mollify_core.datasets import cache as disk
from mollify_core.datasets import digits, folder, pickles, shards, tinyimagenet
from mollify_core.datasets.download import Progress, download, progress_bar
from mollify_core.datasets.files import quoted
from mollify_core.datasets.load import MOST_TWINS, SPLITS, VALIDATION, Prepared
from mollify_core.datasets.lookup import spec
from mollify_core.datasets.shards import Sharded
from mollify_core.datasets.source import Source
from mollify_core.datasets.specs import DatasetSpec, ImageArchive, ImageFolder, PickleArchive
from mollify_core.errors import ChecksumError, ConfigError, DataError, StorageError
from mollify_core.foreign import expanded
from mollify_core.kinds import ListOf, MapOf, Maybe, Text, Whole, fits

ROWS_PER_GROUP = 5_000  # what a Parquet reader can take on its own
_MANIFEST: dict[str, Any] = {
    **dict.fromkeys(("source", "fingerprint"), str),
    "mean": [float],
    "std": [float],
    "verified": bool,
    "source_md5": {str: str},
    "counts": {str: int},
    "class_names": [str],
    "image_shape": [int],
}
_TWINS = Maybe(ListOf(ListOf(Whole(0), 2, 2), most=MOST_TWINS))
"""Those of a cache of version 0.2 or later."""


def prepare(
    name: str | DatasetSpec,
    *,
    data_dir: str | Path | None = None,
    image_size: int | None = None,
    background: str | None = None,
    skip_bad: bool = False,
    feed: str = "auto",
    groups: str | Path | None = None,
    cache_dir: str | Path | None = None,
    mirrors: Sequence[str] = (),
    allow_unverified: bool = False,
    progress: Progress | None = None,
) -> Prepared:
    """The data set `name`, ready to be read; fetched, checked and written to the cache if it is not there yet.

    Args:
        name: a key of `DATASETS`, the path of a folder of images, any name for the folder of images in `data_dir`, or a
            specification of one's own.
        data_dir: where the files are, instead of downloading them: their folder, its parent, a folder with the
            official archive, or the archive. Nothing is written there.
        image_size: side in pixels for a folder of images; None for every other data set.
        background: what shows where images of a folder are transparent, see `specs.colour`; None is white.
        cache_dir: where prepared data go; default $MOLLIFY_CACHE, else ~/.cache/mollify.
        mirrors: http or https addresses to try before the built-in ones: of the archive, or of the folder with it.
        skip_bad: leave out images of a folder that cannot be read, rather than stop there.
        feed: how a training is to get the images, one of `specs.FEEDS`.
        groups: a file that says which images of a folder belong together, see `groups.of_images`.
        allow_unverified: take source files that are not the official ones; `Prepared.verified` is then false.
        progress: called with (bytes done, bytes in total or None) during a download, with (images done, images in
            total) while images are decoded; default a bar on a terminal.

    Raises:
        ConfigError: the data set is unknown, or an argument does not fit it.
        ChecksumError: a source file is not the official one.
        DataError: a source file is missing, damaged, or of another form than expected, or a download failed.
        StorageError: the cache cannot be written.
    """
    dataset = name
    if isinstance(dataset, str):
        dataset = spec(
            dataset,
            data_dir=data_dir,
            image_size=image_size,
            background=background,
            skip_bad=skip_bad,
            feed=feed,
            groups=groups,
            cache_dir=cache_dir,
        )
    origin = dataset.source
    cache = disk.cache_folder(cache_dir)
    if isinstance(origin, ImageFolder):
        if origin.listed is None:
            origin = dataclasses.replace(origin, listed=folder.listed(origin.path).settled(origin.groups))
            dataset = dataclasses.replace(dataset, source=origin)
        source = folder.source(dataset, origin, cache)
        prepared = _build(cache, dataset, source, allow_unverified, progress)
        origin.listed.files.forget()
        return _readable(prepared, origin)
    if origin is None:
        if data_dir is not None:
            raise ConfigError(
                f"Expected no data folder for {dataset.name}, which scikit-learn brings along, "
                f"but got {str(data_dir)!r}"
            )
    else:
        urls = disk.addresses(origin.filename, mirrors, (*origin.mirrors, origin.url))
        if data_dir is not None:
            path = expanded(data_dir)
            found = _find(dataset, origin, path, str(path.resolve()))
            return _build(cache, dataset, found, allow_unverified, progress)
    official = _place(cache, dataset, dataset.checksums)
    ready = _open(official, dataset)
    if ready is not None:
        return ready
    with disk.storage(cache), disk.locked(cache / f".{dataset.name}.lock"):
        ready = _open(official, dataset)  # another process may have been first
        if ready is not None:
            return ready
        if origin is None:
            return _build(cache, dataset, digits.source(), allow_unverified, progress)
        path = cache / origin.filename
        with nullcontext(progress) if progress else progress_bar(origin.filename) as callback:
            download(urls, origin.md5, path, progress=callback)
        found = _find(dataset, origin, path, f"official {origin.filename}")
        prepared = _build(cache, dataset, found, allow_unverified, progress)
        path.unlink()
        return prepared


def _readable(prepared: Prepared, origin: ImageFolder) -> Prepared:
    """A folder's images without those that cannot be read, and their groups.

    Raises:
        DataError: there are such, and nobody has said to leave them out.
    """
    unreadable = prepared.manifest.get("unreadable") or {}
    if not unreadable:
        return dataclasses.replace(prepared, groups=origin.listed.numbered())
    if not origin.skip_bad:
        raise DataError(
            f"Cannot read {len(unreadable)} of the images in {quoted(origin.path)}, as {quoted(min(unreadable))}; "
            "--on-bad-image skip leaves them out"
        )
    listed = origin.listed.without(unreadable)
    spec = dataclasses.replace(prepared.spec, source=dataclasses.replace(origin, listed=listed))
    return dataclasses.replace(prepared, spec=spec, groups=listed.numbered())


def _find(dataset: DatasetSpec, archive: PickleArchive | ImageArchive, path: Path, where: str) -> Source:
    if isinstance(archive, PickleArchive):
        return pickles.source(dataset, archive, path, where)
    return tinyimagenet.source(dataset, archive, path, where)


def _build(
    cache: Path, dataset: DatasetSpec, source: Source, allow_unverified: bool, progress: Progress | None
) -> Prepared:
    """Checks the source files and writes them into the cache, unless they have been already."""
    wrong = {name: md5 for name, md5 in dataset.checksums.items() if source.checksums.get(name) != md5}
    for name, md5 in wrong.items():
        if not allow_unverified:
            raise ChecksumError(
                f"Expected {name!r} of {dataset.name} from {source.where} to have the official md5 {md5}, but got "
                f"{source.checksums.get(name, 'its unpacked files')}; --allow-unverified takes it anyway"
            )
    place = _place(cache, dataset, source.checksums)
    ready = _open(place, dataset)
    if ready is not None:
        return ready
    with disk.storage(cache), disk.locked(place.with_name(f".{place.name}.lock")):
        ready = _open(place, dataset)
        if ready is None:
            write = _write_shards if dataset.streamed else _write
            write(place, dataset, source, not wrong, progress)
            ready = _open(place, dataset)
    if ready is None:
        raise StorageError(f"Cannot read back what was written to {str(place)!r}")
    return ready


def _place(cache: Path, dataset: DatasetSpec, checksums: Mapping[str, str]) -> Path:
    return cache / disk.key(dataset.name, {**checksums, **({"in shards": ""} if dataset.streamed else {})})


def _open(place: Path, dataset: DatasetSpec) -> Prepared | None:
    """What is prepared in `place`; None when there is nothing, or something damaged."""
    manifest = disk.read_manifest(place, dataset.name, [f"{split}.parquet" for split in SPLITS], _MANIFEST)
    if manifest is None or not _agrees(manifest, dataset):
        return None
    if not dataset.mean:
        dataset = dataclasses.replace(dataset, mean=tuple(manifest["mean"]), std=tuple(manifest["std"]))
    if not dataset.streamed:
        return Prepared(dataset, place, manifest)
    return Sharded(dataset, place, manifest) if shards.are_there(manifest) else None


def _agrees(manifest: dict[str, Any], dataset: DatasetSpec) -> bool:
    """Whether a manifest of the right kinds can be this data set's."""
    counts, channels = manifest["counts"], dataset.image_shape[0]
    return (
        counts.keys() - {VALIDATION} == set(SPLITS)
        and all(counts.values())
        and counts.get(VALIDATION, 0) < counts["train"]
        and manifest["image_shape"] == list(dataset.image_shape)
        and len(manifest["class_names"]) == dataset.classes
        and len(manifest["mean"]) == len(manifest["std"]) == channels
        and all(manifest["std"])
        and re.fullmatch("[0-9a-f]{16}", manifest["fingerprint"]) is not None
        and fits(manifest.get("twins"), _TWINS)
        and fits(manifest.get("groups"), Maybe(Text()))
        and fits(manifest.get("unreadable"), Maybe(MapOf(Text())))
        and all(row < counts["train"] + counts["test"] for pair in manifest.get("twins") or () for row in pair)
    )


def _write(place: Path, dataset: DatasetSpec, source: Source, verified: bool, progress: Progress | None) -> None:
    from mollify_core.datasets.twins import twins  # PyTorch is slow to import

    arrays, class_names = source.read(progress)
    validation = source.validation - sum(split == VALIDATION for split in source.unreadable.values())
    seen = _Seen(dataset, {split: len(labels) for split, (_, labels) in arrays.items()}, validation)
    for split in SPLITS:
        seen.add(split, *arrays[split])
    manifest = seen.manifest(source, class_names, verified) | {"twins": twins([arrays[split][0] for split in SPLITS])}
    with disk.draft(place) as draft:
        for split in SPLITS:
            _write_parquet(draft / f"{split}.parquet", *arrays[split])
        disk.write_manifest(draft, dataset.name, manifest)


def _write_parquet(path: Path, images: np.ndarray, labels: np.ndarray) -> None:
    import pyarrow as pa

    pixels = pa.py_buffer(np.ascontiguousarray(images))
    image = pa.FixedSizeBinaryArray.from_buffers(pa.binary(images[0].size), len(images), [None, pixels])
    table = pa.table({"image": image, "label": labels, "index": np.arange(len(labels), dtype=np.int64)})
    shards.write_parquet(path, table, ROWS_PER_GROUP)


class _Unreadable(Exception):
    """Images could not be read: the fingerprint says how many there are, so all begins once more without them."""


def _write_shards(place: Path, dataset: DatasetSpec, source: Source, verified: bool, progress: Progress | None) -> None:
    """Writes shards; no more than a file of them is in memory. Nearly equal images are not looked for."""
    while True:
        known = len(source.unreadable)
        with suppress(_Unreadable), disk.draft(place) as draft:
            flow = source.flowing(progress)
            layouts = {s: shards.Layout.of(count, math.prod(dataset.image_shape)) for s, count in flow.counts.items()}
            writers = {split: shards.Writer(draft, split, layout) for split, layout in layouts.items()}
            validation = source.validation - sum(split == VALIDATION for split in source.unreadable.values())
            seen = _Seen(dataset, flow.counts, validation)
            for split, images, labels, files in flow.chunks:
                seen.add(split, images, labels)
                writers[split].add(labels, [shards.payload(*pair) for pair in zip(images, files, strict=True)])
            if len(source.unreadable) > known:
                raise _Unreadable
            for writer in writers.values():
                writer.close()
            where = {shards.LAYOUT: {split: [layout.rows, layout.groups] for split, layout in layouts.items()}}
            disk.write_manifest(draft, dataset.name, seen.manifest(source, flow.class_names, verified) | where)
            return


class _Seen:
    """What a manifest says of images, measured while they pass by in the official order.

    Args:
        dataset: what they are.
        counts: split -> how many there will be.
        validation: how many of the training images, the last ones, are those to validate.
    """

    def __init__(self, dataset: DatasetSpec, counts: Mapping[str, int], validation: int) -> None:
        channels = dataset.image_shape[0]
        self._dataset, self._counts, self._validation = dataset, counts, validation
        self._total, self._squares, self._pixels = np.zeros(channels), np.zeros(channels), 0
        self._fitted = counts["train"] - validation
        self._digest = hashlib.sha256()
        self._labels: dict[str, list[np.ndarray]] = {}

    def add(self, split: str, images: np.ndarray, labels: np.ndarray) -> None:
        """Takes the next images (n, C, H, W) uint8 of a split; those of train come first."""
        if split not in self._labels:
            self._end()
            self._labels[split] = []
            self._digest.update(json.dumps([split, [self._counts[split], *self._dataset.image_shape]]).encode())
        self._digest.update(np.ascontiguousarray(images).data)
        self._labels[split].append(labels)
        if split == "train":
            fitted = images[: max(0, self._fitted)]
            self._fitted -= len(images)
            for start in range(0, len(fitted), 1000):  # sums of whole numbers below 2**53: exact, so equal everywhere
                block = fitted[start : start + 1000].astype(np.float32)
                self._total += block.sum((0, 2, 3), dtype=np.float64)
                self._squares += np.square(block).sum((0, 2, 3), dtype=np.float64)
            self._pixels += fitted.size // len(self._total)

    def manifest(self, source: Source, class_names: list[str], verified: bool) -> dict[str, Any]:
        """All that is said of them.

        Raises:
            DataError: they are all the same.
        """
        self._end()
        if self._validation:  # the same images with another meaning
            self._digest.update(json.dumps([VALIDATION, self._validation]).encode())
        if source.groups:
            self._digest.update(json.dumps(["groups", source.groups]).encode())
        dataset, mean = self._dataset, self._total / self._pixels
        std = np.sqrt(self._squares / self._pixels - mean**2)
        measured = [[round(value / 255, 6) for value in values.tolist()] for values in (mean, std)]
        if not dataset.std and min(measured[1]) == 0:
            where = source.where
            raise DataError(f"Expected training images in {where!r} to differ, but a channel is the same everywhere")
        return {
            "verified": verified,
            "source": source.where,
            "source_md5": source.checksums,
            "counts": {**self._counts, **({VALIDATION: self._validation} if self._validation else {})},
            "class_names": class_names,
            "image_shape": list(dataset.image_shape),
            "mean": list(dataset.mean) or measured[0],
            "std": list(dataset.std) or measured[1],
            "measured_mean": measured[0],
            "measured_std": measured[1],
            "fingerprint": self._digest.hexdigest()[:16],
            "unreadable": source.unreadable,
            **({"groups": source.groups} if source.groups else {}),
        }

    def _end(self) -> None:
        """A split has passed by: its labels come after its images."""
        for labels in self._labels.values():
            self._digest.update(np.concatenate(labels).astype("<i8").data)
            labels.clear()
            labels.append(np.empty(0, np.int64))
