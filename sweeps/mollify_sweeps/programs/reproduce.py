"""`python sweeps/reproduce.py mollification|matching|soft`: the papers' experiments, one command each.

Every run is trained with several seeds on the same engine as a search (stopped or killed, the same command goes on),
then measured on the test set; tables show our figures with their intervals, and the published ones where known.
"""

from __future__ import annotations

import argparse

from mollify_core.datasets.options import add_background, add_data_options
from mollify_core.program import Parser
from mollify_sweeps.cli import options, program

_EPILOG = """
grids:
  mollification  Heinonen et al. 2025: 82 commands in six blocks (presnet50, 300 epochs)
                   1 without mollification, 8 augmentations   4 law of times Beta(1, b), b = 2, 4, 9
                   2 mollified, 8 augmentations               5 no label smoothing
                   3 noise or blur only                       6 label powers (CIFAR-100, TinyImageNet)
                 blocks 3 to 6 with flip, crop, rotation and TrivialAugment
  matching       Bonilla Salvador 2025: hard labels, fixed smoothing, information matching (im_resnet18, 100 epochs)
  soft           Siedel et al. 2025: crop, erasing, patch noise, TrivialAugment, each with hard labels, fixed smoothing
                 and labels that follow the augmentation's strength (wrn28_4, 300 epochs)

protocols:
  fair           a tenth of the training images held out; all runs alike in everything but the label; pooled ECE
  published      (nearly) all training images; each run as released, which differs in more than the label; the papers'
                 own biased ECE. Checkpoints are never chosen on the test set, as one of the papers did.
  The papers' learning rate is tuned for no run; with --protocol fair, --tune tries 0.1, 0.3, 1, 3 and 10 times it for
  every run, with one seed that is not measured, and measures each with its best by validation.

examples:
  python sweeps/reproduce.py mollification --plan
      what it would take here
  python sweeps/reproduce.py matching --tune --data cifar10
      each label with its best learning rate
  python sweeps/reproduce.py mollification --data cifar10 --blocks 1,2 --augmentations fcr,fcr+trivaug --seeds 5
  python sweeps/reproduce.py mollification --data digits --network resnet20 --epochs 4 --set lr=0.05 --batch-size 32
      small enough for two CPU cores, nothing to download
  python sweeps/reproduce.py matching --protocol published --data cifar100
  python sweeps/reproduce.py soft --data cifar10 --augmentations crop,erasing,trivialaugment --network resnet20

The same command continues; one with more blocks, augmentations or seeds adds them to what is there.
"""


def parser() -> Parser:
    """The parser; every option says what it does and its default."""
    p = Parser(
        prog="sweeps/reproduce.py",
        description="Train and measure the experiments of the papers, with seeds, intervals and tests.",
        epilog=_EPILOG,
    )
    p.add_argument("grid", choices=("mollification", "matching", "soft"), help="see below")
    g = p.add_argument_group("which runs")
    g.add_argument("--protocol", default="fair", metavar="NAME", help="fair or published, see below (default: fair)")
    g.add_argument("--tune", action="store_true", help="first tune the learning rate of every run alike (fair only)")
    g.add_argument(
        "--data",
        metavar="NAME,…",
        help="data sets (default: cifar10,cifar100,tin; of matching: cifar100), or paths of image folders",
    )
    g.add_argument("--blocks", default="1,2,3,4,5,6", metavar="N,…", help="of mollification (default: all)")
    g.add_argument(
        "--augmentations",
        metavar="NAME,…",
        help="of mollification: none, fcr, fcr+randaug, fcr+autoaug, fcr+augmix, fcr+trivaug, fcr+mixup, fcr+cutmix; "
        "of soft: crop, erasing, noise, trivialaugment (default: all)",
    )
    g.add_argument("--seeds", type=int, default=3, metavar="S", help="seeds of each run (default: 3)")
    g.add_argument("--seed", type=int, default=0, metavar="N", help="the first of them (default: 0)")

    g = p.add_argument_group("what each run trains (default: as the paper)")
    options.network_options(g)
    g.add_argument("--epochs", type=int, metavar="N")
    g.add_argument("--batch-size", type=int, metavar="N", help="images per step, over all workers (default: 128)")
    g.add_argument("--train-fraction", type=float, metavar="F", help="share of the training images, stratified")
    g.add_argument("--image-size", type=int, metavar="N", help="scale the images of a folder to N x N pixels")
    add_background(g)
    g.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="any other setting (repeatable)")

    g = p.add_argument_group("what is measured")
    options.measured_options(g)

    add_data_options(p.add_argument_group("data"))
    g = options.running_options(p)
    g.add_argument("--plan", dest="dry_run", action="store_true", help="the same as --dry-run")
    p.set_defaults(program="sweeps/reproduce.py")
    return p


def main(argv: list[str] | None = None) -> int:
    """Reproduces a grid; returns the exit code: 0 done, 1 it failed, 2 bad input, 130 stopped by the user."""
    return program.main(parser(), _run, argv)


def _run(args: argparse.Namespace) -> int:
    from mollify_sweeps.driver.reproduce import Reproduction, reproduce  # slow to import: --help answers at once
    from mollify_sweeps.evaluation.options import TestOptions

    return reproduce(
        Reproduction(
            running=options.running(args),
            grid=args.grid,
            protocol=args.protocol,
            tune=args.tune,
            datasets=tuple(name for name in (args.data or "").split(",") if name),
            blocks=args.blocks,
            augmentations=tuple(args.augmentations.split(",")) if args.augmentations else None,
            seeds=args.seeds,
            seed=args.seed,
            training=options.training(args),
            test=TestOptions(args.corruptions, args.corruption_dir, args.frost_dir, extra=False, images=args.images),
        )
    )
