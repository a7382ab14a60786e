"""The cache on disk: one writer at a time, and folders that appear in one step, complete or not at all.

It holds one folder for each data set and set of source files, named after their checksums: other files, or changed
ones, never meet an old preparation.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path, PurePath
from typing import Any

from filelock import FileLock

from mollify_core.disk import regular, sync
from mollify_core.errors import ConfigError, MollifyError, StorageError
from mollify_core.foreign import expanded

FORMAT = 1
_LONGEST = 1 << 26  # bytes of a manifest, which may name many classes


def cache_folder(cache_dir: str | Path | None) -> Path:
    """`cache_dir`, by default $MOLLIFY_CACHE, else ~/.cache/mollify."""
    return expanded(cache_dir or os.environ.get("MOLLIFY_CACHE") or "~/.cache/mollify")


def key(name: str, checksums: Mapping[str, str]) -> str:
    """The name of the folder for data set `name` made of source files with these checksums."""
    text = json.dumps([FORMAT, name, sorted(checksums.items())])
    return f"{name}-{hashlib.sha256(text.encode()).hexdigest()[:12]}"


def addresses(filename: str, first: Sequence[str], then: Sequence[str]) -> list[str]:
    """Where to look for a file: the user's mirrors, of the file or of the folder with it, then the built-in addresses.

    Raises:
        ConfigError: a mirror is no http or https address.
    """
    for mirror in first:
        if not mirror.startswith(("http://", "https://")):
            raise ConfigError(f"Expected a mirror to begin with http:// or https://, but got {mirror!r}")
    return [m if m.endswith(f"/{filename}") else f"{m.rstrip('/')}/{filename}" for m in first] + list(then)


@contextlib.contextmanager
def storage(cache: Path) -> Iterator[None]:
    """Makes the cache folder, and turns errors of writing to it into a StorageError."""
    try:
        cache.mkdir(parents=True, exist_ok=True)
        yield
    except OSError as error:
        if isinstance(error, MollifyError):
            raise
        reason = os.strerror(error.errno) if error.errno else " ".join(str(error).split())  # pyarrow has no strerror
        raise StorageError(f"Cannot write the data cache {error.filename or str(cache)!r}: {reason}") from None


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Holds the lock file `path`; a process that dies lets go of it."""
    with FileLock(path):
        yield


@contextlib.contextmanager
def draft(folder: Path) -> Iterator[Path]:
    """A folder to fill, which moves to `folder` when all of it is on the disk; after an error nothing is left."""
    place = folder.with_name(f".{folder.name}.draft")
    for stale in (place, folder):  # what a killed process left, and a damaged preparation
        if stale.is_dir() and not stale.is_symlink():
            shutil.rmtree(stale)
        else:
            stale.unlink(missing_ok=True)
    place.mkdir()
    try:
        yield place
        for path in (*place.iterdir(), place):
            sync(path)
        place.rename(folder)
    except BaseException:
        shutil.rmtree(place, ignore_errors=True)
        raise
    sync(folder.parent)


def write_manifest(folder: Path, name: str, manifest: Mapping[str, Any]) -> None:
    """Writes manifest.json with the size and sha256 of every other file in `folder`."""
    files = {}
    for path in sorted(folder.iterdir()):
        with open(path, "rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        files[path.name] = {"bytes": path.stat().st_size, "sha256": digest}
    text = json.dumps({"format": FORMAT, "name": name, **manifest, "files": files}, indent=2)
    (folder / "manifest.json").write_text(text, encoding="utf-8")


def read_manifest(folder: Path, name: str, files: Collection[str], kinds: Mapping[str, Any]) -> dict[str, Any] | None:
    """The manifest of what is prepared in `folder`; None when there is nothing, or something damaged.

    Args:
        folder: of the cache.
        name: of the data set.
        files: that it must name, beside others that lie there.
        kinds: key -> what its value must be, see `_is`.
    """
    try:
        with regular(folder / "manifest.json") as file:
            manifest = json.loads(file.read(_LONGEST))
        sizes = {name: entry["bytes"] for name, entry in manifest["files"].items()}
        whole = (
            (manifest["format"], manifest["name"]) == (FORMAT, name)
            and sizes.keys() >= set(files)
            and all(_is(manifest.get(key), kind) for key, kind in kinds.items())
            and all(PurePath(name).name == name and (folder / name).lstat().st_size == sizes[name] for name in sizes)
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None
    return manifest if whole else None


def _is(value: Any, kind: Any) -> bool:
    """Whether a value of a manifest is of a kind: a type; [kind], a list of it; or {str: kind}, a mapping to it."""
    if isinstance(kind, list):
        return isinstance(value, list) and all(_is(item, kind[0]) for item in value)
    if isinstance(kind, dict):
        return isinstance(value, dict) and all(_is(item, kind[str]) for item in value.values())
    if kind is float:
        return type(value) in (int, float) and 0 <= value <= 1
    return type(value) is kind and (kind is not int or value >= 0)
