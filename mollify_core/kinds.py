"""What a value of a document may be: each file is described once by these, and `checked` holds what came against it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from mollify_core.documents import LARGEST, Place
from mollify_core.errors import DataError
from mollify_core.foreign import clean, shown


@dataclass(frozen=True)
class Text:
    """A text of at most so many characters; one of `among` where that is given."""

    most: int = 10_000
    among: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"one of {', '.join(self.among)}" if self.among else f"a text of at most {self.most} characters"

    def fits(self, value: Any) -> bool:
        return isinstance(value, str) and len(value) <= self.most and (not self.among or value in self.among)


@dataclass(frozen=True)
class Whole:
    """An integer in [low, high]."""

    low: int = 0
    high: int = 2**63 - 1

    def __str__(self) -> str:
        return f"a whole number from {self.low} to {self.high if self.high < 2**62 else '2**63 - 1'}"

    def fits(self, value: Any) -> bool:
        return isinstance(value, int) and not isinstance(value, bool) and self.low <= value <= self.high


@dataclass(frozen=True)
class Number:
    """A number in [low, high]; with `any`, also NaN and infinity, as measures of what has diverged are."""

    low: float = -1e300
    high: float = 1e300
    any: bool = False

    def __str__(self) -> str:
        plain = (self.low, self.high) == (-1e300, 1e300)
        return "a number" if plain else f"a number from {self.low:g} to {self.high:g}"

    def fits(self, value: Any) -> bool:
        if not isinstance(value, int | float) or isinstance(value, bool):
            return False
        if isinstance(value, int) and abs(value) >= LARGEST:  # not every one of these is a float
            return False
        return self.any or self.low <= value <= self.high


@dataclass(frozen=True)
class Flag:
    """True or false."""

    def __str__(self) -> str:
        return "true or false"

    def fits(self, value: Any) -> bool:
        return isinstance(value, bool)


@dataclass(frozen=True)
class Maybe:
    """Something, or null."""

    of: Any

    def __str__(self) -> str:
        return f"{self.of} or null"


@dataclass(frozen=True)
class ListOf:
    """A list of `least` to `most` things of one kind; None: of any."""

    of: Any
    least: int = 0
    most: int = 100_000

    def __str__(self) -> str:
        return f"a list of at least {self.least}" if self.least else "a list"


@dataclass(frozen=True)
class MapOf:
    """A mapping of at most so many names to things of one kind; None: of any."""

    of: Any = None
    most: int = 100_000

    def __str__(self) -> str:
        return "a mapping"


class Record:
    """A mapping with names of its own.

    Args:
        required: name -> kind.
        optional: the same of what may be missing. Other names are left alone: a later version may have more.
    """

    def __init__(self, required: dict[str, Any], optional: dict[str, Any] | None = None) -> None:
        self.required, self.optional = required, optional or {}

    def __str__(self) -> str:
        return "a mapping"


def checked(value: Any, kind: Any, of: str, path: Place = ()) -> Any:
    """The value, which is of a kind.

    Args:
        value: of a document.
        kind: one of the above.
        of: what it belongs to, in words: "sweep.json".
        path: where it stands in that.

    Raises:
        DataError: it is of another kind; where, what was expected and what came.
    """
    if kind is None:  # anything
        return value
    if isinstance(kind, Maybe):
        if value is not None:
            inner = kind.of
            if isinstance(inner, Text | Whole | Number | Flag) and not inner.fits(value):
                raise _wrong(value, kind, of, path)
            checked(value, inner, of, path)
    elif isinstance(kind, Record):
        if not isinstance(value, dict):
            raise _wrong(value, kind, of, path)
        for name in kind.required:
            if name not in value:
                raise DataError(f"Expected {of} to hold `{_path((*path, name))}`, but it does not")
        for name, inner in (kind.required | kind.optional).items():
            if name in value:
                checked(value[name], inner, of, (*path, name))
    elif isinstance(kind, MapOf):
        if not isinstance(value, dict) or len(value) > kind.most or not all(isinstance(key, str) for key in value):
            raise _wrong(value, kind, of, path)
        for name, item in value.items() if kind.of is not None else ():
            checked(item, kind.of, of, (*path, name))
    elif isinstance(kind, ListOf):
        if not isinstance(value, list | tuple) or not kind.least <= len(value) <= kind.most:
            raise _wrong(value, kind, of, path)
        for i, item in enumerate(value):
            checked(item, kind.of, of, (*path, i))
    elif not kind.fits(value):
        raise _wrong(value, kind, of, path)
    return value


def fits(value: Any, kind: Any) -> bool:
    """Whether a value is of a kind."""
    try:
        checked(value, kind, "")
    except DataError:
        return False
    return True


def _wrong(value: Any, kind: Any, of: str, path: Place) -> DataError:
    what = f"`{_path(path)}` of {of}" if path else of
    return DataError(f"Expected {what} to be {kind}, but got {shown(value)}")


def _path(path: Iterable[str | int]) -> str:
    said = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path).lstrip(".")
    return clean(said, 120, "")
