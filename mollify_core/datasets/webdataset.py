"""A WebDataset: .tar files in which KEY.jpg (or another image) and KEY.cls, its class, are one sample.

Only regular files count: no link is followed, and no name leads out.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from mollify_core.datasets.files import Files, TarFiles, quoted
from mollify_core.datasets.images import SUFFIXES
from mollify_core.datasets.listing import Listed
from mollify_core.datasets.packed import classed, splits
from mollify_core.errors import DataError
from mollify_core.foreign import shown

_LABEL = ".cls"
_LONGEST = 1000  # bytes of a label


def listed(path: Path) -> Listed | None:
    """A folder of .tar files, see `packed.splits`; None where there are none.

    A class is a number or a name, and a key is a name up to its first dot, as WebDataset has it.

    Raises:
        DataError: an archive is damaged or compressed, names files outside, or has two images or no label for a key.
    """
    files = splits(path, ".tar")
    if not files:
        return None
    tars = {name: TarFiles(path / name) for names in files.values() for name in names}
    left_out: Counter[str] = Counter()
    rows: dict[str, list[str]] = {split: [] for split in files}
    labels: dict[str, list[int | str]] = {split: [] for split in files}
    for split, of_split in files.items():
        for name in of_split:
            for image, label in _samples(tars[name], left_out):
                rows[split].append(f"{name}/{image}")
                labels[split].append(label)
    if not rows["train"]:
        raise DataError(
            f"Expected images with a {_LABEL} file beside each in the archives of {quoted(path)}, but got none"
        )
    called, numbers = classed(path, labels)
    form = f"a WebDataset of {len(tars):,} archive{'s' * (len(tars) > 1)}"
    pairs = {split: list(zip(rows[split], numbers[split], strict=True)) for split in files}
    return Listed(_Archives(path, tars, rows), called, pairs, left_out=dict(left_out), form=form)


class _Archives(Files):
    """The images of archives, called by the archive's name and their own."""

    def __init__(self, path: Path, tars: Mapping[str, TarFiles], rows: Mapping[str, list[str]]) -> None:
        self.path, self._tars = path, tars
        self.names = sorted(name for part in rows.values() for name in part)

    def places(self, names: Sequence[str]) -> list[Path]:
        return [tar.path for tar in self._tars.values()]

    def _read(self, name: str) -> bytes:
        archive, _, image = name.partition(".tar/")
        return self._tars[f"{archive}.tar"].read(image)


def _samples(tar: TarFiles, left_out: Counter[str]) -> list[tuple[str, int | str]]:
    """Images of an archive in the order of their names, and their labels."""
    images: dict[str, str] = {}
    labels: dict[str, str] = {}
    for name in tar.names:
        folder, slash, last = name.rpartition("/")
        first, dot, suffix = last.partition(".")
        key = folder + slash + first
        if not first:  # hidden, as macOS leaves some
            left_out["hidden"] += 1
        elif dot + suffix.lower() in SUFFIXES:
            if key in images:
                two = f"{shown(images[key])} and {shown(name)}"
                raise DataError(f"Expected one image of each key in {quoted(tar.path)}, but got {two}")
            images[key] = name
        elif dot + suffix.lower() == _LABEL:
            labels[key] = name
        else:
            left_out["neither images nor labels"] += 1
    for reason, keys in (
        ("labels without an image", labels.keys() - images.keys()),
        ("images without a label", images.keys() - labels.keys()),
    ):
        if keys:
            left_out[reason] += len(keys)
    return [(image, _label(tar, labels[key])) for key, image in images.items() if key in labels]


def _label(tar: TarFiles, name: str) -> int | str:
    if tar.size(name) > _LONGEST:
        raise DataError(
            f"Expected {quoted(name)} in {quoted(tar.path)} to be a class, but it has {tar.size(name):,} bytes"
        )
    said = tar.text(name).strip()
    if not said:
        raise DataError(f"Expected {quoted(name)} in {quoted(tar.path)} to be a class, but it is empty")
    return int(said) if said.lstrip("-").isascii() and said.lstrip("-").isdigit() else said
