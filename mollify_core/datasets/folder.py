"""A data set of one's own, in whatever form, as a specification and as what `prepare` reads."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np

from mollify_core import granted
from mollify_core.datasets import classes, tables, webdataset
from mollify_core.datasets import groups as own_groups
from mollify_core.datasets.download import Progress
from mollify_core.datasets.files import Files, quoted
from mollify_core.datasets.images import decode, reporting, scaled
from mollify_core.datasets.listing import Listed, Rows
from mollify_core.datasets.source import Arrays, Chunk, Flow, Source
from mollify_core.datasets.specs import DatasetSpec, ImageFolder, colour
from mollify_core.datasets.threads import ahead
from mollify_core.datasets.tree import TEST, TRAIN, VALIDATION
from mollify_core.errors import ConfigError, DataError

_BLOCK = 64  # images that one thread reads before another takes them
_SHARE = 0.25  # of a machine's memory: images are held once while they are prepared, and once by Ray
_SETTLED = 5 * 10**9  # nanoseconds after which a file's time tells whether it was changed
_FEW = 5_000  # training images, below which a tenth of them would measure too coarsely


def listed(path: Path) -> Listed:
    """What a folder holds, in whatever form it is found; nothing is decoded, and nothing is settled.

    Raises:
        DataError: it holds no data set.
    """
    packed = (form(path) for form in (tables.saved, tables.parquets, webdataset.listed))
    return next(filter(None, packed), None) or classes.listed(path)


def own_spec(
    name: str,
    found: Listed,
    side: int,
    background: str,
    skip_bad: bool = False,
    feed: str = "auto",
    groups: Path | None = None,
    augment: tuple[str, ...] = ("flip", "crop"),
) -> DatasetSpec:
    """The data set that `found` lists, its images scaled to `side` pixels; nothing is decoded yet.

    What is transparent shows the background. By the feed "auto" they are streamed where they would take more than a
    quarter of this machine's memory.

    Raises:
        ConfigError: the images do not fit into this machine's memory.
    """
    path = found.files.path
    need = 3 * side**2 * sum(len(part) for part in found.rows.values())
    memory = granted.memory()
    if need > memory and feed == "resident":
        raise ConfigError(
            f"Expected images that fit into the {memory / 1e9:.0f} GB that may be used here, but those of "
            f"{quoted(path)} at {side} pixels take {need / 1e9:.0f} GB; --feed stream needs no such memory"
        )
    return DatasetSpec(
        name=name,
        classes=len(found.names),
        image_shape=(3, side, side),
        mean=(),
        std=(),
        augment=augment,
        validation_fraction=0.2 if len(found.rows[TRAIN]) < _FEW else 0.1,
        checksums={},
        source=ImageFolder(path, background, skip_bad, found, groups),
        streamed=feed == "stream" or (feed == "auto" and need > _SHARE * memory),
    )


def source(dataset: DatasetSpec, folder: ImageFolder, cache: Path | None = None) -> Source:
    """The images of a data set of one's own.

    Args:
        dataset: what it is.
        folder: where it is, and what it holds.
        cache: remembers the checksum of a folder whose images are streamed: too many to be read at each start.
    """
    found: Listed = folder.listed or listed(folder.path).settled(folder.groups)
    side, background = dataset.image_shape[-1], colour(folder.background)
    parts = {split: found.rows[split] for split in (TRAIN, VALIDATION, TEST) if split in found.rows}
    names = [name for part in parts.values() for name, _ in part]
    remember = cache if dataset.streamed and found.files.places(names[:1]) else None
    checksum = found.files.checksum(names) if remember is None else _remembered(found.files, names, remember)
    checksums = {f"all at {side} pixels on {background}": checksum}
    if VALIDATION in parts:  # what is prepared has a meaning beside its files
        checksums[f"of these to validate: {len(parts[VALIDATION])}"] = ""
    if found.form:
        checksums["labels"] = found.labels_checksum()
    groups = own_groups.digest(found.groups) if found.groups else ""
    if groups:
        checksums["groups"] = groups
    unreadable: dict[str, str] = {}
    return Source(
        str(folder.path.resolve()),
        checksums,
        partial(_parse, dataset.name, found, side, background, unreadable if folder.skip_bad else None),
        validation=len(parts.get(VALIDATION, ())),
        unreadable=unreadable,
        flow=partial(_flow, dataset.name, found, side, background, unreadable, folder.skip_bad),
        groups=groups,
    )


def _remembered(files: Files, names: list[str], cache: Path) -> str:
    """The checksum of files, read again where the size or time of one has changed since."""
    stamp = hashlib.sha256(os.fsencode("\0".join([str(files.path.resolve()), *names])))
    newest = 0
    for place in files.places(names):
        found = os.stat(place)
        newest = max(newest, found.st_mtime_ns, found.st_ctime_ns)
        stamp.update(os.fsencode(f"\0{found.st_size} {found.st_mtime_ns} {found.st_ctime_ns} {found.st_ino}"))
    place = cache / f".checksum-{stamp.hexdigest()[:32]}"
    with contextlib.suppress(OSError):
        known = place.read_text(encoding="ascii", errors="replace")
        if re.fullmatch("[0-9a-f]{32}", known):
            return known
    checksum = files.checksum(names)
    if time.time_ns() - newest > _SETTLED:  # what is written just now may be written again within its time stamp
        with contextlib.suppress(OSError):
            cache.mkdir(parents=True, exist_ok=True)
            draft = place.with_name(f"{place.name}.{os.getpid()}")
            draft.write_text(checksum, encoding="ascii")
            draft.replace(place)
    return checksum


def _parse(
    name: str, listed: Listed, side: int, background: str, unreadable: dict[str, str] | None, progress: Progress | None
) -> tuple[Arrays, list[str]]:
    """The arrays and class names of a folder; its unreadable images, and their splits, go into a dictionary if any."""
    rows, bad = listed.rows, set[str]()

    def load(part: Rows, row: int) -> np.ndarray:
        file = part[row][0]
        try:
            return scaled(listed.files.read(file), quoted(listed.files.path / file), side, background)
        except DataError as error:
            if unreadable is None:
                raise DataError(f"{error} (--on-bad-image skip leaves such images out)") from None
            bad.add(file)
            return np.zeros((3, side, side), np.uint8)

    arrays: Arrays = {}
    for split, part in ((TRAIN, rows[TRAIN] + rows.get(VALIDATION, [])), (TEST, rows[TEST])):
        with reporting(progress, f"{name}: {split}") as callback:
            images = decode(partial(load, part), len(part), (3, side, side), callback)
        whole = np.array([file not in bad for file, _ in part])
        arrays[split] = images[whole], np.array([label for _, label in part], np.int64)[whole]
    if unreadable is not None:
        unreadable |= {file: split for split, part in rows.items() for file, _ in part if file in bad}
        _check_left(listed, bad)
    return arrays, listed.names


def _flow(
    name: str,
    listed: Listed,
    side: int,
    background: str,
    unreadable: dict[str, str],
    skip_bad: bool,
    progress: Progress | None,
) -> Flow:
    """The images of a folder, some at a time; those that cannot be read go into the dictionary, with their split."""
    rows = listed.without(unreadable).rows
    parts = {TRAIN: rows[TRAIN] + rows.get(VALIDATION, []), TEST: rows[TEST]}
    of = {file: split for split, part in rows.items() for file, _ in part}

    def load(block: Rows) -> tuple[np.ndarray, np.ndarray, list[bytes | None], list[str]]:
        images, labels, files, bad = [], [], list[bytes | None](), []
        for file, label in block:
            try:
                raw = listed.files.read(file)
                images.append(scaled(raw, quoted(listed.files.path / file), side, background))
            except DataError as error:
                if not skip_bad:
                    raise DataError(f"{error} (--on-bad-image skip leaves such images out)") from None
                bad.append(file)
            else:
                labels.append(label)
                files.append(raw)
        return np.array(images, np.uint8).reshape(-1, 3, side, side), np.array(labels, np.int64), files, bad

    def chunks() -> Iterator[Chunk]:
        found: set[str] = set()
        with ThreadPoolExecutor(granted.cores()) as pool:
            for split, part in parts.items():
                blocks = [part[start : start + _BLOCK] for start in range(0, len(part), _BLOCK)]
                done = 0
                with reporting(progress, f"{name}: {split}") as callback:
                    for images, labels, files, bad in ahead(pool, load, blocks, 4 * granted.cores()):
                        found |= set(bad)
                        done += len(labels) + len(bad)
                        if callback is not None:
                            callback(done, len(part))
                        yield split, images, labels, files
        _check_left(listed, found | set(unreadable))
        unreadable.update({file: of[file] for file in found})

    return Flow({split: len(part) for split, part in parts.items()}, listed.names, chunks())


def _check_left(listed: Listed, bad: set[str]) -> None:
    """Raises a DataError where a class has no readable image left to train on, or too few."""
    left = listed.without(bad).rows
    for split, part in left.items():
        least = 2 if split == TRAIN and VALIDATION not in left else 1
        counts = np.bincount([label for _, label in part], minlength=len(listed.names))
        had = np.bincount([label for _, label in listed.rows[split]], minlength=len(listed.names))
        counts[had == 0] = least  # of a form whose splits need not have every class
        if counts.min() < least:
            few = quoted(listed.names[int(counts.argmin())])
            raise DataError(
                f"Expected at least {least} readable {split} image{'s' * (least > 1)} of each class in "
                f"{quoted(listed.files.path)}, but {few} has {counts.min()}; {len(bad)} files cannot be read"
            )
