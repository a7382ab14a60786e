"""A command line -> typed options -> a command line that means the same."""

from __future__ import annotations

import argparse
import shlex
from dataclasses import asdict, replace

from mollify_sweeps.plan.options import Command, Search
from mollify_sweeps.plan.words import words
from mollify_sweeps.programs.search import options_of, parser

LINES = [
    "--dataset digits",
    "--dataset ./photos --image-size 64 --background grey --data-dir /d --cache-dir /c --mirror a --groups g.csv",
    "--dataset cifar10 --allow-unverified --on-bad-image skip --feed stream --network n.py:f --network-kwargs a=1 b=x",
    "--dataset cifar10 --weights default --epochs 3 --batch-size 64 --train-fraction 0.125 --seed=-1 --preset p",
    "--dataset cifar10 --recipe r --from runs/s --mirror a --mirror b",
    "--dataset cifar10 --set a=1 --set b=-2 --methods plain,mixup --share plain=1,mixup=0.3 --trials 9 --budget 90m",
    "--dataset cifar10 --objective clean_nll,clean_error --space s.yaml --sampler grid --grid-points 5 --pruner none",
    "--dataset cifar10 --confirm --seeds 7 --parts --matters 0.02 --workers-per-trial 2 --cpus-per-worker 3",
    "--dataset cifar10 --confirm 3 --workers-per-trial 1:4 --gpus-per-worker 0.5 --pack auto --max-concurrent 4",
    "--dataset cifar10 --address auto --max-failures 1 --storage s3://b/p --study-url postgresql://h/d --dry-run",
    "--dataset cifar10 --wandb off --dashboard 8080 --name=-x",
    "--dataset cifar10 --wandb online --wandb-project mine --dashboard",
]


def meaning(line: tuple[str, ...]) -> Search:
    found = options_of(parser().parse_args(line, argparse.Namespace(words=line, environment=())))
    following = replace(found.running.following, asked=False)  # whether it was said is not what it says
    return replace(found, running=replace(found.running, following=following, command=Command("sweeps/search.py", ())))


def flat(value: object, name: str = "") -> dict[str, object]:
    """Every option by its whole name."""
    if not isinstance(value, dict) or name == ".shares":
        return {name: value}
    return {key: one for inner, v in value.items() for key, one in flat(v, f"{name}.{inner}").items()}


def test_what_is_typed_again_means_the_same() -> None:
    usual, said = flat(asdict(Search("cifar10"))), set()
    for line in LINES:
        options = meaning(tuple(shlex.split(line)))
        assert meaning(words(options)) == options
        said |= {name for name, value in flat(asdict(options)).items() if value != usual[name]}
    # An option that is new, and that no line above says, could be lost by `words`.
    silent = {f".running.command.{name}" for name in ("program", "words", "environment")}
    silent |= {f".running.following.{name}" for name in ("asked", "progress", "folder")}
    assert set(usual) - said == silent
