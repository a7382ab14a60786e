"""What comes from elsewhere: text that is shown, and paths that are named by people and machines unlike ours."""

from __future__ import annotations

import os
import unicodedata
from pathlib import Path

from mollify_core.errors import ConfigError

# Kinds of characters that steer a terminal or turn text around, or cannot be written at all.
_STEERING = {"Cc", "Cf", "Cs", "Zl", "Zp"}


def clean(text: object, limit: int = 0, keep: str = "\n") -> str:
    """Text in which nothing steers a terminal: control characters, escape sequences' beginnings, marks that turn the
    direction of writing, and lone surrogates are written as Python writes them ("\\x1b").

    Args:
        text: whatever a file, a name or an error says.
        limit: how many characters of it are shown at most; 0 is all.
        keep: control characters that stay what they are.
    """
    said = str(text)
    short = said[: limit - 1] + "…" if 0 < limit < len(said) else said
    if short.isascii() and short.isprintable():
        return short
    return "".join(
        c if c in keep or unicodedata.category(c) not in _STEERING else c.encode("unicode_escape").decode()
        for c in short
    )


def shown(value: object, limit: int = 60) -> str:
    """A value as an error's sentence quotes it: its `repr`, on one line, cut to `limit` characters."""
    try:
        return clean(repr(value), limit, keep="")
    except Exception as error:  # an integer of more digits than Python writes, or lists nested without end
        return f"a value that cannot be shown ({type(error).__name__})"


def expanded(path: str | Path, *, written: bool = False) -> Path:
    """A path in which `~` and `~name` are home folders. Nothing need be there.

    Args:
        path: as the user named it.
        written: libraries that take names in UTF-8 only are to write there.

    Raises:
        ConfigError: no such user, or this machine does not say where the home folder is; or nothing can ever be there:
            it holds a NUL, is too long, or its links lead in a circle.
    """
    if "\0" in str(path):
        raise ConfigError(f"Expected a path without NUL characters, but got {shown(str(path))}")
    try:
        if written:
            str(path).encode()
        found = Path(path).expanduser()
        os.stat(found)
        return found
    except UnicodeEncodeError:
        raise ConfigError(f"Expected a path in UTF-8, but got {shown(str(path))}") from None
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        return found
    except OSError as error:
        raise ConfigError(f"Cannot use the path {shown(str(path))}: {error.strerror}") from None
    except (RuntimeError, KeyError):
        who = str(path).split(os.sep)[0]
        hint = "set HOME, or write the whole path" if who == "~" else "no user has that name here"
        raise ConfigError(f"Expected a home folder for {shown(who)} in {shown(str(path))}: {hint}") from None
