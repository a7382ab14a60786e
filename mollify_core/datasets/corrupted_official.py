"""The published corruption benchmarks: CIFAR-10-C, CIFAR-100-C and TinyImageNet-C, read cell by cell from disk.

CIFAR's are official .npy files (5 n, height, width, channels) uint8, severity s in rows (s - 1) n to s n. They are kept
as they are and memory-mapped. TinyImageNet-C's image files are converted to the same form once, severity by severity,
class by class and by sorted names. No array is ever in memory as a whole.

Source: Hendrycks and Dietterich, ICLR 2019 (arXiv 1903.12261); Zenodo records 2535967, 3555552, 2536630.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mollify_core.corruptions.benchmark import BENCHMARK, CORRUPTIONS, CorruptedSet
from mollify_core.datasets import cache as disk
from mollify_core.datasets import corrupted_arrays
from mollify_core.datasets.download import Progress, file_md5, progress_bar
from mollify_core.datasets.download import download as fetch
from mollify_core.datasets.files import Files, FolderFiles, TarFiles, unlinked
from mollify_core.datasets.specs import CORRUPTED, CorruptedSpec
from mollify_core.errors import ChecksumError, ConfigError, DataError, StorageError, nearest
from mollify_core.foreign import expanded

OFFICIAL = tuple(CORRUPTED)
"""The data sets of which there are published corruptions."""
_MANIFEST: dict[str, Any] = {
    **dict.fromkeys(("source", "fingerprint"), str),
    "verified": bool,
    "source_md5": {str: str},
    "types": [str],
    "n": int,
}


@dataclass(frozen=True)
class PreparedCorrupted:
    """Corrupted images on disk.

    Attributes:
        folder: holds labels.npy and one .npy file for each corruption.
        manifest: name, types, n, verified, source, fingerprint.
    """

    folder: Path
    manifest: dict[str, Any]

    def open(self) -> CorruptedSet:
        """The set, to be read cell by cell."""
        n = self.manifest["n"]
        labels = corrupted_arrays.load(self.folder / "labels.npy")[:n].astype(np.int64)
        return CorruptedSet(
            types=tuple(self.manifest["types"]),
            labels=torch.from_numpy(labels),
            source="official",
            verified=self.manifest["verified"],
            fingerprint=self.manifest["fingerprint"],
            read=partial(corrupted_arrays.read, self.folder, n),
        )


def open_corrupted(
    dataset: str | CorruptedSpec,
    *,
    data_dir: str | Path | None = None,
    cache_dir: str | Path | None = None,
    mirrors: Sequence[str] = (),
    allow_unverified: bool = False,
    download: bool = True,
    progress: Progress | None = None,
) -> CorruptedSet | None:
    """The published corruptions of the test images of `dataset`, to be read cell by cell.

    Arguments and errors are those of `prepare_corrupted`; but where `download` is false, and there is no `data_dir` and
    nothing in the cache, the answer is None.
    """
    spec = _spec(dataset)
    if not download and data_dir is None:
        ready = _ready(_official(disk.cache_folder(cache_dir), spec), spec)
        return None if ready is None else ready.open()
    return prepare_corrupted(
        spec,
        data_dir=data_dir,
        cache_dir=cache_dir,
        mirrors=mirrors,
        allow_unverified=allow_unverified,
        progress=progress,
    ).open()


def prepare_corrupted(
    dataset: str | CorruptedSpec,
    *,
    data_dir: str | Path | None = None,
    cache_dir: str | Path | None = None,
    mirrors: Sequence[str] = (),
    allow_unverified: bool = False,
    progress: Progress | None = None,
) -> PreparedCorrupted:
    """The published corruptions of `dataset`, fetched, checked and laid into the cache if they are not there yet.

    Args:
        dataset: a key of `CORRUPTED`, or a specification of one's own.
        data_dir: where they are, instead of downloading them: the folder of .npy files (which stay there), of
            unpacked images, its parent, a folder with the archive, or the archive.
        cache_dir: default $MOLLIFY_CACHE, else ~/.cache/mollify.
        mirrors: addresses to try before the official one: of the archive, or of the folder with it.
        allow_unverified: take files that are not the official ones; `CorruptedSet.verified` is then false.
        progress: called with what is done and to do, in bytes while files are copied or downloaded and in images while
            they are decoded; default bars on a terminal.

    Raises:
        ConfigError: there are no published corruptions of this data set.
        ChecksumError: a file is not the official one.
        DataError: a file is missing, damaged, or of another form than expected, or a download failed.
        StorageError: the cache cannot be written.
    """
    spec = _spec(dataset)
    archive = spec.archive
    urls = disk.addresses(archive.filename, mirrors, (*archive.mirrors, archive.url))
    cache = disk.cache_folder(cache_dir)
    if data_dir is not None:
        path = expanded(data_dir)
        inside = [p for p in (path, path / archive.folder) if (p / "labels.npy").is_file()]
        if inside:
            return _in_place(spec, inside[0].resolve(), cache, allow_unverified)
        return _lay(spec, _find(spec, path), cache, allow_unverified, progress)
    official = _official(cache, spec)
    ready = _ready(official, spec)
    if ready is not None:
        return ready
    with disk.storage(cache), disk.locked(cache / f".{spec.name}.lock"):
        ready = _ready(official, spec)  # another process may have been first
        if ready is not None:
            return ready
        path = cache / archive.filename
        with nullcontext(progress) if progress else progress_bar(archive.filename) as callback:
            fetch(urls, archive.md5, path, progress=callback)
        prepared = _lay(spec, _find(spec, path), cache, False, progress)
        path.unlink()
        return prepared


def _official(cache: Path, spec: CorruptedSpec) -> Path:
    return cache / disk.key(spec.name, {spec.archive.filename: spec.archive.md5})


def _spec(dataset: str | CorruptedSpec) -> CorruptedSpec:
    if isinstance(dataset, CorruptedSpec):
        return dataset
    if dataset not in CORRUPTED:
        raise ConfigError(f"There are no published corruptions of data set {dataset!r}{nearest(dataset, CORRUPTED)}")
    return CORRUPTED[dataset]


@dataclass(frozen=True)
class _Found:
    """Archives, or the folder of unpacked images: where they are, their md5 by name, why they are not official (None:
    they are), and how to open them."""

    where: str
    checksums: dict[str, str]
    refusal: str | None
    open: Callable[[], Sequence[Files]]


def _find(spec: CorruptedSpec, path: Path) -> _Found:
    archive, where = spec.archive, str(path.resolve())
    if not path.exists():
        raise DataError(f"Expected the data folder to be an existing folder or archive, but got {where!r}")
    unpacked = [p for p in (path, path / archive.folder) if any((p / name).is_dir() for name in BENCHMARK)]
    if unpacked:
        files = FolderFiles(unpacked[0])
        files.names = [name for name in files.names if corrupted_arrays.cell(name)]
        refusal = f"Expected {archive.filename}, whose md5 can be checked, but got its unpacked files in {where!r}"
        return _Found(where, {"unpacked": files.checksum(files.names)}, refusal, lambda: [files])
    first = path if path.is_file() else path / archive.filename
    if not first.is_file():
        raise DataError(f"Expected {where!r} to hold {archive.folder} or {archive.filename}, but it has neither")
    tars = {archive: first}
    if spec.extra is not None and (first.parent / spec.extra.filename).is_file():
        tars[spec.extra] = first.parent / spec.extra.filename
    checksums = {official.filename: _md5(tar) for official, tar in tars.items()}
    refusals = [
        f"Expected {str(tar)!r} to have the official md5 {official.md5}, but got {checksums[official.filename]}"
        for official, tar in tars.items()
        if checksums[official.filename] != official.md5
    ]
    if not refusals:
        where = f"official {archive.filename}"
    return _Found(where, checksums, refusals[0] if refusals else None, lambda: [TarFiles(t) for t in tars.values()])


def _lay(
    spec: CorruptedSpec, found: _Found, cache: Path, allow_unverified: bool, progress: Progress | None
) -> PreparedCorrupted:
    """Writes what was found into the cache, unless it is there already."""
    if found.refusal and not allow_unverified:
        raise ChecksumError(f"{found.refusal}; --allow-unverified takes it anyway")
    place = cache / disk.key(spec.name, found.checksums)
    ready = _ready(place, spec)
    if ready is not None:
        return ready
    with disk.storage(cache), disk.locked(place.with_name(f".{place.name}.lock")):
        ready = _ready(place, spec)
        if ready is None:
            files = found.open()
            tars = [f for f in files if isinstance(f, TarFiles)]
            with disk.draft(place) as draft:
                if any(corrupted_arrays.is_array(name) for tar in tars for name in tar.names):
                    corrupted_arrays.copy(tars, draft, spec, progress)
                else:
                    corrupted_arrays.convert(files, draft, spec, progress)
                manifest = {"verified": found.refusal is None, "source": found.where, "source_md5": found.checksums}
                disk.write_manifest(draft, spec.name, manifest | corrupted_arrays.describe(draft, spec, found.where))
            ready = _ready(place, spec)
    if ready is None:
        raise StorageError(f"Cannot read back what was written to {str(place)!r}")
    return ready


def _ready(place: Path, spec: CorruptedSpec, folder: Path | None = None) -> PreparedCorrupted | None:
    """What is prepared in `place`, or known of files that stay in `folder`; None when there is nothing, or damage."""
    manifest = disk.read_manifest(place, spec.name, (), _MANIFEST)
    if manifest is None or not manifest["n"] or not set(manifest["types"]) <= set(CORRUPTIONS):
        return None
    if manifest.get("folder") != (None if folder is None else str(folder)):
        return None
    return PreparedCorrupted(folder or place, manifest)


def _in_place(spec: CorruptedSpec, folder: Path, cache: Path, allow_unverified: bool) -> PreparedCorrupted:
    """.npy files that stay where they are; the cache remembers that they were checked, until one of them changes."""

    def check(name: str, md5: str) -> None:
        if allow_unverified or spec.checksums.get(name) == md5:
            return
        expected = f"{name!r} in {str(folder)!r} to have the official md5 {spec.checksums.get(name)}, but got {md5}"
        if not spec.checksums:
            expected = f"{spec.archive.filename}, whose md5 can be checked, but got .npy files in {str(folder)!r}"
        raise ChecksumError(f"Expected {expected}; --allow-unverified takes it anyway")

    names = ("labels", *CORRUPTIONS)
    used = [unlinked(folder / f"{name}.npy") for name in names if (folder / f"{name}.npy").is_file()]
    state = {str(path): f"{path.stat().st_size} bytes, {path.stat().st_mtime_ns} ns" for path in used}
    place = cache / disk.key(spec.name, state)
    ready = _ready(place, spec, folder)
    if ready is not None:
        for name, md5 in ready.manifest["source_md5"].items():
            check(name, md5)
        return ready
    checksums = {}
    for path in used:
        checksums[path.name] = _md5(path)
        check(path.name, checksums[path.name])
    manifest = {
        "verified": bool(spec.checksums) and checksums.items() <= spec.checksums.items(),
        "source": str(folder),
        "source_md5": checksums,
        "folder": str(folder),
        **corrupted_arrays.describe(folder, spec, str(folder)),
    }
    with disk.storage(cache), disk.locked(place.with_name(f".{place.name}.lock")), disk.draft(place) as draft:
        disk.write_manifest(draft, spec.name, manifest)
    return PreparedCorrupted(folder, manifest)


def _md5(path: Path) -> str:
    try:
        return file_md5(path)
    except OSError as error:
        raise DataError(f"Cannot read {str(path)!r}: {error.strerror or error}") from None
