"""A folder of one's own as a data set: one folder of images per class, in folders of splits or undivided.

Splits are known by the usual names in any case, as `tree.role` knows them. Of train, validation and test, validation is
what validates; beside train alone, it is the test split, and validation is held out of train as in every data set.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import os
import re
import time
from collections.abc import Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np

from mollify_core import granted
from mollify_core.datasets import groups as own_groups
from mollify_core.datasets.download import Progress
from mollify_core.datasets.files import Files, quoted
from mollify_core.datasets.images import decode, reporting, scaled
from mollify_core.datasets.source import Arrays, Chunk, Flow, Source
from mollify_core.datasets.specs import DatasetSpec, ImageFolder, colour
from mollify_core.datasets.split import stratified_split
from mollify_core.datasets.threads import ahead
from mollify_core.datasets.tree import TEST, TRAIN, VALIDATION, OwnFiles, Tree, role
from mollify_core.errors import ConfigError, DataError
from mollify_core.foreign import clean

TEST_FRACTION = 0.2
_BLOCK = 64  # images that one thread reads before another takes them
UNREADABLE = "that cannot be read"
_SHARE = 0.25  # of a machine's memory: images are held once while they are prepared, and once by Ray
_SETTLED = 5 * 10**9  # nanoseconds after which a file's time tells whether it was changed
_FEW = 5_000  # training images, below which a tenth of them would measure too coarsely
Rows = list[tuple[str, int]]
"""Files and their labels."""


@dataclass(frozen=True)
class Listed:
    """What is in a folder.

    Attributes:
        files: the images.
        names: of the classes.
        rows: split -> its images; "validation" only where a folder holds them.
        folders: split -> the folder that it is; empty where the folder is undivided.
        left_out: reason -> how many files and folders are not taken.
        groups: image -> its group; empty where nobody has said which belong together.
    """

    files: Files
    names: list[str]
    rows: dict[str, Rows]
    folders: dict[str, str]
    left_out: dict[str, int]
    groups: dict[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, path: Path, groups: Path | None = None) -> Listed:
        """Lists a folder; nothing is decoded.

        Args:
            path: the folder.
            groups: a file that says which images belong together, see `groups.of_images`.

        Raises:
            DataError: its folders are no classes, or no splits of the same classes, or its links have loops; or
                `groups` is no such file, or leaves no way to split.
        """
        tree = Tree(path)
        folders = _splits(tree)
        if folders:
            names, rows = _divided(tree, folders)
        else:
            names, found = _classes(tree, "", "the folder")
            rows = {TRAIN: found}
        files = OwnFiles(path, [name for part in rows.values() for name, _ in part])
        together = {} if groups is None else own_groups.of_images(groups, files.names, quoted(path))
        if not folders:
            rows = _undivided(rows[TRAIN], names, together)
        tree.loose()
        counts = np.bincount([label for _, label in rows[TRAIN]], minlength=len(names))
        least = 1 if VALIDATION in rows else 2  # one to fit and one to validate
        if counts.min() < least:
            few = names[int(counts.argmin())]
            raise DataError(
                f"Expected at least two training images of each class, but class {quoted(few)} in {quoted(path)} has "
                f"{counts.min()} (a fifth of an undivided class is for testing)"
            )
        return cls(files, names, rows, folders, dict(tree.left_out), together)

    def without(self, unreadable: Collection[str]) -> Listed:
        """The same but for files that could not be read."""
        rows = {split: [row for row in part if row[0] not in unreadable] for split, part in self.rows.items()}
        count = sum(map(len, self.rows.values())) - sum(map(len, rows.values()))
        return dataclasses.replace(self, rows=rows, left_out=self.left_out | ({UNREADABLE: count} if count else {}))

    def numbered(self) -> dict[str, np.ndarray]:
        """Split, of training and test -> (n,) int64 number of each image's group; empty where there are no groups."""
        if not self.groups:
            return {}
        parts = {TRAIN: self.rows[TRAIN] + self.rows.get(VALIDATION, []), TEST: self.rows[TEST]}
        numbers = {group: number for number, group in enumerate(sorted(set(self.groups.values())))}
        return {
            split: np.array([numbers[self.groups[name]] for name, _ in part], np.int64) for split, part in parts.items()
        }


