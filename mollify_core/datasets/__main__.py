"""Prepare a data set from the command line: ``python -m mollify_core.datasets prepare cifar100``."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from mollify_core.datasets.about import described
from mollify_core.datasets.load import Prepared
from mollify_core.datasets.options import DataOptions, add_background, add_data_options, data_options
from mollify_core.datasets.specs import CORRUPTED, DATASETS
from mollify_core.errors import ConfigError
from mollify_core.foreign import clean
from mollify_core.program import Parser, guarded

if TYPE_CHECKING:
    from mollify_core.datasets.corrupted_official import PreparedCorrupted

_CORRUPTED = {spec.name: dataset for dataset, spec in CORRUPTED.items()}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns the exit code: 0, 2 after an error of the user's, 130 when interrupted."""
    return guarded(lambda: _run(argv), stopped="interrupted; the same command continues")


def parser() -> Parser:
    """The parser of `prepare`; every option says what it does and its default."""
    p = Parser(
        prog="python -m mollify_core.datasets prepare",
        description="Fetch a data set, check it, and write it to the cache.",
    )
    p.add_argument(
        "name",
        metavar="NAME",
        help=f"{', '.join(DATASETS)}; their published corruptions {', '.join(_CORRUPTED)}; "
        "torchvision/NAME; or the path of a folder with one folder of images per class, a Hugging Face dataset saved "
        "to disk, Parquet files or a WebDataset",
    )
    p.add_argument("--image-size", type=int, metavar="N", help="of torchvision's or a folder: scale images to N pixels")
    add_background(p)
    add_data_options(p)
    return p


def _run(argv: Sequence[str] | None) -> int:
    root = Parser(prog="python -m mollify_core.datasets", description="Data sets.")
    root.add_subparsers(dest="command", required=True).add_parser(
        "prepare", help="fetch a data set, check it, and write it to the cache", parents=[parser()], add_help=False
    )
    args = root.parse_args(argv)
    data = data_options(args)
    if args.name not in _CORRUPTED:
        print(_dataset(data.prepare(args.name, args.image_size, args.background)))
    elif args.image_size is not None:
        raise ConfigError(f"Expected no image size for {args.name}, but got {args.image_size}")
    else:
        print(_corrupted(args.name, data))
    return 0


def _dataset(prepared: Prepared) -> str:
    manifest, spec = prepared.manifest, prepared.spec
    state = "verified" if prepared.official else "your own" if prepared.verified else "unverified"
    lines = {
        "images": f"{manifest['counts']['train']} train, {manifest['counts']['test']} test, {_size(spec.image_shape)}",
        **described(prepared),
        "mean": ", ".join(f"{value:.3f}" for value in spec.mean),
        "std": ", ".join(f"{value:.3f}" for value in spec.std),
        "source": manifest["source"],
        "folder": prepared.folder,
        "fingerprint": prepared.fingerprint,
    }
    return _summary(f"{spec.name} ({state})", lines)


def _corrupted(name: str, data: DataOptions) -> str:
    from mollify_core.datasets.corrupted_official import prepare_corrupted

    prepared: PreparedCorrupted = prepare_corrupted(
        _CORRUPTED[name],
        data_dir=data.data_dir,
        cache_dir=data.cache_dir,
        mirrors=data.mirrors,
        allow_unverified=data.allow_unverified,
    )
    manifest, spec = prepared.manifest, CORRUPTED[_CORRUPTED[name]]
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
    return "\n".join((title, *(f"  {name:12} {clean(value)}" for name, value in lines.items())))


if __name__ == "__main__":
    sys.exit(main())
