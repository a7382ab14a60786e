"""What to make of a storage that fails: try again for a while, for ever, or tell the user that it refuses."""

from __future__ import annotations

import datetime
import errno
import re
import time
from collections.abc import Callable
from typing import Literal, TypeVar

from mollify_core.errors import Preempted, StorageError, first_line

T = TypeVar("T")
Stop = Callable[[], bool]
_RETRY_SECONDS = (0.2, 1, 3, 10, 30)
_FULL = re.compile(r"STORAGE_?FULL|INSUFFICIENT_?STORAGE|QUOTA_?EXCEEDED|HTTP status 507", re.IGNORECASE)
_REFUSED = re.compile(
    r"AWS Error (ACCESS_DENIED|NO_SUCH_BUCKET|INVALID_ACCESS_KEY_ID|INVALID_CLIENT_TOKEN_ID|SIGNATURE_DOES_NOT_MATCH)"
    r"|HTTP status 403"
)
_PAUSES = (0.2, 1.0, 3.0, 10.0)  # seconds between attempts, the last one again and again
_REFUSALS = 4  # attempts before an answer like "access denied" is taken for the last word
_SILENT = 5.0  # seconds after which one failure alone is told
LOOK = 0.2  # seconds between looks at who may want to stop


class Patience:
    """Tries again while the storage fails, for as long as it takes.

    Args:
        uri: of the storage, for the user.
        tell: is told in one sentence, once, that the storage does not answer or is full, and None when it is well
            again.
    """

    def __init__(self, uri: str, tell: Callable[[str | None], None] = lambda text: None) -> None:
        self._uri, self._tell = uri, tell
        self._told: str | None = None
        self._failures = 0  # in a row

    def __call__(self, action: Callable[[], T], stop: Stop = lambda: False) -> T:
        """What `action` returns, when the storage lets it.

        Args:
            action: may be called several times.
            stop: asked between attempts.

        Raises:
            StorageError: the storage refuses for good (access denied, no such bucket).
            Preempted: `stop` said so.
        """
        while True:
            if not self._failures:
                self._since = datetime.datetime.now()
                self._started = time.monotonic()
            try:
                result = action()
            except OSError as error:
                self._failed(error)
            else:
                if self._told:
                    self._tell(None)
                self._told, self._failures = None, 0
                return result
            until = time.monotonic() + _PAUSES[min(self._failures, len(_PAUSES)) - 1]
            while time.monotonic() < until:
                if stop():
                    raise Preempted(f"Storage {self._uri!r} has not answered")
                time.sleep(LOOK)

    def _failed(self, error: OSError) -> None:
        self._failures += 1
        kind, waited = trouble(error), time.monotonic() - self._started
        if kind == "refused" and self._failures >= _REFUSALS:
            raise StorageError(f"Cannot use storage {self._uri!r}: {first_line(error)}") from None
        if kind == "full" and self._told != kind:
            text = "is full; training goes on without keeping more until there is room"
        elif kind == "down" and (self._failures > 1 or waited > _SILENT) and not self._told:
            text = f"does not answer since {self._since:%H:%M:%S}; training goes on and uploads wait ({reason(error)})"
        else:
            return
        self._told = kind
        self._tell(f"the storage {text}")


def retry(action: Callable[[], T]) -> T:
    """Runs `action`, again after growing pauses while the storage fails; after the last, its OSError is raised."""
    for pause in _RETRY_SECONDS:
        try:
            return action()
        except OSError:
            time.sleep(pause)
    return action()


def trouble(error: OSError) -> Literal["full", "refused", "down"]:
    """What is wrong with a storage: it has no room, it will never let us, or it does not answer for now."""
    text = str(error)
    if error.errno in (errno.ENOSPC, errno.EDQUOT) or _FULL.search(text):
        return "full"
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS) or _REFUSED.search(text):
        return "refused"
    return "down"


def reason(error: OSError) -> str:
    """What a failing storage says, as short as it can be told."""
    said = re.search(r"AWS Error .*? operation", str(error))
    return said.group() if said else first_line(error)
