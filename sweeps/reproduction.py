"""Trains the runs of a grid as one sweep for each data set, measures them on the test set, and reports.

<storage>/<grid>-<protocol>-<data set>-<network>-<hash>/    the sweep, as of a search
<storage>/<grid>-<protocol>-<hash>/                         results.parquet, summary.md, plots/
runs/<sweep>/evaluation/                                    finished cells of the measurement, kept
"""

from __future__ import annotations

import argparse
import hashlib
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markdown import Markdown

from mollify_core.corruptions.benchmark import BENCHMARK
from mollify_core.datasets import spec as dataset_spec
from mollify_core.errors import ConfigError, nearest
from mollify_core.evaluation import LEVELS, cells, summarise
from mollify_core.recipe import Recipe
from sweeps import evaluate, evaluation, grids, models, plan, reproduction_report, runs
from sweeps import settle as settling
from sweeps.driver import carry_out
from sweeps.evaluator import Protocol
from sweeps.runs import Run
from sweeps.settle import Sweep
from sweeps.store import Store
from sweeps.study_storage import load_study, quiet_optuna

_DATA = {"mollification": "cifar10,cifar100,tin", "matching": "cifar100"}
_GROUP = 8  # models that are resident together


def run(args: argparse.Namespace) -> int:
    """Does what the command line of `sweeps/reproduce.py` says; returns the exit code."""
    console = Console()
    quiet_optuna()
    _check(args)
    names = [name for name in (args.data or _DATA[args.grid]).split(",") if name]
    wanted = {name: _runs(args, name) for name in names}
    found = {name: _settle(args, name, wanted[name]) for name in names}
    for sweep in found.values():
        code = carry_out(console, sweep, args)
        if code is not None and not args.dry_run:
            return code
    if args.dry_run:
        return 0
    records = [record for name, sweep in found.items() for record in _measure(console, args, sweep, wanted[name])]
    if not records:
        console.print("[bold red]No run has completed.[/]")
        return 1
    digest = hashlib.sha256(",".join(sorted(sweep.name for sweep in found.values())).encode()).hexdigest()[:6]
    store = Store(args.storage) / f"{args.grid}-{args.protocol}-{digest}"
    folder = Path(tempfile.mkdtemp(prefix="mollify-grid-"))
    try:
        summary = reproduction_report.write(records, [sweep.setup.sweep for sweep in found.values()], folder)
        store.upload(folder)
    finally:
        shutil.rmtree(folder)
    console.print(Markdown(summary.partition("\n## ")[0]))
    console.print(f"\ntables and plots: {store.uri}", soft_wrap=True, highlight=False)
    return 0


def _check(args: argparse.Namespace) -> None:
    if args.protocol not in grids.PROTOCOLS:
        raise ConfigError(f"Unknown --protocol {args.protocol!r}{nearest(args.protocol, grids.PROTOCOLS)}")
    if args.seeds < 1:
        raise ConfigError(f"Expected --seeds to be at least 1, but got {args.seeds}")
    if args.corruptions not in evaluation.SOURCES:
        raise ConfigError(f"Unknown --corruptions {args.corruptions!r}{nearest(args.corruptions, evaluation.SOURCES)}")


def _runs(args: argparse.Namespace, name: str) -> list[Run]:
    """The runs of a grid for one data set, without what the command line sets for all of them."""
    if args.grid == "matching":
        chosen = grids.matching(args.protocol)
    else:
        try:
            blocks = [int(text) for text in args.blocks.split(",")]
        except ValueError:
            raise ConfigError(f"Expected --blocks to be numbers, as in 1,2, but got {args.blocks!r}") from None
        augmentations = args.augmentations.split(",") if args.augmentations else list(grids.AUGMENTATIONS)
        chosen = grids.distinct(grids.mollification(name, blocks, augmentations))
    if not chosen:
        raise ConfigError(f"Expected --blocks and --augmentations that {name} has, but there is no run of these")
    given = _settings(args)
    return [Run(run.name, {k: v for k, v in run.settings.items() if k not in given}) for run in chosen]


def _settings(args: argparse.Namespace) -> dict[str, Any]:
    """What the command line sets for all runs."""
    flags = ("network", "epochs", "batch_size", "train_fraction", "image_size")
    settings = {name: getattr(args, name) for name in flags if getattr(args, name) is not None}
    return settings | settling.given(args.set, {"dataset": "--data", "seed": "--seed"})


def _settle(args: argparse.Namespace, name: str, wanted: Sequence[Run]) -> Sweep:
    options = argparse.Namespace(**{**vars(args), "dataset": name})
    spec = dataset_spec(name, data_dir=args.data_dir, image_size=args.image_size)
    base: Recipe = grids.base(args.grid, spec, args.protocol).with_(_settings(args))
    references = runs.references(wanted, range(args.seed, args.seed + args.seeds))
    sweep = settling.settle(
        options,
        base,
        objectives=("corrupted_nll",),
        searched=runs.NOTHING,
        references=references,
        trials=len(references),
        sampler="random",
        pruner="none",
        name=None,
        prefix=f"{args.grid}-{args.protocol}-",
    )
    for run in wanted:
        base.with_(run.settings)  # a setting that cannot be is told now, not in a trial
    return sweep


def _measure(console: Console, args: argparse.Namespace, sweep: Sweep, wanted: Sequence[Run]) -> list[dict[str, Any]]:
    """What was measured on the test set of every completed run, a record a run and seed."""
    study = load_study(sweep.setup.url, sweep.name)
    assert study is not None
    completed = runs.completed(study)
    todo = [(r.name, seed, trial) for r in wanted for seed, trial in sorted(completed.get(r.name, {}).items())]
    options = evaluate.parser().parse_args(["-", "--no-extra"])
    for name in ("data_dir", "allow_unverified", "mirror", "cache_dir", "images", "corruptions", "corruption_dir"):
        setattr(options, name, getattr(args, name))
    options.frost_dir, options.address = args.frost_dir, args.address
    options.threads = plan.cores()  # trials had one each
    protocol = Protocol("evaluation", published=args.protocol == "published")
    levels = LEVELS if args.grid == "matching" else ()
    store = Store(str(sweep.local / "evaluation"))
    records = []
    data = None
    for start in range(0, len(todo), _GROUP):
        group = todo[start : start + _GROUP]
        console.print(f"measuring runs {start + 1} to {start + len(group)} of {len(todo)} on {sweep.base.data.dataset}")
        loaded = [
            models.of_trial(sweep.store, trial.number, f"{name}, seed {seed}", lambda text: console.print(f"! {text}"))
            for name, seed, trial in group
        ]
        data = data or evaluation.test_data(options, loaded, console)
        types = data.corrupted.types if data.corrupted else ()
        chosen = cells([name for name in types if name in BENCHMARK], levels)
        digests = [evaluation.digest(model, data, protocol) for model in loaded]
        rows = evaluation.evaluate(loaded, data, chosen, protocol, store, digests, options, console)
        for (name, seed, trial), model in zip(group, loaded, strict=True):
            own = [row for row in rows if row["model"] == model.label]
            records.append(
                {
                    "grid": args.grid,
                    "protocol": args.protocol,
                    "dataset": sweep.base.data.dataset,
                    "run": name,
                    "seed": seed,
                    "sweep": sweep.name,
                    "trial": trial.number,
                    "test_images": len(data.clean),
                    "corruptions": data.corrupted.source if data.corrupted else "none",
                    "verified": data.prepared.verified and (data.corrupted is None or data.corrupted.verified),
                    **summarise(own),
                }
            )
    return records
