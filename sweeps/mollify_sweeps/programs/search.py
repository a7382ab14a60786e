"""`python sweeps/search.py --dataset cifar100`: search the mollification schedule of an image classifier.

The story of a sweep: prepare the data, settle what is searched, print the plan, run Tune with a live view, report.
The study is the truth: killed at any moment, the same command goes on.
"""

from __future__ import annotations

import argparse
import math
from typing import TYPE_CHECKING

from mollify_core.datasets.options import add_background, add_data_options
from mollify_core.errors import ConfigError
from mollify_core.program import Parser
from mollify_sweeps.cli import options, program

if TYPE_CHECKING:
    from mollify_sweeps.plan.options import Search

_EPILOG = """
examples:
  python sweeps/search.py --dataset digits
      a complete small sweep: minutes on two CPU cores, nothing to download
  python sweeps/search.py --dataset digits --methods plain,mollification,matching --confirm --seeds 5
      three methods, and what each of them does by itself, told with five further seeds
  python sweeps/search.py --dataset cifar100 --trials 60 --epochs 30
      CIFAR-100 on every GPU of this machine; downloads the official archive once
  python sweeps/search.py --dataset ./photos --image-size 64
      images of your own: a folder with one folder per class (or train, val and test folders with these)
  python sweeps/search.py --dataset ./photos --image-size 224 --network timm/resnet18 --weights default
      fine-tuning of published weights; with --set frozen_epochs=1 the last layer learns alone at first
  python sweeps/search.py --dataset cifar10 --network ./net.py:my_network --network-kwargs width=32
      a network of your own: a function of the number of classes
  python sweeps/search.py --dataset cifar10 --objective corrupted_nll,clean_error
      two objectives: a Pareto front (nothing is pruned then)
  python sweeps/search.py --dataset cifar10 --space space.yaml --storage s3://bucket/sweeps
      a space of your own, checkpoints in object storage

The same command again continues a sweep that was stopped or killed; --trials may have grown.
Plain training is searched like every other method, so that what is compared was tuned alike.
Only training images are used: part of them is held out for validation, the test set is never read.
"""


