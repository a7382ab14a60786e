"""What the programs that run sweeps have in common: environment, signals, submission, errors as one sentence."""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Callable
from types import FrameType

from mollify_core.errors import ConfigError, MollifyError
from sweeps import environment


def main(parser: argparse.ArgumentParser, run: Callable[[argparse.Namespace], int], argv: list[str] | None) -> int:
    """Parses a command line and runs it, here or as a job.

    Args:
        parser: of the program.
        run: does what the arguments say.
        argv: the arguments; None takes the process's own.

    Returns:
        The exit code: 0 done, 1 it failed, 2 bad input, 130 stopped by the user.
    """
    environment.set_defaults()  # before Ray is imported
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported; trials set their own number
    before = os.umask(0o077)  # what a sweep writes is its owner's only
    try:
        argv = sys.argv[1:] if argv is None else argv
        args = parser.parse_args(argv, argparse.Namespace(argv=argv))
        signal.signal(signal.SIGTERM, interrupt)  # the batch systems' Ctrl-C
        if args.submit is not None:
            from sweeps.submit import submit

            return submit(args)
        if (args.address or "").startswith("ray://") and not args.study_url:
            raise ConfigError(
                "Expected --study-url with --address ray://…, since the study is then kept by the cluster; or give the "
                "whole command to the cluster with --submit"
            )
        from sweeps.study_storage import study_errors

        with study_errors():
            return run(args)
    except MollifyError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1 if isinstance(error, RuntimeError) else 2
    except KeyboardInterrupt:
        print("stopped; the same command starts or continues it, nothing is lost", file=sys.stderr)
        return 130
    finally:
        os.umask(before)


def interrupt(signum: int, frame: FrameType | None) -> None:
    """A handler of signals that ends this process as Ctrl-C does."""
    raise KeyboardInterrupt
