"""`python sweeps/status.py [SWEEP | STORAGE]`: how sweeps are, while their drivers run and after these are gone."""

from __future__ import annotations

from mollify_core.errors import ConfigError
from mollify_core.foreign import expanded
from mollify_core.program import Parser, guarded, say
from mollify_sweeps.cli.program import BROKE
from mollify_sweeps.cluster import environment

_EPILOG = """
SWEEP is <storage>/<name>, or the name of a sweep in runs; STORAGE is a folder or s3://bucket/prefix.

examples:
  python sweeps/status.py                          all sweeps in runs
  python sweeps/status.py s3://bucket/sweeps       all sweeps in a bucket
  python sweeps/status.py digits-resnet20-1a2b3c   one sweep and its trials
  python sweeps/status.py runs/my-sweep --stop     as Ctrl-C at its driver: nothing is lost
  python sweeps/status.py runs/my-sweep --continue --run
  python sweeps/status.py runs/my-sweep --report now.html
"""


def parser() -> Parser:
    """The parser; every option says what it does and its default."""
    p = Parser(
        prog="sweeps/status.py",
        description="How sweeps are, while their drivers run and after these are gone; and stop, continue or show one.",
        epilog=_EPILOG,
    )
    p.add_argument("where", nargs="?", default="runs", metavar="SWEEP|STORAGE", help="see below (default: runs)")
    p.add_argument("--study-url", metavar="URL", help="of the sweep's study, when it is a database with a password")
    p.add_argument("--watch", type=float, nargs="?", const=5.0, metavar="SECONDS", help="look again every 5 s")
    p.add_argument("--json", action="store_true", help="print it for programs")
    g = p.add_mutually_exclusive_group()
    g.add_argument("--stop", action="store_true", help="stop the driver of this sweep, which is on this machine")
    g.add_argument(
        "--continue", dest="go_on", action="store_true", help="print the command that goes on with this sweep"
    )
    g.add_argument("--report", metavar="FILE", help="write this sweep's page as it is now, also while it runs")
    p.add_argument("--run", action="store_true", help="with --continue: run it")
    return p


def main(argv: list[str] | None = None) -> int:
    """Shows sweeps; returns the exit code: 0 done, 1 a driver has not stopped, 2 bad input."""
    return guarded(lambda: _run(argv), broke=BROKE, interrupted=0)


def _run(argv: list[str] | None) -> int:
    environment.set_defaults()
    args = parser().parse_args(argv)
    if args.run and not args.go_on:
        raise ConfigError("Expected --continue with --run, but got --run alone")
    if args.watch is not None and args.watch <= 0:
        raise ConfigError(f"Expected --watch to be a positive number of seconds, but got {args.watch:g}")
    from mollify_sweeps.inspection import status  # Optuna is slow to import: --help answers at once

    if args.report:
        from mollify_sweeps.driver.publishing import write_kept_page

        write_kept_page(status.only(args.where), expanded(args.report), args.study_url)
        say(f"page: {args.report}")
    elif args.stop:
        status.stop(args.where, args.study_url)
    elif args.go_on:
        status.go_on(args.where, args.study_url, run=args.run)
    else:
        status.show(args.where, args.study_url, watch=args.watch, as_json=args.json)
    return 0
