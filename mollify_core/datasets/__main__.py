"""Prepare a data set from the command line: ``python -m mollify_core.datasets prepare cifar100``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from mollify_core.datasets.load import Prepared
from mollify_core.datasets.prepare import prepare
from mollify_core.datasets.specs import CORRUPTED, DATASETS
from mollify_core.errors import ConfigError, MollifyError

if TYPE_CHECKING:
    from mollify_core.datasets.corrupted import PreparedCorrupted

_CORRUPTED = {spec.name: dataset for dataset, spec in CORRUPTED.items()}


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns the exit code: 0, 2 after an error of the user's, 130 when interrupted."""
    parser = argparse.ArgumentParser(prog="python -m mollify_core.datasets", description="Data sets.")
    command = parser.add_subparsers(dest="command", required=True).add_parser(
        "prepare", help="fetch a data set, check it, and write it to the cache"
    )
    command.add_argument(
        "name",
        metavar="NAME",
        help=f"{', '.join(DATASETS)}; their published corruptions {', '.join(_CORRUPTED)}; or the path of a folder "
        "with one folder of images per class",
    )
    command.add_argument("--data-dir", metavar="DIR", help="read the official files or archive here, download nothing")
    command.add_argument("--image-size", type=int, metavar="N", help="of a folder of images: scale them to N pixels")
    command.add_argument("--cache-dir", metavar="DIR", help="default: $MOLLIFY_CACHE, else ~/.cache/mollify")
    command.add_argument("--mirror", metavar="URL", action="append", default=[], help="try this address first")
    command.add_argument("--allow-unverified", action="store_true", help="take files that are not the official ones")
    options = parser.parse_args(arguments)
    try:
        text = _corrupted(options) if options.name in _CORRUPTED else _dataset(options)
    except MollifyError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted; the same command continues", file=sys.stderr)
        return 130
    print(text)
    return 0


def _dataset(options: argparse.Namespace) -> str:
    prepared: Prepared = prepare(
        options.name,
        data_dir=options.data_dir,
        image_size=options.image_size,
        cache_dir=options.cache_dir,
        mirrors=options.mirror,
        allow_unverified=options.allow_unverified,
    )
    manifest, spec = prepared.manifest, prepared.spec
    state = "verified" if prepared.official else "your own" if prepared.verified else "unverified"
    lines = {
        "images": f"{manifest['counts']['train']} train, {manifest['counts']['test']} test, {_size(spec.image_shape)}",
        "classes": spec.classes,
        "mean": ", ".join(f"{value:.3f}" for value in spec.mean),
        "std": ", ".join(f"{value:.3f}" for value in spec.std),
        "source": manifest["source"],
        "folder": prepared.folder,
        "fingerprint": prepared.fingerprint,
    }
    return _summary(f"{spec.name} ({state})", lines)


def _corrupted(options: argparse.Namespace) -> str:
    from mollify_core.datasets.corrupted import prepare_corrupted

    if options.image_size is not None:
        raise ConfigError(f"Expected no image size for {options.name}, but got {options.image_size}")
    prepared: PreparedCorrupted = prepare_corrupted(
        _CORRUPTED[options.name],
        data_dir=options.data_dir,
        cache_dir=options.cache_dir,
        mirrors=options.mirror,
        allow_unverified=options.allow_unverified,
    )
    manifest, spec = prepared.manifest, CORRUPTED[_CORRUPTED[options.name]]
    lines = {
        "images": f"{manifest['n']} under {len(manifest['types'])} corruptions at 5 severities, "
        f"{_size(spec.image_shape)}",
        "source": manifest["source"],
        "folder": prepared.folder,
        "fingerprint": manifest["fingerprint"],
    }
    return _summary(f"{spec.name} ({'verified' if manifest['verified'] else 'unverified'})", lines)


def _size(shape: tuple[int, ...]) -> str:
    return "x".join(str(side) for side in shape)


def _summary(title: str, lines: dict[str, object]) -> str:
    return "\n".join((title, *(f"  {name:12} {value}" for name, value in lines.items())))


if __name__ == "__main__":
    sys.exit(main())
