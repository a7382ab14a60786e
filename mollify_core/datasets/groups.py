"""Which images belong together, of one patient, burst or video: read from a file of somebody's own.

Images of one group are no independent evidence. So no split divides one, and in every interval a group is one image.
"""

from __future__ import annotations

import csv
import hashlib
import io
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from mollify_core.datasets.files import quoted, reason
from mollify_core.datasets.load import parquet
from mollify_core.disk import regular
from mollify_core.errors import DataError
from mollify_core.foreign import shown

COLUMNS = ("image", "group")
_LONGEST = 1 << 30  # bytes of the file, and of what it unpacks to


def of_images(path: Path, names: Sequence[str], where: str) -> dict[str, str]:
    """Image -> its group.

    Args:
        path: a CSV file with a header, or a Parquet file, with the columns `image` and `group`; others, and rows of
            other images, are not looked at.
        names: of the images, as they are called within their folder.
        where: the folder, as a sentence quotes it.

    Raises:
        DataError: the file cannot be read, names an image with two groups, or leaves one without.
    """
    known: dict[str, str] = {}
    for image, group in _rows(path):
        if known.setdefault(image, group) != group:
            both = f"{shown(known[image])} and {shown(group)}"
            raise DataError(f"Expected one group for each image in {quoted(path)}, but {quoted(image)} has {both}")
    missing = [name for name in names if name not in known]
    if missing:
        raise DataError(
            f"Expected a group for every image of {where} in {quoted(path)}, but {len(missing):,} of {len(names):,} "
            f"have none, as {quoted(missing[0])}"
        )
    return {name: known[name] for name in names}


def digest(groups: Mapping[str, str]) -> str:
    """The sha256 of which image is in which group, in hexadecimal; the same in whatever file and order it is said."""
    found = hashlib.sha256()
    for name in sorted(groups):
        found.update(os.fsencode(f"{name}\0{groups[name]}\n"))
    return found.hexdigest()


def _rows(path: Path) -> Iterator[tuple[str, str]]:
    """(image, group) of every row."""
    try:
        with regular(path) as held:
            size = os.fstat(held.fileno()).st_size
            if size > _LONGEST:
                raise ValueError(f"it has {size:,} bytes")
            yield from _of_parquet(held, path) if held.peek(4)[:4] == b"PAR1" else _of_csv(held, path)
    except DataError:
        raise
    except Exception as error:  # a damaged file can have nearly anything raised
        raise DataError(f"Cannot read groups from {quoted(path)}: {reason(error)}") from None


def _of_csv(held: Any, path: Path) -> Iterator[tuple[str, str]]:
    # A name that is no UTF-8 is a file's all the same.
    with io.TextIOWrapper(held, encoding="utf-8-sig", errors="surrogateescape", newline="") as text:
        rows = csv.reader(text, strict=True)
        header = [name.strip() for name in next(rows, [])]
        places = _places(header, path)
        for row in rows:
            if row:
                cells = [row[place].strip() if place < len(row) else "" for place in places]
                if not all(cells):
                    raise DataError(f"Expected an image and its group in line {rows.line_num} of {quoted(path)}")
                yield cells[0], cells[1]


def _of_parquet(held: Any, path: Path) -> Iterator[tuple[str, str]]:
    import pyarrow as pa

    with parquet(held) as file:
        _places(file.schema_arrow.names, path)
        unpacked = sum(file.metadata.row_group(i).total_byte_size for i in range(file.num_row_groups))
        if unpacked > _LONGEST:
            raise ValueError(f"it claims {unpacked:,} bytes")
        for number in range(file.num_row_groups):
            table = file.read_row_group(number, columns=list(COLUMNS), use_threads=False)
            columns = [table[name].cast(pa.string()).to_pylist() for name in COLUMNS]
            for image, group in zip(*columns, strict=True):
                if not image or not group:
                    raise DataError(f"Expected an image and its group in every row of {quoted(path)}")
                yield image, group


def _places(header: Iterable[str], path: Path) -> list[int]:
    """Where the two columns stand."""
    names = list(header)
    if any(names.count(name) != 1 for name in COLUMNS):
        got = ", ".join(shown(name, 40) for name in names[:6]) or "none"
        raise DataError(f"Expected the columns image and group, once each, in {quoted(path)}, but got {got}")
    return [names.index(name) for name in COLUMNS]
