"""`python sweeps/check.py SWEEP`: proves that nothing of a sweep is lost, doubled or damaged, or says what is.

Two witnesses are held against each other: the study, and the folder of trials on storage. Nothing is written to
either, and a sweep may be checked while it runs.
"""

from __future__ import annotations

from mollify_core.program import Parser, guarded

_EPILOG = """
what is proved:
  - every trial ran exactly once to its end: one final state, its epochs' values without gap or double, in order
  - each trial's recipe is the base recipe with its parameters, and the same in the study, its folder and checkpoints
  - metrics.jsonl agrees with the study, and validation.npz too where all images that choose also judge
  - a pruned trial was told to stop by the stored answer of the pruner, and no other one was
  - no trial was cut off: each has ended, or was stopped with its driver, or a driver on this machine holds the sweep
  - every checkpoint is whole: the sha256 of each of its files
  - the snapshot in object storage of a study in SQLite opens and is not behind

examples:
  python sweeps/check.py runs/cifar100-presnet18-1a2b3c
  python sweeps/check.py s3://bucket/sweeps/first s3://bucket/sweeps/second
  python sweeps/check.py runs/first --study-url postgresql://user:password@host/studies

One line for each finding. A note, such as a damaged checkpoint that was set aside and replaced, is no finding.
Exit code: 0 sound, 1 findings, 2 bad input. A trial left running is continued by the command that started the sweep.
"""


def parser() -> Parser:
    """The parser; every option says what it does and its default."""
    p = Parser(
        prog="sweeps/check.py",
        description="Prove that nothing of a sweep is lost, doubled or damaged, or say what is.",
        epilog=_EPILOG,
    )
    p.add_argument("sweep", nargs="+", metavar="SWEEP", help="a sweep's folder, or its s3://bucket/prefix/name")
    p.add_argument("--study-url", metavar="URL", help="where the study lives, if not in SQLite beside the results")
    return p


def main(argv: list[str] | None = None) -> int:
    """Checks sweeps; returns the exit code: 0 sound, 1 findings, 2 bad input."""
    return guarded(lambda: _run(argv))


def _run(argv: list[str] | None) -> int:
    args = parser().parse_args(argv)
    from mollify_sweeps.inspection.check import check_all  # Optuna is slow to import: --help answers at once

    return check_all(args.sweep, args.study_url)