def folder_spec(
    name: str,
    path: Path,
    side: int,
    background: str,
    skip_bad: bool = False,
    feed: str = "auto",
    groups: Path | None = None,
) -> DatasetSpec:
    """The data set in the folder `path`, its images scaled to `side` pixels; nothing is decoded yet.

    Classes are the names of the folders, sorted. Where there are folders of splits, these are the splits; else a fifth
    of each class is for testing, the same in every run. What is transparent shows the background. By the feed "auto"
    they are streamed where they would take more than a quarter of this machine's memory.

    Raises:
        ConfigError: the images do not fit into this machine's memory.
        DataError: see `Listed.of`; there are fewer than two classes, or a class has too few images.
    """
    listed = Listed.of(path, groups)
    need = 3 * side**2 * sum(len(part) for part in listed.rows.values())
    memory = granted.memory()
    if need > memory and feed == "resident":
        raise ConfigError(
            f"Expected images that fit into the {memory / 1e9:.0f} GB that may be used here, but those of "
            f"{quoted(path)} at {side} pixels take {need / 1e9:.0f} GB; --feed stream needs no such memory"
        )
    return DatasetSpec(
        name=name,
        classes=len(listed.names),
        image_shape=(3, side, side),
        mean=(),
        std=(),
        augment=("flip", "crop"),
        validation_fraction=0.2 if len(listed.rows[TRAIN]) < _FEW else 0.1,
        checksums={},
        source=ImageFolder(path, background, skip_bad, listed, groups),
        streamed=feed == "stream" or (feed == "auto" and need > _SHARE * memory),
    )


def source(dataset: DatasetSpec, folder: ImageFolder, cache: Path | None = None) -> Source:
    """The images in a folder.

    Args:
        dataset: what it is.
        folder: where it is.
        cache: remembers the checksum of a folder whose images are streamed: too many to be read at each start.
    """
    listed: Listed = folder.listed or Listed.of(folder.path, folder.groups)
    side, background = dataset.image_shape[-1], colour(folder.background)
    parts = {split: listed.rows[split] for split in (TRAIN, VALIDATION, TEST) if split in listed.rows}
    names = [name for part in parts.values() for name, _ in part]
    remember = cache if dataset.streamed else None
    checksum = listed.files.checksum(names) if remember is None else _remembered(listed.files, names, remember)
    checksums = {f"all at {side} pixels on {background}": checksum}
    if VALIDATION in parts:  # what is prepared has a meaning beside its files
        checksums[f"of these to validate: {len(parts[VALIDATION])}"] = ""
    groups = own_groups.digest(listed.groups) if listed.groups else ""
    if groups:
        checksums["groups"] = groups
    unreadable: dict[str, str] = {}
    return Source(
        str(folder.path.resolve()),
        checksums,
        partial(_parse, dataset.name, listed, side, background, unreadable if folder.skip_bad else None),
        validation=len(parts.get(VALIDATION, ())),
        unreadable=unreadable,
        flow=partial(_flow, dataset.name, listed, side, background, unreadable, folder.skip_bad),
        groups=groups,
    )


def _remembered(files: Files, names: list[str], cache: Path) -> str:
    """The checksum of files, read again where the size or time of one has changed since."""
    stamp = hashlib.sha256(os.fsencode(files.path.resolve()))
    newest = 0
    for name in names:
        found = os.stat(files.path / name)
        newest = max(newest, found.st_mtime_ns, found.st_ctime_ns)
        stamp.update(os.fsencode(f"\0{name}\0{found.st_size} {found.st_mtime_ns} {found.st_ctime_ns} {found.st_ino}"))
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


