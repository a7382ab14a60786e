"""From official files to Parquet: find or fetch them, check them, and write them once into the cache.

The cache holds one folder for each data set and set of source files, named after their checksums: other files, or
changed ones, never meet an old preparation. A folder appears in one step, complete or not at all.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import lzma
import os
import shutil
import tarfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mollify_core.datasets.download import Progress, download, progress_bar
from mollify_core.datasets.load import SPLITS, Prepared
from mollify_core.datasets.specs import Archive, DatasetSpec, spec
from mollify_core.datasets.split import stratified_split
from mollify_core.datasets.unpickle import read_batch, read_names
from mollify_core.errors import ChecksumError, ConfigError, DataError, MollifyError, StorageError

FORMAT = 1
ROWS_PER_GROUP = 5_000  # what a Parquet reader can take on its own
LARGEST_MEMBER = 1 << 30  # bytes; the official files are all below a fifth of it

Arrays = dict[str, tuple[np.ndarray, np.ndarray]]  # split -> images (n, C, H, W) uint8, labels (n,) int64


def prepare(
    name: str | DatasetSpec,
    *,
    data_dir: str | Path | None = None,
    cache_dir: str | Path | None = None,
    mirrors: Sequence[str] = (),
    allow_unverified: bool = False,
    progress: Progress | None = None,
) -> Prepared:
    """The data set `name`, ready to be read; fetched, checked and written to the cache if it is not there yet.

    Args:
        name: a key of `DATASETS`, or a specification of one's own.
        data_dir: where the official files are, instead of downloading them: their folder, its parent, a folder with
            the official archive, or the archive. Nothing is written there.
        cache_dir: where prepared data go; default $MOLLIFY_CACHE, else ~/.cache/mollify.
        mirrors: http or https addresses to try before the official one: of the archive, or of the folder with it.
        allow_unverified: take source files that are not the official ones; `Prepared.verified` is then false.
        progress: called with (bytes done, bytes in total or None) during a download; default a bar on a terminal.

    Raises:
        ConfigError: the data set is unknown, or an argument does not fit it.
        ChecksumError: a source file is not the official one.
        DataError: a source file is missing, damaged, or of another form than expected, or a download failed.
        StorageError: the cache cannot be written.
    """
    dataset = spec(name) if isinstance(name, str) else name
    archive = dataset.archive
    for mirror in mirrors:
        if not mirror.startswith(("http://", "https://")):
            raise ConfigError(f"Expected a mirror to begin with http:// or https://, but got {mirror!r}")
    if archive is None and data_dir is not None:
        raise ConfigError(
            f"Expected no data folder for {dataset.name}, which scikit-learn brings along, but got {str(data_dir)!r}"
        )
    cache = Path(cache_dir or os.environ.get("MOLLIFY_CACHE") or "~/.cache/mollify").expanduser()
    if archive is not None and data_dir is not None:
        raw = _read_data_dir(Path(data_dir).expanduser(), archive)
        return _build(cache, dataset, raw, str(Path(data_dir).expanduser().resolve()), allow_unverified)
    official = cache / _key(dataset, dataset.checksums)
    ready = _open(official, dataset)
    if ready is not None:
        return ready
    with _storage(cache), _locked(cache / f".{dataset.name}.lock"):
        ready = _open(official, dataset)  # another process may have been first
        if ready is not None:
            return ready
        if archive is None:
            raw, source = _read_digits()
            return _build(cache, dataset, raw, source, allow_unverified)
        path = cache / archive.filename
        urls = [m if m.endswith(f"/{archive.filename}") else f"{m.rstrip('/')}/{archive.filename}" for m in mirrors]
        with contextlib.nullcontext(progress) if progress else progress_bar(archive.filename) as callback:
            download([*urls, archive.url], archive.md5, path, progress=callback)
        prepared = _build(cache, dataset, _read_tar(path, archive), f"official {archive.filename}", allow_unverified)
        path.unlink()
        return prepared


def _build(
    cache: Path, dataset: DatasetSpec, raw: Mapping[str, bytes], source: str, allow_unverified: bool
) -> Prepared:
    """Checks the source files `raw` and writes them into the cache, unless they have been already."""
    checksums = {file: hashlib.md5(raw[file], usedforsecurity=False).hexdigest() for file in dataset.checksums}
    for file, expected in dataset.checksums.items():
        if checksums[file] != expected and not allow_unverified:
            raise ChecksumError(
                f"Expected {file!r} of {dataset.name} from {source} to have the official md5 {expected}, but got "
                f"{checksums[file]}; --allow-unverified takes it anyway"
            )
    folder = cache / _key(dataset, checksums)
    ready = _open(folder, dataset)
    if ready is not None:
        return ready
    arrays, class_names = _parse(dataset, raw)
    manifest = {
        "format": FORMAT,
        "name": dataset.name,
        "verified": checksums == dict(dataset.checksums),
        "source": source,
        "source_md5": checksums,
        "counts": {split: len(labels) for split, (_, labels) in arrays.items()},
        "class_names": class_names,
        "image_shape": list(dataset.image_shape),
        "mean": list(dataset.mean),
        "std": list(dataset.std),
        **_measure(arrays["train"][0]),
        "fingerprint": _fingerprint(arrays),
    }
    with _storage(cache), _locked(folder.with_name(f".{folder.name}.lock")):
        ready = _open(folder, dataset)
        if ready is None:
            _write(folder, arrays, manifest)
            ready = _open(folder, dataset)
    if ready is None:
        raise StorageError(f"Cannot read back what was written to {str(folder)!r}")
    return ready


def _key(dataset: DatasetSpec, checksums: Mapping[str, str]) -> str:
    """The name of the folder for these source files."""
    text = json.dumps([FORMAT, dataset.name, sorted(checksums.items())])
    return f"{dataset.name}-{hashlib.sha256(text.encode()).hexdigest()[:12]}"


def _open(folder: Path, dataset: DatasetSpec) -> Prepared | None:
    """What is prepared in `folder`; None when there is nothing, or something damaged."""
    try:
        manifest = json.loads((folder / "manifest.json").read_bytes())
        whole = (manifest["format"], manifest["name"]) == (FORMAT, dataset.name) and all(
            (folder / f"{split}.parquet").stat().st_size == manifest["files"][f"{split}.parquet"]["bytes"]
            for split in SPLITS
        )
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return Prepared(dataset, folder, manifest) if whole else None


def _write(folder: Path, arrays: Arrays, manifest: dict[str, Any]) -> None:
    """Writes the folder beside its place and moves it there when all of it is on the disk."""
    draft = folder.with_name(f".{folder.name}.draft")
    for stale in (draft, folder):  # what a killed process left, and a damaged preparation
        if stale.exists():
            shutil.rmtree(stale)
    draft.mkdir()
    files = {}
    for split in SPLITS:
        path = draft / f"{split}.parquet"
        _write_parquet(path, *arrays[split])
        with open(path, "rb") as file:
            os.fsync(file.fileno())
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        files[path.name] = {"bytes": path.stat().st_size, "sha256": digest}
    with open(draft / "manifest.json", "w", encoding="utf-8") as text:
        json.dump({**manifest, "files": files}, text, indent=2)
        text.flush()
        os.fsync(text.fileno())
    _sync_folder(draft)
    draft.rename(folder)
    _sync_folder(folder.parent)


def _write_parquet(path: Path, images: np.ndarray, labels: np.ndarray) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    pixels = pa.py_buffer(np.ascontiguousarray(images))
    image = pa.FixedSizeBinaryArray.from_buffers(pa.binary(images[0].size), len(images), [None, pixels])
    table = pa.table({"image": image, "label": labels, "index": np.arange(len(labels), dtype=np.int64)})
    pq.write_table(
        table,
        path,
        row_group_size=ROWS_PER_GROUP,
        compression="none",
        use_dictionary=False,
        write_statistics=False,
        write_page_checksum=True,
    )


def _parse(dataset: DatasetSpec, raw: Mapping[str, bytes]) -> tuple[Arrays, list[str]]:
    """The images and labels of both splits, and the class names."""
    archive = dataset.archive
    if archive is None:
        return _parse_digits(raw), [str(digit) for digit in range(dataset.classes)]
    arrays: Arrays = {}
    for split, files in (("train", archive.train), ("test", archive.test)):
        batches = [
            read_batch(
                raw[file],
                repr(file),
                image_shape=dataset.image_shape,
                classes=dataset.classes,
                labels_key=archive.labels_key,
            )
            for file in files
        ]
        images, labels = (np.concatenate(parts) for parts in zip(*batches, strict=True))
        arrays[split] = images, labels
    return arrays, read_names(raw[archive.meta], repr(archive.meta), key=archive.names_key, classes=dataset.classes)


def _measure(images: np.ndarray) -> dict[str, list[float]]:
    """Mean and standard deviation per channel of images (n, C, H, W) uint8 scaled to [0, 1]."""
    total, squares = np.zeros(images.shape[1]), np.zeros(images.shape[1])
    for start in range(0, len(images), 1000):  # sums of whole numbers below 2**53: exact, so equal on every machine
        block = images[start : start + 1000].astype(np.float32)
        total += block.sum((0, 2, 3), dtype=np.float64)
        squares += np.square(block).sum((0, 2, 3), dtype=np.float64)
    count = images.size // images.shape[1]
    mean = total / count
    std = np.sqrt(squares / count - mean**2)
    return {
        "measured_mean": [round(value / 255, 6) for value in mean.tolist()],
        "measured_std": [round(value / 255, 6) for value in std.tolist()],
    }


def _fingerprint(arrays: Arrays) -> str:
    digest = hashlib.sha256()
    for split in SPLITS:
        images, labels = arrays[split]
        digest.update(json.dumps([split, list(images.shape)]).encode())
        digest.update(np.ascontiguousarray(images).data)
        digest.update(labels.astype("<i8").data)
    return digest.hexdigest()[:16]


def _read_data_dir(path: Path, archive: Archive) -> dict[str, bytes]:
    """The official files by name, from their folder, its parent, or the archive in it."""
    names = (*archive.train, *archive.test, archive.meta)
    try:
        if not path.exists():
            raise DataError(f"Expected the data folder to be an existing folder or archive, but got {str(path)!r}")
        if path.is_file():
            return _read_tar(path, archive)
        inside = [p for p in (path, path / archive.folder) if any((p / name).is_file() for name in names)]
        if not inside and (path / archive.filename).is_file():
            return _read_tar(path / archive.filename, archive)
        if not inside:
            raise DataError(
                f"Expected {str(path)!r} to hold {archive.folder} or {archive.filename}, but it has neither"
            )
        missing = [name for name in names if not (inside[0] / name).is_file()]
        if missing:
            raise DataError(
                f"Expected {str(inside[0])!r} to hold {', '.join(names)}, but {', '.join(missing)} is missing"
            )
        return {name: (inside[0] / name).read_bytes() for name in names}
    except OSError as error:
        raise DataError(f"Cannot read {error.filename or str(path)!r}: {error.strerror or error}") from None


def _read_tar(path: Path, archive: Archive) -> dict[str, bytes]:
    """The official files by name, read from the archive in one pass; nothing is extracted to disk."""
    names = {*archive.train, *archive.test, archive.meta}
    raw: dict[str, bytes] = {}
    try:
        with tarfile.open(path, "r|*") as tar:
            for member in tar:
                name = member.name.rsplit("/", 1)[-1]
                if name not in names or not member.isreg():
                    continue
                if member.size > LARGEST_MEMBER:
                    raise DataError(f"Expected {name} in {str(path)!r} to be below 1 GiB, but got {member.size} bytes")
                file = tar.extractfile(member)
                raw[name] = file.read() if file is not None else b""
    except (tarfile.TarError, EOFError, zlib.error, lzma.LZMAError, OSError) as error:
        reason = " ".join(str(error).split())
        raise DataError(f"Expected {str(path)!r} to be a whole tar archive, but reading it failed: {reason}") from None
    if names - raw.keys():
        missing = ", ".join(sorted(names - raw.keys()))
        raise DataError(f"Expected the archive {str(path)!r} to hold {missing}, but it ends without")
    return raw


def _read_digits() -> tuple[dict[str, bytes], str]:
    """The 1797 images of 8x8 pixels, 0..16, and their labels, that scikit-learn ships; and where they are from."""
    import sklearn
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    raw = {"images": images.astype(np.uint8).tobytes(), "labels": labels.astype(np.uint8).tobytes()}
    return raw, f"scikit-learn {sklearn.__version__}"


def _parse_digits(raw: Mapping[str, bytes]) -> Arrays:
    """Both splits at 32x32 pixels in three equal channels."""
    small = np.frombuffer(raw["images"], np.uint8).reshape(-1, 8, 8).astype(np.float64)
    labels = np.frombuffer(raw["labels"], np.uint8).astype(np.int64)
    at = (np.arange(32) + 0.5) / 4 - 0.5  # pixel centres of the large image in the small one; the border replicates
    weights = np.stack([np.interp(at, np.arange(8), row) for row in np.eye(8)], axis=1)
    large = weights @ small @ weights.T  # all numbers are multiples of 1/64: exact, so equal on every machine
    images = np.rint(large * (255 / 16)).astype(np.uint8)[:, None].repeat(3, axis=1)
    train, test = stratified_split(labels, 0.2, seed=0, fingerprint="digits")
    return {"train": (images[train], labels[train]), "test": (images[test], labels[test])}


@contextlib.contextmanager
def _storage(cache: Path) -> Iterator[None]:
    """Makes the cache folder, and turns errors of writing to it into a StorageError."""
    try:
        cache.mkdir(parents=True, exist_ok=True)
        yield
    except OSError as error:
        if isinstance(error, MollifyError):
            raise
        where = error.filename or str(cache)
        raise StorageError(f"Cannot write the data cache {where!r}: {error.strerror or error}") from None


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Holds the lock file `path`; a process that dies lets go of it."""
    with open(path, "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
