"""Passwords in what is shown or kept: the one place that knows every form in which an address can hold them."""

from __future__ import annotations

import re

MASK = "***"
# Of user:password@, up to the last @, since a password may hold one; and of options, as in ?password=X&sslmode=require
# of SQLAlchemy's URLs, X-Amz-Signature=X of a signed link, and "host=h password=X" of PostgreSQL's own words.
_USER = re.compile(r"(://[^:/?#@\s]*):\S*@")
_OPTION = re.compile(
    r"((?:^|[?&;\s])[\w.-]*(?:password|passwd|pwd|secret|token|signature|credential|access_?key|api_?key|odbc_connect)"
    r"[\w.-]*\s*=\s*)('[^']*'|[^&;\s]+)",
    re.IGNORECASE,
)


def hidden(text: str) -> str:
    """A text, such as an address or a word of a command, with `MASK` in the place of each password."""
    return _OPTION.sub(rf"\1{MASK}", _USER.sub(rf"\1:{MASK}@", text))
