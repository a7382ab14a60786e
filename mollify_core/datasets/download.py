"""Fetch one file over HTTP: resumable, checked against its md5, from the first address that has it."""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import re
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from mollify_core.errors import ChecksumError, DataError, StorageError

Progress = Callable[[int, int | None], None]
"""Called with the bytes done so far and the bytes in total (None when the server does not say)."""

_LONGEST_WAIT = 60  # seconds that a busy server may ask for


def download(
    urls: Sequence[str],
    md5: str,
    target: Path,
    *,
    progress: Progress | None = None,
    timeout: float = 30.0,
    attempts: int = 4,
    backoff: float = 0.5,
) -> None:
    """Brings `target` here from the first of `urls` that delivers a file with checksum `md5`.

    Bytes gather in ``<target>.part``, which a later call continues; `target` appears only when its checksum is
    right. Two processes must not fetch the same target at once.

    Args:
        urls: http or https addresses, tried in order.
        md5: of the whole file, hexadecimal.
        target: where the file goes; its folder must exist.
        progress: called after every block.
        timeout: seconds to wait for a connection and for each block.
        attempts: how often in a row an address may fail without bringing new bytes before the next one is tried.
        backoff: seconds before the second attempt; each further wait is twice as long.

    Raises:
        ChecksumError: an address delivered another file, and no address the right one.
        DataError: no address could be read.
        StorageError: `target` cannot be written.
    """
    part = target.with_name(target.name + ".part")
    failures, wrong = [], None
    for candidate in (target, part):  # an earlier call may have been stopped just before its last step
        if candidate.exists() and file_md5(candidate) == md5:
            candidate.replace(target)
            return
    for url in urls:
        while True:
            inherited = _size(part) > 0
            failure = _fetch(url, part, progress, timeout, attempts, backoff)
            if failure is None:
                got = file_md5(part)
                if got == md5:
                    part.replace(target)
                    return
                part.unlink()
                if inherited:  # the fault may lie in what another address left behind: once more from the start
                    continue
                wrong = wrong or got
                failure = f"md5 {got}"
            failures.append(f"{url} ({failure})")
            break
    tried = ", ".join(failures)
    if wrong is not None:
        raise ChecksumError(f"Expected {target.name} to have md5 {md5}, but got {wrong}; tried {tried}")
    raise DataError(
        f"Cannot download {target.name}: tried {tried}; where there is no network, "
        "pass a folder with the official files by --data-dir"
    )


def file_md5(path: Path) -> str:
    """The md5 of a file, hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


@contextlib.contextmanager
def progress_bar(title: str, unit: str = "bytes") -> Iterator[Progress | None]:
    """A progress callback that draws a bar on standard error; None when that is not a terminal."""
    if not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        MofNCompleteColumn,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )
    from rich.progress import Progress as Bar

    amount = (DownloadColumn(), TransferSpeedColumn()) if unit == "bytes" else (MofNCompleteColumn(), TextColumn(unit))
    columns = (TextColumn("{task.description}"), BarColumn(), *amount, TimeRemainingColumn())
    with Bar(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(title, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def _fetch(
    url: str, part: Path, progress: Progress | None, timeout: float, attempts: int, backoff: float
) -> str | None:
    """Completes `part` from `url`, with retries; returns why that failed, or None."""
    furthest, failed = _size(part), 0
    while True:
        asked_to_wait = 0
        try:
            _fetch_once(url, part, progress, timeout)
            return None
        except StorageError:
            raise
        except urllib.error.HTTPError as error:
            reason = f"HTTP {error.code}"
            if error.code == 416:  # more bytes here than there: `part` is of another file
                part.unlink(missing_ok=True)
            elif error.code < 500 and error.code not in (408, 429):
                return reason
            if error.headers.get("Retry-After", "").isdigit():
                asked_to_wait = min(int(error.headers["Retry-After"]), _LONGEST_WAIT)
        except (OSError, http.client.HTTPException) as error:
            cause = getattr(error, "reason", error)  # urllib wraps the socket's error
            reason = " ".join(str(getattr(cause, "strerror", None) or cause).split()) or type(cause).__name__
        failed = 1 if _size(part) > furthest else failed + 1
        furthest = max(furthest, _size(part))
        if failed >= attempts:
            return reason
        time.sleep(max(backoff * 2 ** (failed - 1), asked_to_wait))


def _fetch_once(url: str, part: Path, progress: Progress | None, timeout: float) -> None:
    done = _size(part)
    headers = {"User-Agent": "mollify", "Accept-Encoding": "identity"}
    if done:
        headers["Range"] = f"bytes={done}-"
    request = urllib.request.Request(url, headers=headers)
    with urllib.request.urlopen(request, timeout=timeout) as response:  # nosec B310: of our list, or a mirror
        total = None
        if response.status == 206:
            span = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", response.headers.get("Content-Range", ""))
            if span is None or int(span[1]) != done:
                part.unlink(missing_ok=True)
                raise http.client.HTTPException("answered with another range than asked for")
            total = None if span[2] == "*" else int(span[2])
        else:  # the server takes no ranges and sends the file from its start
            done = 0
            if response.headers.get("Content-Length", "").isdigit():
                total = int(response.headers["Content-Length"])
        with _writing(part):
            file = open(part, "ab" if done else "wb", buffering=0)  # noqa: SIM115
        with file:
            while block := response.read(1 << 16):
                with _writing(part):
                    rest = memoryview(block)
                    while rest:
                        rest = rest[file.write(rest) :]
                done += len(block)
                if progress is not None:
                    progress(done, total)
    if total is not None and done < total:
        raise http.client.HTTPException(f"connection closed after {done} of {total} bytes")


@contextlib.contextmanager
def _writing(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:  # not the network's fault, so no other attempt can help
        raise StorageError(f"Cannot write {str(path)!r}: {error.strerror or error}") from None


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0
