"""The exceptions of mollify: a small tree, each also a builtin, so that callers may catch either."""

import difflib
import textwrap
from collections.abc import Iterable, Sequence


class MollifyError(Exception):
    """Base of every error that mollify raises on purpose. Its text is one sentence fit for a user."""


class ConfigError(MollifyError, ValueError):
    """A setting is unknown, has the wrong type, lies outside its range, or contradicts another."""


class DataError(MollifyError, ValueError):
    """A data set is missing, truncated, of another shape than expected, or has labels out of range."""


class ChecksumError(DataError):
    """A file is not the official one: its checksum differs."""


class CheckpointError(MollifyError, ValueError):
    """A checkpoint is incomplete or damaged, or belongs to another recipe."""


class StorageError(MollifyError, OSError):
    """A storage location cannot be read or written."""


class SweepError(MollifyError, RuntimeError):
    """A sweep broke on the way, through no fault of its settings; what it has done is kept."""


class Preempted(MollifyError, RuntimeError):
    """Training was asked to stop and stopped between two steps; its state can be saved."""


class NonFiniteLossError(MollifyError, ArithmeticError):
    """The training loss, or what validation measures, became NaN or infinite.

    Attributes:
        epoch: epoch index, from 0.
        step: step index within the epoch, from 0.
        times: mollification times t, or strengths d of distortions, that were drawn for the images of that step; none
            where it was found in validation.
    """

    def __init__(self, message: str, *, epoch: int, step: int, times: Sequence[float] = ()) -> None:
        super().__init__(message)
        self.epoch, self.step, self.times = epoch, step, tuple(times)

    def __reduce__(self) -> tuple:  # keyword-only arguments must survive the way from a worker process to the driver
        return _rebuild_nonfinite, (str(self), self.epoch, self.step, self.times)


def _rebuild_nonfinite(message: str, epoch: int, step: int, times: tuple[float, ...]) -> NonFiniteLossError:
    return NonFiniteLossError(message, epoch=epoch, step=step, times=times)


def first_line(error: BaseException) -> str:
    """The first line of an error's text, or its class's name when it has none: what fits into one sentence."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def nearest(word: str, known: Iterable[str]) -> str:
    """A hint ' (nearest: 'x')' naming the known word closest to `word`, or the known ones when none is close."""
    known = sorted(str(k) for k in known)
    close = difflib.get_close_matches(str(word)[:100], known, n=1, cutoff=0.5)
    if close:
        return f"; did you mean {close[0]!r}?"
    listed = textwrap.shorten(", ".join(known), 300, placeholder=" …")
    return f"; known: {listed}"
