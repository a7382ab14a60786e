"""The frame of every program: a parser that says what is wrong in one sentence, and errors as exit codes."""

from __future__ import annotations

import argparse
import sys
import textwrap
from collections.abc import Callable
from typing import Any

from mollify_core.errors import ConfigError, MollifyError


class Parser(argparse.ArgumentParser):
    """argparse with our manner of saying what is wrong: one sentence, exit code 2. No option may be abbreviated."""

    def __init__(self, *, epilog: str = "", **options: Any) -> None:
        raw = argparse.RawDescriptionHelpFormatter if epilog else argparse.HelpFormatter
        super().__init__(epilog=textwrap.dedent(epilog), formatter_class=raw, allow_abbrev=False, **options)

    def error(self, message: str) -> None:  # type: ignore[override]
        raise ConfigError(f"{message} (see --help)")


def guarded(
    action: Callable[[], int],
    *,
    broke: tuple[type[MollifyError], ...] = (),
    stopped: str = "",
    interrupted: int = 130,
) -> int:
    """Does what a program is for; an error of ours becomes one sentence.

    Args:
        action: returns the exit code.
        broke: errors that no other input would have spared the user: exit code 1.
        stopped: what is said after Ctrl-C.
        interrupted: the exit code then.

    Returns:
        The exit code: that of `action`, 2 after bad input.
    """
    try:
        return action()
    except MollifyError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1 if isinstance(error, broke) else 2
    except KeyboardInterrupt:
        if stopped:
            print(stopped, file=sys.stderr)
        return interrupted
