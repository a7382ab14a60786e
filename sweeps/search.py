"""`python sweeps/search.py --dataset cifar100`: search the mollification schedule of an image classifier.

The story of a sweep: prepare the data, settle what is searched, print the plan, run Tune with a live view, report.
The study is the truth: killed at any moment, the same command goes on.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
from pathlib import Path
from types import FrameType

if __name__ == "__main__":  # run as a script: make the packages importable, and sweeps/ itself not
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from mollify_core.errors import ConfigError, MollifyError
from sweeps import environment
from sweeps.arguments import parser


def main(argv: list[str] | None = None) -> int:
    """Runs a sweep; returns the exit code: 0 done, 1 the sweep failed, 2 bad input, 130 stopped by the user."""
    environment.set_defaults()  # before Ray is imported
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported; trials set their own number
    before = os.umask(0o077)  # what a sweep writes is its owner's only
    try:
        argv = sys.argv[1:] if argv is None else argv
        args = parser().parse_args(argv, argparse.Namespace(argv=argv))
        signal.signal(signal.SIGTERM, interrupt)  # the batch systems' Ctrl-C
        if args.submit is not None:
            from sweeps.submit import submit

            return submit(args)
        if (args.address or "").startswith("ray://") and not args.study_url:
            raise ConfigError(
                "Expected --study-url with --address ray://…, since the study is then kept by the cluster; or give the "
                "whole command to the cluster with --submit"
            )
        from sweeps.driver import run

        return run(args)
    except MollifyError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1 if isinstance(error, RuntimeError) else 2
    except KeyboardInterrupt:
        print("stopped; the same command starts or continues the sweep", file=sys.stderr)
        return 130
    finally:
        os.umask(before)


def interrupt(signum: int, frame: FrameType | None) -> None:
    """A handler of signals that ends this process as Ctrl-C does."""
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