def parser() -> Parser:
    """The parser; every option says what it does and its default."""
    p = Parser(
        prog="sweeps/search.py",
        description="Find out whether degrading images and softening labels makes an image classifier better, and how "
        "best: each method is searched alike. Ray Tune runs the trials, each a Ray Train TorchTrainer on Ray Data "
        "shards; Optuna proposes them.",
        epilog=_EPILOG,
    )
    g = p.add_argument_group("data")
    g.add_argument(
        "--dataset",
        required=True,
        metavar="NAME",
        help="digits, cifar10, cifar100 or tin (TinyImageNet); torchvision/NAME, as torchvision/Flowers102; or the "
        "path of a folder: one folder of images per class, a Hugging Face dataset saved to disk, Parquet files "
        "(train-….parquet, test-….parquet; columns image and label), or a WebDataset (.tar of KEY.jpg and KEY.cls)",
    )
    g.add_argument(
        "--image-size", type=int, metavar="N", help="scale the images of torchvision's or such a folder to N x N pixels"
    )
    add_background(g)
    add_data_options(g)

    g = p.add_argument_group("what each trial trains")
    options.network_options(g)
    g.add_argument(
        "--epochs", type=int, metavar="N", help="epochs of a trial that is not pruned (default: by data set)"
    )
    g.add_argument(
        "--batch-size", type=int, metavar="N", help="images per step, over all workers (default: by data set)"
    )
    g.add_argument(
        "--train-fraction", type=float, metavar="F", help="use this share of the images, stratified (default: 1)"
    )
    g.add_argument("--seed", type=int, metavar="N", help="seed of everything (default: the recipe's, 0)")
    g.add_argument("--preset", metavar="NAME", help="start from a paper's set-up, see `python -m mollify_core.presets`")
    g.add_argument("--recipe", metavar="FILE", help="start from this recipe (.json or .yaml) instead of the defaults")
    g.add_argument(
        "--set", action="append", default=[], metavar="NAME=VALUE", help="any other setting of the recipe (repeatable)"
    )

    g = p.add_argument_group("search")
    g.add_argument(
        "--methods",
        metavar="NAME,NAME",
        help="what is held against each other, each searched alike in its own study: plain, mollification, noise, "
        "blur, smoothing, matching, soft-crop, soft-erasing, soft-noise, soft-trivialaugment, and as rivals "
        "trivialaugment, augmix, mixup (default: plain and what the recipe says, else mollification)",
    )
    g.add_argument("--trials", type=int, metavar="N", help="trials in all; methods take turns (default: by data set)")
    g.add_argument(
        "--budget",
        metavar="TIME",
        help="wall time, as 90m, 12h or 2d, instead of --trials or beside it: methods get equal training time, and no "
        "trial is begun that cannot end",
    )
    g.add_argument(
        "--share", metavar="NAME=W,…", help="weights of methods in the trials: plain=1,mollification=2 (default: equal)"
    )
    g.add_argument(
        "--objective",
        default="corrupted_nll",
        metavar="NAME[,NAME]",
        help="what is minimised on validation: corrupted_ or clean_ with nll, error, balanced_error (every class "
        "weighs the same) or debiased_ece (default: corrupted_nll)",
    )
    g.add_argument(
        "--space", metavar="FILE", help="YAML: which settings are searched, in which ranges (default: built in)"
    )
    g.add_argument(
        "--from",
        dest="earlier",
        metavar="SWEEP",
        help="try the best recipes of another sweep first, each method its own: over other ranges, of fewer epochs, of "
        "another network or data set (a folder, or s3://…)",
    )
    g.add_argument(
        "--sampler", default="tpe", metavar="NAME", help="tpe, random, gp, cmaes, nsga2 or grid (default: tpe)"
    )
    g.add_argument(
        "--grid-points", type=int, default=3, metavar="N", help="values of each range in a grid (default: 3)"
    )
    g.add_argument(
        "--pruner",
        metavar="NAME",
        help="halving (successive, one bracket a method), hyperband, none, median or percentile (default: halving)",
    )
    g.add_argument(
        "--confirm",
        type=int,
        nargs="?",
        const=0,
        metavar="K",
        help="then tell what each method itself does: train the best recipes with and without it, under the other "
        "settings of either, with further seeds; beside these the K best recipes of each method (default of K: 0)",
    )
    g.add_argument(
        "--seeds", type=int, metavar="S", help="seeds of each recipe to confirm (default: what the plan proposes, 5)"
    )
    g.add_argument(
        "--parts",
        action="store_true",
        help="confirm also what degraded images alone, soft labels alone, both uncoupled, and both coupled do",
    )
    g.add_argument(
        "--matters",
        type=float,
        default=0.01,
        metavar="F",
        help="smallest difference that matters, as a share of plain training's value (default: 0.01)",
    )

    g = options.running_options(p)
    g.add_argument("--name", metavar="NAME", help="of the sweep (default: made of its settings)")

    p.set_defaults(program="sweeps/search.py")
    return p


def names(text: str) -> tuple[str, ...]:
    """The names in a list like "a,b"."""
    return tuple(name.strip() for name in text.split(",") if name.strip())


def shares(text: str | None) -> dict[str, float]:
    """The weights in a list like "a=1,b=2"; raises a ConfigError when it is none."""
    found = {}
    for item in names(text or ""):
        name, _, weight = item.partition("=")
        try:
            found[name] = float(weight)
        except ValueError:
            found[name] = math.nan
        if not 0 < found[name] < math.inf:
            raise ConfigError(f"Expected --share to be NAME=WEIGHT with positive weights, but got {item!r}")
    return found


def main(argv: list[str] | None = None) -> int:
    """Runs a sweep; returns the exit code: 0 done, 1 the sweep failed, 2 bad input, 130 stopped by the user."""
    return program.main(parser(), _run, argv)


def _run(args: argparse.Namespace) -> int:
    from mollify_sweeps.driver.search import search  # slow to import: --help answers at once

    return search(options_of(args))


def options_of(args: argparse.Namespace) -> Search:
    """What the arguments say; raises a ConfigError when one of them says nothing."""
    from mollify_sweeps.plan.options import Confirm, Search
    from mollify_sweeps.study import budget

    return Search(
        running=options.running(args),
        dataset=args.dataset,
        training=options.training(args),
        seed=args.seed,
        preset=args.preset,
        recipe=args.recipe,
        methods=names(args.methods) if args.methods else None,
        shares=shares(args.share),
        trials=args.trials,
        budget=budget.parse(args.budget) if args.budget else None,
        objectives=names(args.objective),
        space=args.space,
        earlier=args.earlier,
        sampler=args.sampler,
        pruner=args.pruner,
        grid_points=args.grid_points,
        confirm=Confirm(args.confirm, args.seeds, args.parts, args.matters),
        name=args.name,
    )
