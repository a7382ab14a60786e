"""Files that a recipe names by their sha256: code of a network, weights to start from. They lie in the user's cache.

A recipe says what such a file must be, not where it is, so that another folder, machine or copy changes nothing. Code
is only run that lies here, and only a user's own command puts it here: a recipe from elsewhere cannot bring its own.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import tempfile
from pathlib import Path

from mollify_core.datasets.cache import cache_folder
from mollify_core.disk import regular
from mollify_core.errors import StorageError
from mollify_core.settings import SHA256, Model


def digest(data: bytes) -> str:
    """The sha256 of a file's content."""
    return hashlib.sha256(data).hexdigest()


def put(data: bytes, suffix: str) -> str:
    """Keeps a file's content; returns its sha256.

    Args:
        data: the content.
        suffix: ".py" or ".safetensors".

    Raises:
        StorageError: the cache cannot be written.
    """
    found = digest(data)
    if get(found, suffix) == data:
        return found
    path = place(found, suffix)
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        handle, draft = tempfile.mkstemp(dir=path.parent)
        try:
            with open(handle, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.replace(draft, path)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(draft)
            raise
    except OSError as error:
        raise StorageError(f"Cannot write to {str(path.parent)!r}: {error.strerror}") from None
    return found


def get(sha256: str, suffix: str) -> bytes | None:
    """The content that has this sha256; None where nothing of it is kept, or what is kept is damaged or another's."""
    if not SHA256.fullmatch(sha256):
        return None
    try:
        with regular(place(sha256, suffix)) as file:
            if hasattr(os, "geteuid") and os.fstat(file.fileno()).st_uid != os.geteuid():
                return None  # of a cache that several users share
            data = file.read()
    except OSError:
        return None
    return data if digest(data) == sha256 else None


def of(model: Model) -> dict[str, tuple[str, str]]:
    """The files that a recipe's model names: name beside a sweep -> (sha256, suffix)."""
    files = {"network.py": (model.network_sha256, ".py"), "weights.safetensors": (model.weights_sha256, ".safetensors")}
    return {name: file for name, file in files.items() if file[0]}


def place(sha256: str, suffix: str) -> Path:
    """Where such a file lies."""
    return cache_folder(None) / "given" / f"{sha256}{suffix}"