def _splits(tree: Tree) -> dict[str, str]:
    """Split -> the folder that is it; nothing where the folder is undivided.

    Raises:
        DataError: the names of its folders say splits, and are none that go together.
    """
    where, top = quoted(tree.path), tree.folders()
    classes = {name: tree.folders(name) for name in top}
    named: dict[str, list[str]] = {}
    for name in top:
        if (split := role(name)) is not None and classes[name]:  # a class may be one of railway trains
            named.setdefault(split, []).append(name)
    if TRAIN in named:
        for several in named.values():
            if len(several) > 1:
                two = f"{quoted(several[0])} and {quoted(several[1])}"
                raise DataError(f"Expected one folder of each split in {where}, but got {two}")
        found = {split: folders[0] for split, folders in named.items()}
        if TEST not in found and VALIDATION in found:
            found[TEST] = found.pop(VALIDATION)
        if TEST not in found:
            raise DataError(
                f"Expected a folder test or val beside {_word(found[TRAIN])} in {where}, with a folder of images per "
                "class, but there is none"
            )
        return found
    inner = {name for name in top if len({role(inside) for inside in classes[name]} - {None}) > 1}
    said = {role(name) for name in top} - {None}
    overlap = any(set(classes[name]) & set(top) for folders in named.values() for name in folders)
    if top and (len(said) > 1 or all(map(role, top)) or overlap):
        raise DataError(
            f"Expected folders of classes in {where}, or splits that hold them, one of which is train, but got "
            f"{', '.join(quoted(name) for name in top[:4])}{' …' if len(top) > 4 else ''}"
        )
    if inner:
        raise DataError(
            f"Expected folders of splits above those of classes in {where}, but {quoted(min(inner))} holds "
            f"{', '.join(quoted(name) for name in classes[min(inner)][:3])}"
        )
    return {}


def _word(folder: str) -> str:
    return clean(folder, 40, keep="")


def _undivided(rows: Rows, names: list[str], together: dict[str, str]) -> dict[str, Rows]:
    labels, groups = np.array([label for _, label in rows]), None
    if together:
        groups = np.unique([together[name] for name, _ in rows], return_inverse=True)[1]
    parts = stratified_split(labels, TEST_FRACTION, 0, "folder", groups, leave=2, names=names)
    train, test = ([rows[i] for i in part] for part in parts)
    return {TRAIN: train, TEST: test}


def _divided(tree: Tree, folders: dict[str, str]) -> tuple[list[str], dict[str, Rows]]:
    names: list[str] = []
    rows: dict[str, Rows] = {}
    for split in (TRAIN, VALIDATION, TEST):
        if split in folders:
            found, rows[split] = _classes(tree, folders[split], split)
            names = names or found
            different = sorted(set(names) ^ set(found))
            if different:
                only = folders[TRAIN] if different[0] in names else folders[split]
                raise DataError(
                    f"Expected {_word(folders[TRAIN])} and {_word(folders[split])} in {quoted(tree.path)} to hold the "
                    f"same classes, but {quoted(different[0])} is in {_word(only)} only"
                )
            tree.loose(folders[split])
    tree.beside([name for name in tree.folders() if name not in folders.values()])
    return names, rows


def _classes(tree: Tree, top: str, split: str) -> tuple[list[str], Rows]:
    """Class names, and the images below the folder `top`, class by class, with their labels."""
    where = quoted(tree.path / top)
    names = tree.folders(top)
    if len(names) < 2:
        raise DataError(f"Expected {where} to hold two or more folders, one for each class, but got {len(names)}")
    rows: Rows = []
    for label, name in enumerate(names):
        found = tree.images(f"{top}/{name}" if top else name, f"{split}: {name}")
        if not found:
            raise DataError(f"Expected images in every class folder, but {quoted(name)} in {where} has none")
        rows += [(file, label) for file in found]
    return names, rows


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
        if counts.min() < least:
            few = quoted(listed.names[int(counts.argmin())])
            raise DataError(
                f"Expected at least {least} readable {split} image{'s' * (least > 1)} of each class in "
                f"{quoted(listed.files.path)}, but {few} has {counts.min()}; {len(bad)} files cannot be read"
            )
