"""Prepare a data set from the command line: ``python -m mollify_core.datasets prepare cifar100``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from mollify_core.datasets.load import Prepared
from mollify_core.datasets.prepare import prepare
from mollify_core.datasets.specs import DATASETS
from mollify_core.errors import MollifyError


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns the exit code: 0, 2 after an error of the user's, 130 when interrupted."""
    parser = argparse.ArgumentParser(prog="python -m mollify_core.datasets", description="Data sets.")
    command = parser.add_subparsers(dest="command", required=True).add_parser(
        "prepare", help="fetch a data set, check it, and write it to the cache"
    )
    command.add_argument("name", metavar="NAME", help=", ".join(DATASETS))
    command.add_argument("--data-dir", metavar="DIR", help="read the official files or archive here, download nothing")
    command.add_argument("--cache-dir", metavar="DIR", help="default: $MOLLIFY_CACHE, else ~/.cache/mollify")
    command.add_argument("--mirror", metavar="URL", action="append", default=[], help="try this address first")
    command.add_argument("--allow-unverified", action="store_true", help="take files that are not the official ones")
    options = parser.parse_args(arguments)
    try:
        prepared = prepare(
            options.name,
            data_dir=options.data_dir,
            cache_dir=options.cache_dir,
            mirrors=options.mirror,
            allow_unverified=options.allow_unverified,
        )
    except MollifyError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted; the same command continues", file=sys.stderr)
        return 130
    print(_summary(prepared))
    return 0


def _summary(prepared: Prepared) -> str:
    manifest = prepared.manifest
    shape = "x".join(str(side) for side in prepared.spec.image_shape)
    return "\n".join(
        (
            f"{prepared.spec.name} ({'verified' if prepared.verified else 'unverified'})",
            f"  images       {manifest['counts']['train']} train, {manifest['counts']['test']} test, {shape}",
            f"  classes      {prepared.spec.classes}",
            f"  source       {manifest['source']}",
            f"  folder       {prepared.folder}",
            f"  fingerprint  {prepared.fingerprint}",
        )
    )


if __name__ == "__main__":
    sys.exit(main())
