"""Options that several programs have. Light imports only, so that --help answers at once."""

from __future__ import annotations

import argparse

from mollify_core.datasets.options import data_options
from mollify_core.program import Parser
from mollify_sweeps.cli.surroundings import following
from mollify_sweeps.cluster.workers import Workers
from mollify_sweeps.plan.options import Command, Keeping, RecipeOptions, Resources, Running


def running_options(p: Parser) -> argparse._ArgumentGroup:
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
        help="data-parallel processes that share each batch; MIN:MAX takes as many as the cluster has, and goes on "
        "from the last checkpoint with more or fewer when machines come or go (default: 1)",
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
        help="run on this Ray cluster: `auto` for the one on this machine, or ray://HOST:10001; see also --submit "
        "(default: $RAY_ADDRESS, else Ray is started here)",
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
        help="end the sweep, with exit code 1, after N trials failed by a bug, by their device, or by settings that "
        "cannot be trained (default: 5)",
    )

    g = p.add_argument_group("where it is kept and shown")
    g.add_argument("--storage", default="runs", metavar="URI", help="a folder or s3://bucket/prefix (default: runs)")
    g.add_argument("--study-url", metavar="URL", help="any Optuna storage URL (default: SQLite beside the results)")
    g.add_argument(
        "--wandb",
        choices=("online", "offline", "off"),
        help="Weights & Biases: send runs as they go, keep them here for `wandb sync`, or neither "
        "(default: $WANDB_MODE, else offline)",
    )
    g.add_argument("--wandb-project", metavar="NAME", help="(default: $WANDB_PROJECT, else mollify)")
    g.add_argument(
        "--dashboard",
        type=int,
        nargs="?",
        const=0,
        metavar="PORT",
        help="serve Optuna's dashboard while the sweep runs, on 127.0.0.1 and PORT (default: a free one), and Ray's "
        "where Ray is started here (ten small processes more); both ask for a token",
    )
    g.add_argument("--dry-run", action="store_true", help="print the plan and stop")
    return g


def running(args: argparse.Namespace) -> Running:
    """What those options, and those about the data, say; and the environment, where they say nothing."""
    follow = following(args)
    return Running(
        command=Command(args.program, args.words, args.environment),
        data=data_options(args),
        resources=Resources(
            workers=args.workers_per_trial,
            cpus=args.cpus_per_worker,
            gpus=args.gpus_per_worker,
            pack=args.pack == "auto",
            at_most=args.max_concurrent,
            address=args.address,
        ),
        keeping=Keeping(args.storage, args.study_url),
        following=follow,
        max_failures=args.max_failures,
        dry_run=args.dry_run,
    )


def training(args: argparse.Namespace) -> RecipeOptions:
    """What the options about the recipe say."""
    return RecipeOptions(
        args.network,
        None if args.network_kwargs is None else tuple(args.network_kwargs),
        args.weights,
        args.epochs,
        args.batch_size,
        args.train_fraction,
        args.image_size,
        tuple(args.set),
        args.background,
    )


def network_options(g: argparse._ActionsContainer) -> None:
    """Adds the options that say which network is trained."""
    g.add_argument(
        "--network",
        metavar="NAME",
        help="see `python -m mollify_core.networks`; or torchvision/NAME, timm/NAME; or your own, FILE.py:FACTORY or "
        "MODULE:FACTORY, a callable that takes the number of classes and returns a torch.nn.Module (default: by data "
        "set)",
    )
    g.add_argument(
        "--network-kwargs", nargs="+", metavar="NAME=VALUE", help="further arguments of a library's network or your own"
    )
    g.add_argument(
        "--weights",
        metavar="FILE",
        help="start from these weights (safetensors, or a state dict of torch.save), or from `default`, those that the "
        "library has published; a last layer of another size stays new (default: none)",
    )


def measured_options(g: argparse._ActionsContainer) -> None:
    """Adds the options that say on which images models are measured."""
    g.add_argument("--images", type=int, metavar="N", help="use about N test images, stratified (default: all)")
    g.add_argument(
        "--corruptions",
        default="auto",
        metavar="SOURCE",
        help="official (the published arrays), made (made here from the test images), none, or auto: official when "
        "they are on this machine, else made (default: auto)",
    )
    g.add_argument(
        "--corruption-dir",
        metavar="DIR",
        help="the official arrays or archive (CIFAR-10-C …) are here: download nothing",
    )
    g.add_argument("--frost-dir", metavar="DIR", help="photographs for the corruption `frost`, when made here")
