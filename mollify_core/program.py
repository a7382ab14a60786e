"""The frame of every program: a parser that says what is wrong in one sentence, errors as exit codes, and commands that
a person is told to type.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import re
import shlex
import shutil
import stat
import sys
import textwrap
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TextIO

from mollify_core.errors import ConfigError, MollifyError
from mollify_core.foreign import clean
from mollify_core.hiding import hidden

STARTED = time.perf_counter()
"""When this process began, but for Python itself."""

COMMAND = "mollify-sweeps"
"""The one that an installation brings, for every program."""
_PROJECT = Path(__file__).resolve().parents[1]
_CALLS = {  # of other programs, in texts and in commands that are told -> the same by that command
    re.compile(r"(?:python\s+)?(?:\S*/)?sweeps/(\w+)\.py"): rf"{COMMAND} \1",
    re.compile(r"(?:python\s+)?-m\s+mollify_core\.datasets\s+prepare"): f"{COMMAND} prepare",
    re.compile(r"(?:python\s+)?-m\s+mollify_core\.(train|predict|export|networks|presets)"): rf"{COMMAND} \1",
}


def _by_command() -> bool:
    """Whether this process was started by the command, or has it and no scripts: it is installed from a wheel."""
    if Path(sys.argv[0]).name == COMMAND:
        return True
    return not (_PROJECT / "sweeps").is_dir() and importlib.util.find_spec("mollify_sweeps") is not None


def as_called(text: str) -> str:
    """A text that names programs, in the way in which this one was started."""
    for pattern, command in _CALLS.items() if _by_command() else ():
        text = pattern.sub(command, text)
    return text


class Parser(argparse.ArgumentParser):
    """argparse with our manner of saying what is wrong: one sentence, exit code 2. No option may be abbreviated."""

    def __init__(self, *, epilog: str = "", **options: Any) -> None:
        raw = argparse.RawDescriptionHelpFormatter if epilog else argparse.HelpFormatter
        options |= {"prog": as_called(options["prog"])} if "prog" in options else {}
        super().__init__(epilog=textwrap.dedent(epilog), formatter_class=raw, allow_abbrev=False, **options)

    def format_help(self) -> str:
        return as_called(super().format_help())

    def error(self, message: str) -> None:  # type: ignore[override]
        raise ConfigError(f"{message} (see --help)")


def say(text: object, file: TextIO | None = None) -> None:
    """Prints text that may hold names and words from elsewhere: nothing in it steers the terminal."""
    print(clean(text), file=file or sys.stdout, flush=True)


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
        say(f"error: {hidden(str(error))}", sys.stderr)
        return 1 if isinstance(error, broke) else 2
    except BrokenPipeError:
        if not _unheard():
            raise
        return 141  # as the shell says of SIGPIPE
    except KeyboardInterrupt:
        if stopped:
            print(stopped, file=sys.stderr)
        return interrupted


def _unheard() -> bool:
    """Whether nobody reads what is printed any more, as behind `| head`; the rest of it then goes nowhere."""
    out = sys.stdout.fileno()
    if not stat.S_ISFIFO(os.fstat(out).st_mode):
        return False
    os.dup2(os.open(os.devnull, os.O_WRONLY), out)
    return True


def shell_command(program: str, words: Iterable[str], folder: str | Path | None = None) -> str:
    """A command that runs when it is typed: by the Python that runs this program, in the way in which it was started.

    Args:
        program: one of this project's, as "sweeps/search.py"; or a module, as "-m mollify_core.train"; or a tool that
            is installed beside Python, as "tensorboard".
        words: its arguments.
        folder: where it is typed; None is the current folder.
    """
    here, ours = Path(folder or os.getcwd()).resolve(), Path(sys.executable)
    if (called := as_called(program)) != program:
        program, *first = called.split()
        words = [*first, *words]
    script, module = program.endswith(".py"), program.startswith("-m ")
    run = ours if script or module else ours.with_name(program)
    uv = "UV_RUN_RECURSION_DEPTH" in os.environ  # started by `uv run`
    if uv and here.is_relative_to(_PROJECT):
        start = ["uv", "run", run.name]
    else:
        known = None if uv else shutil.which(run.name)  # uv puts its folder on the path: the shell does not have it
        found = known is not None and Path(known).parent.resolve() == ours.parent.resolve()
        start = [run.name if found or not run.is_file() else str(run)]
    if script:
        start.append(program if here == _PROJECT else str(_PROJECT / program))
    if module and here != _PROJECT:
        start.append("-P")  # else Python takes packages of our names, or of PyTorch's, from the folder first
    return shlex.join([*start, *(program.split() if module else ()), *words])
