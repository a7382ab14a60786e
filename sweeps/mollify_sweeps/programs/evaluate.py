"""`python sweeps/evaluate.py MODEL…`: how good, how robust and how calibrated trained models are, side by side.

This is the only program that reads the test set and the fifteen corruptions of the benchmark.
"""

from __future__ import annotations

import os

from mollify_core.datasets.options import add_data_options, add_network_code, data_options
from mollify_core.program import Parser, guarded
from mollify_sweeps.cli import options
from mollify_sweeps.cli.program import BROKE
from mollify_sweeps.cluster import environment

_EPILOG = """
a MODEL is a path or an s3:// URI, or LABEL=PATH, of
  a sweep                its best trial, the paper's schedule and plain training, side by side
  a trial, or what `python -m mollify_core.train` left: its newest checkpoint
  a checkpoint           the folder epoch-NNNN

examples:
  python sweeps/evaluate.py runs/digits-resnet20-1a2b3c
  python sweeps/evaluate.py mollified=runs/train-8f3e plain=runs/train-11aa --reference plain
  python sweeps/evaluate.py runs/cifar10-presnet18-77aa10 --corruptions official --corruption-dir CIFAR-10-C
  python sweeps/evaluate.py runs/train-8f3e --images 1000        a quick look at a tenth of CIFAR's test images

Every finished cell is kept: the same command again continues where it was cut off.
"""


def parser() -> Parser:
    """The parser; every option says what it does and its default."""
    p = Parser(
        prog="sweeps/evaluate.py",
        description="Measure trained models on the test set, clean, under 15 (+ 4) corruptions of 5 severities, and "
        "under the 4 distortions of information matching: error, calibration, robustness, as a table, a summary and "
        "plots.",
        epilog=_EPILOG,
    )
    p.add_argument("models", nargs="+", metavar="MODEL", help="see below")
    add_data_options(p)
    add_network_code(p)
    g = p.add_argument_group("what is measured")
    options.measured_options(g)
    g.add_argument("--no-extra", action="store_true", help="leave out the four corruptions that tuning may see")
    g.add_argument(
        "--levels",
        default="0,0.1,0.2,0.3,0.4,0.5,0.6,0.7,0.8,0.9,1",
        metavar="D,…",
        help="levels of the distortions, in [0, 1]; `none` leaves them out (default: 0, 0.1 … 1)",
    )
    g.add_argument(
        "--distortions",
        default="evaluation",
        metavar="NAME",
        help="constants of the distortions: evaluation (the paper's script) or training (default: evaluation)",
    )
    g.add_argument(
        "--published-distortions",
        action="store_true",
        help="distort normalised images, as the paper's script does by mistake; for comparison with its figures",
    )
    g.add_argument(
        "--ood",
        metavar="DATASET|FOLDER",
        help="also: how well models tell the test images from those of this data set, or of this folder and those "
        "below it, scaled to the models' size (at most 10,000): AUROC, and FPR at 95%% TPR, by softmax and by energy",
    )
    g.add_argument("--ood-dir", metavar="DIR", help="the official files of the data set of --ood are here")
    g.add_argument("--reference", metavar="LABEL", help="the model that mCE and differences refer to (default: plain)")
    g.add_argument("--seed", type=int, default=0, metavar="N", help="of the corruptions' and distortions' noise")

    g = p.add_argument_group("how")
    g.add_argument("--batch-size", type=int, default=500, metavar="N", help="images per forward pass (default: 500)")
    g.add_argument("--precision", metavar="NAME", help="float32 or bf16 (default: as each model was trained)")
    g.add_argument("--device", choices=("cpu", "cuda"), help="default: cuda where there is one")
    g.add_argument("--threads", type=int, metavar="N", help="CPU threads (default: all)")
    g.add_argument("--address", metavar="ADDR", help="spread the cells over this Ray cluster (`auto`: this machine's)")
    g.add_argument("--study-url", metavar="URL", help="of a sweep's study, when it is a database with a password")
    g.add_argument("--out", metavar="DIR", help="where the results go (default: runs/evaluate-<hash of the models>)")
    return p


def main(argv: list[str] | None = None) -> int:
    """Evaluates models; returns the exit code: 0 done, 1 it broke, 2 bad input, 130 stopped by the user."""
    environment.set_defaults()  # before Ray is imported
    stopped = "\nstopped; the same command continues, finished cells are kept"
    return guarded(lambda: _run(argv), broke=BROKE, stopped=stopped)


def _run(argv: list[str] | None) -> int:
    args = parser().parse_args(argv)
    if args.threads:
        os.environ["OMP_NUM_THREADS"] = str(args.threads)  # before torch is imported
    from mollify_core.networks import own  # slow to import: --help answers at once
    from mollify_sweeps.evaluation.evaluate import evaluate
    from mollify_sweeps.evaluation.options import Evaluation, Place, TestOptions

    if args.network_code:
        own.admit(args.network_code)
    evaluate(
        Evaluation(
            models=tuple(args.models),
            data=data_options(args),
            test=TestOptions(
                args.corruptions,
                args.corruption_dir,
                args.frost_dir,
                extra=not args.no_extra,
                images=args.images,
                ood=args.ood,
                ood_dir=args.ood_dir,
            ),
            levels=args.levels,
            distortions=args.distortions,
            published=args.published_distortions,
            precision=args.precision,
            batch=args.batch_size,
            seed=args.seed,
            reference=args.reference,
            place=Place(args.device, args.threads, args.address),
            study_url=args.study_url,
            out=args.out,
        )
    )
    return 0
