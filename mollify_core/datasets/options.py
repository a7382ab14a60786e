"""Where a data set comes from, as every program is told it."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mollify_core.datasets.specs import FEEDS, DatasetSpec, ImageFolder
from mollify_core.foreign import expanded

if TYPE_CHECKING:
    from mollify_core.datasets.load import Prepared


@dataclass(frozen=True)
class DataOptions:
    """Where a data set comes from; see `preparation.prepare` for what each means.

    Attributes:
        data_dir: the official files, or the folder of images, are here.
        cache_dir: where prepared data is kept.
        mirrors: addresses to try first.
        allow_unverified: take files that are not the official ones.
        skip_bad: leave out images of a folder that cannot be read, rather than stop there.
        feed: how images get to a training, see `specs.FEEDS`.
        groups: a file that says which images of a folder belong together.
    """

    data_dir: str | None = None
    cache_dir: str | None = None
    mirrors: tuple[str, ...] = ()
    allow_unverified: bool = False
    skip_bad: bool = False
    feed: str = "auto"
    groups: str | None = None

    def spec(self, name: str, image_size: int | None = None, background: str | None = None) -> DatasetSpec:
        """The data set called `name`; raises as `lookup.spec` does."""
        from mollify_core.datasets.lookup import spec

        return spec(
            name,
            data_dir=self.data_dir,
            image_size=image_size,
            background=background,
            skip_bad=self.skip_bad,
            feed=self.feed,
            groups=self.groups,
            cache_dir=self.cache_dir,
        )

    def prepare(
        self, dataset: str | DatasetSpec, image_size: int | None = None, background: str | None = None
    ) -> Prepared:
        """The data set, ready to be read; raises as `preparation.prepare` does."""
        from mollify_core.datasets.preparation import prepare

        return prepare(
            self.spec(dataset, image_size, background) if isinstance(dataset, str) else dataset,
            data_dir=self.data_dir,
            cache_dir=self.cache_dir,
            mirrors=self.mirrors,
            allow_unverified=self.allow_unverified,
        )

    def flags(self, dataset: DatasetSpec) -> list[str]:
        """The words that tell another program where this data set is."""
        source = dataset.source
        data_dir = str(source.path) if isinstance(source, ImageFolder) else self.data_dir
        flags: list[str] = []
        groups = None if self.groups is None else str(expanded(self.groups).resolve())
        for flag, value in (("--data-dir", data_dir), ("--cache-dir", self.cache_dir), ("--groups", groups)):
            flags += [flag, value] if value else []
        flags += ["--on-bad-image", "skip"] if self.skip_bad else []
        flags += ["--feed", self.feed] if self.feed != "auto" else []
        return flags + ["--allow-unverified"] * self.allow_unverified


def add_data_options(g: argparse._ActionsContainer) -> None:
    """Adds the options that say where a data set comes from, the same for every program."""
    g.add_argument(
        "--data-dir",
        metavar="DIR",
        help="take the official files, torchvision's, or the folder of images, from here instead of downloading them",
    )
    g.add_argument(
        "--allow-unverified",
        action="store_true",
        help="take files whose checksum is not the official one; every output says so",
    )
    g.add_argument(
        "--on-bad-image",
        choices=("stop", "skip"),
        default="stop",
        help="what becomes of a folder with images that cannot be read: skip leaves them out, and the plan counts them "
        "(default: stop)",
    )
    g.add_argument(
        "--feed",
        choices=FEEDS,
        default="auto",
        help="how images get to a training: resident holds all of them in memory, stream reads them again and again, "
        "in another order; auto streams a folder that would take more than a quarter of this machine's memory "
        "(default: auto)",
    )
    g.add_argument(
        "--groups",
        metavar="FILE",
        help="which images of a folder belong together, of one patient, burst or video: a CSV file with a header, or "
        "Parquet, with the columns image (its path within the folder) and group; no split divides a group, and in "
        "intervals it counts as one image",
    )
    g.add_argument("--mirror", action="append", default=[], metavar="URL", help="try this address first (repeatable)")
    g.add_argument(
        "--cache-dir", metavar="DIR", help="where prepared data is kept (default: $MOLLIFY_CACHE or ~/.cache/mollify)"
    )


def add_network_code(g: argparse._ActionsContainer) -> None:
    """Adds the option that lets a recipe's or checkpoint's network of one's own be run."""
    g.add_argument(
        "--network-code",
        metavar="FILE",
        help="a .py file, or an installed module: the code of a network of somebody's own that you have not yet run on "
        "this machine; it must be the very code of the recipe",
    )


def add_background(g: argparse._ActionsContainer) -> None:
    """Adds the option that says what shows where images of a folder are transparent; it is part of the recipe."""
    g.add_argument(
        "--background",
        metavar="COLOUR",
        help="what shows where the images of a folder are transparent: white, grey, black or #rrggbb (default: white)",
    )


def data_options(args: argparse.Namespace) -> DataOptions:
    """What those options say."""
    return DataOptions(
        args.data_dir,
        args.cache_dir,
        tuple(args.mirror),
        args.allow_unverified,
        args.on_bad_image == "skip",
        args.feed,
        args.groups,
    )
