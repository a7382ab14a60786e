"""`python sweeps/search.py --dataset cifar100`: search the mollification schedule of an image classifier.

The story of a sweep: prepare the data, settle what is searched, print the plan, run Tune with a live view, report.
The study is the truth: killed at any moment, the same command goes on.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

if __name__ == "__main__":  # run as a script: make the packages importable, and sweeps/ itself not
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from sweeps import program
from sweeps.arguments import parser


def main(argv: list[str] | None = None) -> int:
    """Runs a sweep; returns the exit code: 0 done, 1 the sweep failed, 2 bad input, 130 stopped by the user."""
    return program.main(parser(), _run, argv)


def _run(args: argparse.Namespace) -> int:
    from sweeps.driver import run  # slow to import: --help answers at once

    return run(args)


if __name__ == "__main__":
    sys.exit(main())
