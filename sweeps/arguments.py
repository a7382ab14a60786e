"""The command line of `sweeps/search.py`. Light imports only, so that --help answers at once."""

from __future__ import annotations

import argparse
import textwrap

from mollify_core.errors import ConfigError
from sweeps.workers import Workers

_EPILOG = """
examples:
  python sweeps/search.py --dataset digits
      a complete small sweep: minutes on two CPU cores, nothing to download
  python sweeps/search.py --dataset cifar100 --trials 60 --epochs 30
      CIFAR-100 on every GPU of this machine; downloads the official archive once
  python sweeps/search.py --dataset ./photos --image-size 64
      images of your own: a folder with one folder per class (or train and test folders with these)
  python sweeps/search.py --dataset cifar10 --objective corrupted_nll,clean_error
      two objectives: a Pareto front (nothing is pruned then)
  python sweeps/search.py --dataset cifar10 --space space.yaml --storage s3://bucket/sweeps
      a space of your own, checkpoints in object storage

The same command again continues a sweep that was stopped or killed; --trials may have grown.
Trial 0 is always the paper's default schedule and trial 1 plain training, so every sweep says whether it was worth it.
Only training images are used: part of them is held out for validation, the test set is never read.
"""


class Parser(argparse.ArgumentParser):
    """argparse with our manner of saying what is wrong: one sentence, exit code 2."""

    def error(self, message: str) -> None:  # type: ignore[override]
        raise ConfigError(f"{message} (see --help)")


def data_options(g: argparse._ActionsContainer) -> None:
    """Adds the options that say where a data set comes from, the same for every program."""
    g.add_argument("--data-dir", metavar="DIR", help="take the official files from here instead of downloading them")
    g.add_argument(
        "--allow-unverified",
        action="store_true",
        help="take files whose checksum is not the official one; every output says so",
    )
    g.add_argument("--mirror", action="append", default=[], metavar="URL", help="try this address first (repeatable)")
    g.add_argument(
        "--cache-dir", metavar="DIR", help="where prepared data is kept (default: $MOLLIFY_CACHE or ~/.cache/mollify)"
    )


def running_options(p: argparse.ArgumentParser) -> argparse._ArgumentGroup:
    """Adds the options that say on what trials run and where their results are kept, the same for every program.

    Returns:
        The group about the latter, for more of them.
    """
    g = p.add_argument_group("resources")
    g.add_argument(
        "--workers-per-trial",
        type=Workers.parse,
        default=Workers(1, 1),
        metavar="N|MIN:MAX",
        help="data-parallel processes that share each batch; MIN:MAX takes as many as the cluster has, and goes on from "
        "the last checkpoint with more or fewer when machines come or go (default: 1)",
    )
    g.add_argument(
        "--cpus-per-worker", type=int, default=1, metavar="N", help="CPUs, and torch threads, of each (default: 1)"
    )
    g.add_argument(
        "--gpus-per-worker",
        type=float,
        metavar="X",
        help="fractions share a GPU (default: 1 where there are GPUs, else 0)",
    )
    g.add_argument(
        "--pack",
        default="off",
        choices=("auto", "off"),
        help="auto: measure here, in half a minute, how many trials train the most images together on a GPU or on "
        "these cores, within its memory (default: off)",
    )
    g.add_argument("--max-concurrent", type=int, metavar="N", help="run no more than N trials at once")
    g.add_argument(
        "--address",
        metavar="ADDR",
        help="run on this Ray cluster: `auto` for the one on this machine, or ray://HOST:10001; see also --submit",
    )
    g.add_argument(
        "--submit",
        nargs="?",
        const="mollify",
        metavar="DIR",
        help="hand this command to a cluster as a Ray job, print its id and follow its log; it goes on without this "
        "terminal. The cluster is --address http://…, else $RAY_ADDRESS, else http://127.0.0.1:8265, where `ray "
        "dashboard cluster.yaml` brings it; there the project is in DIR (default: mollify, in the home folder)",
    )
    g.add_argument(
        "--max-failures",
        type=int,
        default=5,
        metavar="N",
        help="end the sweep after N trials failed by a bug (default: 5)",
    )

    g = p.add_argument_group("where it is kept and shown")
    g.add_argument("--storage", default="runs", metavar="URI", help="a folder or s3://bucket/prefix (default: runs)")
    g.add_argument("--study-url", metavar="URL", help="any Optuna storage URL (default: SQLite beside the results)")
    g.add_argument(
        "--wandb",
        default="offline",
        choices=("online", "offline", "off"),
        help="Weights & Biases: send runs as they go, keep them here for `wandb sync`, or neither (default: offline)",
    )
    g.add_argument("--wandb-project", default="mollify", metavar="NAME", help="(default: mollify)")
    g.add_argument(
        "--dashboard",
        type=int,
        nargs="?",
        const=0,
        metavar="PORT",
        help="serve Optuna's dashboard while the sweep runs, on 127.0.0.1 and PORT (default: a free one), and Ray's where "
        "Ray is started here (ten small processes more); both ask for a token",
    )
    g.add_argument("--dry-run", action="store_true", help="print the plan and stop")
    return g


def parser() -> argparse.ArgumentParser:
    """The parser; every option says what it does and its default."""
    p = Parser(
        prog="sweeps/search.py",
        description="Search the mollification schedule of an image classifier: Ray Tune runs the trials, each a Ray "
        "Train TorchTrainer on Ray Data shards; Optuna proposes them.",
        epilog=textwrap.dedent(_EPILOG),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    g = p.add_argument_group("data")
    g.add_argument(
        "--dataset",
        required=True,
        metavar="NAME",
        help="digits, cifar10, cifar100 or tin (TinyImageNet); or the path of a folder with one folder of images per class",
    )
    g.add_argument("--image-size", type=int, metavar="N", help="scale the images of such a folder to N x N pixels")
    data_options(g)

    g = p.add_argument_group("what each trial trains")
    g.add_argument("--network", metavar="NAME", help="see `python -m mollify_core.networks` (default: by data set)")
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
        "--trials", type=int, metavar="N", help="trials in all, the two references included (default: by data set)"
    )
    g.add_argument(
        "--objective",
        default="corrupted_nll",
        metavar="NAME[,NAME]",
        help="what is minimised on validation: corrupted_ or clean_ with nll, error or ece (default: corrupted_nll)",
    )
    g.add_argument(
        "--space", metavar="FILE", help="YAML: which settings are searched, in which ranges (default: built in)"
    )
    g.add_argument(
        "--sampler", default="tpe", metavar="NAME", help="tpe, random, gp, cmaes, nsga2 or grid (default: tpe)"
    )
    g.add_argument(
        "--grid-points", type=int, default=3, metavar="N", help="values of each range in a grid (default: 3)"
    )
    g.add_argument(
        "--pruner",
        default="hyperband",
        metavar="NAME",
        help="hyperband, none, median or percentile (default: hyperband)",
    )
    g.add_argument(
        "--confirm",
        type=int,
        metavar="K",
        help="then train the K best recipes and the two references with further seeds, and say what they can tell",
    )
    g.add_argument("--seeds", type=int, default=3, metavar="S", help="seeds of each recipe to confirm (default: 3)")

    g = running_options(p)
    g.add_argument("--name", metavar="NAME", help="of the sweep (default: made of its settings)")

    g = p.add_argument_group("from a laptop to a cluster")
    p.set_defaults(program="sweeps/search.py")
    return p
