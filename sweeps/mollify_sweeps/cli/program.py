"""What the programs that run sweeps have in common: environment, signals, submission, errors as one sentence."""

from __future__ import annotations

import argparse
import hashlib
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType

from mollify_core.errors import ConfigError, SweepError
from mollify_core.hiding import hidden
from mollify_core.program import Parser, guarded
from mollify_sweeps.cli.surroundings import take_address
from mollify_sweeps.cluster import environment
from mollify_sweeps.cluster.jobs import Job, submit

BROKE = (SweepError,)  # what no other input would have spared the user
_SENT = ("space", "recipe", "network", "weights", "groups")  # options that name a file, which goes along with a job
_THERE = ("data_dir", "cache_dir", "storage", "earlier")  # options that name a place, which the cluster must have
_NAMED = ("dataset", "data")  # names of data sets, or folders of images


def main(parser: Parser, run: Callable[[argparse.Namespace], int], argv: list[str] | None) -> int:
    """Parses the command line of a program that runs sweeps, and runs it, here or as a job.

    Args:
        parser: of the program; it sets `program`.
        run: does what the arguments say; they hold `words`, what was typed.
        argv: the arguments; None takes the process's own.

    Returns:
        The exit code: 0 done, 1 it failed, 2 bad input, 130 stopped by the user.
    """
    environment.set_defaults()  # before Ray is imported
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported; trials set their own number

    def act() -> int:
        words = tuple(sys.argv[1:] if argv is None else argv)
        args = parser.parse_args(words, argparse.Namespace(words=words, environment=()))
        take_address(args)
        signal.signal(signal.SIGTERM, interrupt)  # the batch systems' Ctrl-C
        if args.submit is not None:
            return submit(job(args))
        if (args.address or "").startswith("ray://") and not args.study_url:
            raise ConfigError(
                "Expected --study-url with --address ray://…, since the study is then kept by the cluster; or give the "
                "whole command to the cluster with --submit"
            )
        from mollify_sweeps.study.database import study_errors  # Optuna is slow to import

        with study_errors():
            return run(args)

    return guarded(act, broke=BROKE, stopped="stopped; the same command starts or continues it, nothing is lost")


def interrupt(signum: int, frame: FrameType | None) -> None:
    """A handler of signals that ends this process as Ctrl-C does."""
    raise KeyboardInterrupt


def job(args: argparse.Namespace) -> Job:
    """The job that a command line with --submit means: its words as the cluster runs them, and the files it needs.

    Raises:
        ConfigError: a word holds a password, or names a place that only this machine can mean, or a file that cannot
            be read.
    """
    if any(hidden(word) != word for word in args.words):
        raise ConfigError(
            "Expected no password in a command with --submit, but got one, which the cluster would show with its jobs; "
            "keep it on the head, for PostgreSQL in ~/.pgpass"
        )
    places = [(option, getattr(args, option, None)) for option in _THERE]
    for option in _NAMED:
        names = (getattr(args, option, None) or "").split(",")
        places += [(option, name) for name in names if "/" in name and not name.startswith("torchvision/")]
    for option, value in places:
        _check_there(option, value)
    own = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    own.add_argument("--submit", nargs="?")
    sent = {option: _file(option, getattr(args, option, None)) for option in _SENT}
    for option in ("--address", *(f"--{option}" for option, (path, _) in sent.items() if path)):
        own.add_argument(option)
    words = own.parse_known_args(args.words)[1]
    files = {}
    for option, (path, rest) in sent.items():
        if path is None:
            continue
        try:
            digest = hashlib.sha256(Path(path).read_bytes()).hexdigest()[:12]
        except OSError as error:
            raise ConfigError(f"Cannot read --{option} {path!r}: {error.strerror}") from None
        name = f"{option}-{digest}{Path(path).suffix}"
        files[name] = Path(path)
        words += [f"--{option}", f"runs/{name}{rest}"]
    return Job(
        name=getattr(args, "name", None) or Path(args.program).stem,
        program=args.program,
        words=(*words, "--address", "auto"),
        files=files,
        folder=args.submit,
        address=args.address,
    )


def _file(option: str, value: str | None) -> tuple[str | None, str]:
    """(the file that an option names, what follows it in its word); of another value (None, "")."""
    if option == "network":
        path, colon, factory = (value or "").rpartition(":")
        return (path, colon + factory) if path.endswith(".py") else (None, "")
    return (None, "") if option == "weights" and value in ("none", "default") else (value, "")


def _check_there(option: str, value: str | None) -> None:
    if value is None or "://" in value or Path(value).is_absolute():
        return
    flag = "--from" if option == "earlier" else f"--{option.replace('_', '-')}"
    what = "a path from / that all machines of the cluster have" + (
        " or s3://…" if option in ("storage", "earlier") else ""
    )
    raise ConfigError(f"Expected {flag} with --submit to be {what}, but got {value!r}, which is on this one")
