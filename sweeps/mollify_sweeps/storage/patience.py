"""What to make of a storage that fails: try again and say why, whatever it is; only a refusal has an end."""

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
# An expired token is an UNKNOWN 400 to Arrow, which knows only the errors of its SDK's own list.
_CREDENTIALS = re.compile(
    r"AWS Error (INVALID_ACCESS_KEY_ID|INVALID_CLIENT_TOKEN_ID|UNRECOGNIZED_CLIENT|MISSING_AUTHENTICATION_TOKEN"
    r"|(INVALID_|INCOMPLETE_)?SIGNATURE(_DOES_NOT_MATCH)?|REQUEST_EXPIRED|REQUEST_TIME_TOO_SKEWED"
    r"|UNKNOWN \(HTTP status 400\))|HTTP status 401|Status\(UNAUTHENTICATED"
)
_REFUSED = re.compile(r"AWS Error (ACCESS_DENIED|NO_SUCH_BUCKET)|HTTP status 403|Status\(PERMISSION_DENIED")
_PAUSES = (0.2, 1.0, 3.0, 10.0)  # seconds between attempts, the last one again and again
_REFUSALS = 600.0  # seconds after which an answer like "access denied" is the last word: new roles spread slowly
_SILENT = 5.0  # seconds after which one failure alone is told
AGAIN = 300.0  # seconds after which trouble that lasts is told again
Trouble = Literal["full", "credentials", "refused", "down"]
_TOLD: dict[Trouble, str] = {
    "full": "is full; training goes on without keeping more until there is room",
    "credentials": "does not accept the credentials; training goes on and uploads wait until they are renewed",
    "refused": "refuses access; training goes on and uploads wait",
    "down": "does not answer; training goes on and uploads wait",
}
LOOK = 0.2  # seconds between looks at who may want to stop


class Patience:
    """Tries again while the storage fails, for as long as it takes.

    Args:
        uri: of the storage, for the user.
        tell: is told in one sentence what is wrong, again while it lasts, and None when it is well again.
        renew: looks for the credentials anew.
    """

    def __init__(
        self,
        uri: str,
        tell: Callable[[str | None], None] = lambda text: None,
        renew: Callable[[], None] = lambda: None,
    ) -> None:
        self._uri, self._tell, self._renew = uri, tell, renew
        self._told: Trouble | None = None
        self._told_at = 0.0
        self._failures = 0  # in a row

    def __call__(self, action: Callable[[], T], stop: Stop = lambda: False) -> T:
        """What `action` returns, when the storage lets it.

        Args:
            action: may be called several times.
            stop: asked between attempts.

        Raises:
            StorageError: the storage has refused for long (access denied, no such bucket).
            Preempted: `stop` said so.
        """
        while True:
            if not self._failures:
                self._since = datetime.datetime.now()
                self._started = time.monotonic()
                self._refused_since: float | None = None
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
        kind, now = trouble(error), time.monotonic()
        if kind in ("credentials", "refused"):
            self._renew()
        if kind != "refused":
            self._refused_since = None
        elif self._refused_since is None:
            self._refused_since = now
        elif now - self._refused_since >= _REFUSALS:
            raise StorageError(f"Cannot use storage {self._uri!r}: {first_line(error)}") from None
        lasts = kind == "full" or self._failures > 1 or now - self._started > _SILENT
        if lasts and (kind != self._told or now - self._told_at >= AGAIN):
            self._told, self._told_at = kind, now
            self._tell(f"the storage {_TOLD[kind]} (since {self._since:%H:%M:%S}: {reason(error)})")


def retry(action: Callable[[], T]) -> T:
    """Runs `action`, again after growing pauses while the storage fails; after the last, its OSError is raised."""
    for pause in _RETRY_SECONDS:
        try:
            return action()
        except OSError:
            time.sleep(pause)
    return action()


def trouble(error: OSError) -> Trouble:
    """What is wrong with a storage: no room, credentials that it does not know (any more), no right, or no answer."""
    text = str(error)
    if error.errno in (errno.ENOSPC, errno.EDQUOT) or _FULL.search(text):
        return "full"
    if _CREDENTIALS.search(text):
        return "credentials"
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS) or _REFUSED.search(text):
        return "refused"
    return "down"


def reason(error: OSError) -> str:
    """What a failing storage says, as short as it can be told."""
    said = re.search(r"AWS Error .*? operation", str(error))
    return said.group() if said else first_line(error)
