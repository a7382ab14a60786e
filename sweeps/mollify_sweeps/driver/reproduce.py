"""Trains the runs of a grid as one sweep for each data set, measures them on the test set, and reports.

<storage>/<grid>-<protocol>-<data set>-<network>-<hash>/    the sweep, as of a search
<storage>/<grid>-<protocol>-<hash>/                         results.parquet, summary.md, plots/
<storage>/<grid>-<protocol>-tune-…, …-tuned-…/              with --tune: what was tried, what was measured
runs/<sweep>/evaluation/                                    finished cells of the measurement, kept
"""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markdown import Markdown

from mollify_core.corruptions.benchmark import BENCHMARK
from mollify_core.datasets import DatasetSpec
from mollify_core.errors import ConfigError, nearest
from mollify_core.granted import cores
from mollify_core.measure.evaluation import LEVELS, cells, summarise
from mollify_core.recipe import Recipe
from mollify_sweeps.comparison import grid_report, grids, tuning
from mollify_sweeps.comparison.tuning import Tuned
from mollify_sweeps.display.console import Terminal, styled
from mollify_sweeps.driver.carry_out import Carried, announce, carry_out
from mollify_sweeps.evaluation import models
from mollify_sweeps.evaluation.cells import digest, measure_cells
from mollify_sweeps.evaluation.evaluator import Measurement
from mollify_sweeps.evaluation.images import test_data
from mollify_sweeps.evaluation.options import SOURCES, Place, TestOptions
from mollify_sweeps.plan import runs, settle
from mollify_sweeps.plan.base import said, started
from mollify_sweeps.plan.options import RecipeOptions, Running
from mollify_sweeps.plan.runs import Run
from mollify_sweeps.plan.sweep import Sweep
from mollify_sweeps.storage.store import Store
from mollify_sweeps.study.database import quiet_optuna

_DATA = {
    "mollification": ("cifar10", "cifar100", "tin"),
    "matching": ("cifar100",),
    "soft": ("cifar10", "cifar100", "tin"),
}
_GROUP = 8  # models that are resident together


@dataclass(frozen=True)
class Reproduction:
    """What `sweeps/reproduce.py` is told.

    Attributes:
        grid: "mollification", "matching" or "soft".
        protocol: one of `grids.PROTOCOLS`.
        tune: the learning rate of every run is tuned before, see `tuning`.
        datasets: names or paths; empty takes the paper's.
        blocks: of mollification, as in "1,2".
        augmentations: of mollification, or soft ones; None takes all.
        seeds, seed: how many of each run, and the first.
        training: what all runs train otherwise than the paper.
        test: on which images they are measured.
    """

    running: Running
    grid: str
    protocol: str = "fair"
    tune: bool = False
    datasets: tuple[str, ...] = ()
    blocks: str = "1,2,3,4,5,6"
    augmentations: tuple[str, ...] | None = None
    seeds: int = 3
    seed: int = 0
    training: RecipeOptions = field(default_factory=RecipeOptions)
    test: TestOptions = field(default_factory=TestOptions)


def reproduce(options: Reproduction) -> int:
    """Trains and measures a paper's experiments; returns the exit code.

    Raises:
        MollifyError: they cannot be run, or broke.
    """
    console = Terminal()
    quiet_optuna()
    _check(options)
    dry_run = options.running.dry_run
    names = options.datasets or _DATA[options.grid]
    wanted = {name: _runs(options, name) for name in names}
    announce(console, options.running.resources)
    settled = {name: _sweep(options, name, wanted[name]) for name in names}
    trying = {name: _trying(options, name, settled[name], wanted[name]) for name in names if options.tune}
    rates: dict[str, dict[str, Tuned]] = {}
    carried: dict[str, Carried] = {}
    for name, sweep in settled.items():
        if name in trying:
            console.print(
                f"First the learning rate of every run, of {len(tuning.FACTORS)}, by validation with one seed:"
            )
            tried = carry_out(console, trying[name], dry_run=dry_run)
            if tried.code is not None and not dry_run:
                return tried.code
            if tried.study is not None:
                rates[name] = tuning.read(tried.study, sweep.base, wanted[name])
                sweep = _with(options, sweep, tuning.tuned(sweep.base, wanted[name], rates[name]))
        carried[name] = carry_out(console, sweep, dry_run=dry_run)
        code = carried[name].code
        if code is not None and not dry_run:
            return code
    if dry_run:
        return 0
    records = [
        record
        for name, one in carried.items()
        for record in _measure(console, options, one, wanted[name], rates.get(name, {}))
    ]
    if not records:
        console.print(styled("No run has completed.", "bold red"))
        return 1
    sweeps = [one.sweep for one in carried.values()]
    found = hashlib.sha256(",".join(sorted(sweep.name for sweep in sweeps)).encode()).hexdigest()[:6]
    store = Store(options.running.keeping.storage) / f"{_prefix(options)}{found}"
    with tempfile.TemporaryDirectory(prefix="mollify-grid-") as folder:
        summary = grid_report.write(records, [sweep.setup.description for sweep in sweeps], Path(folder))
        store.upload(Path(folder))
    console.print(Markdown(summary.partition("\n## ")[0]))
    console.print(f"\ntables and plots: {store.uri}", soft_wrap=True, highlight=False)
    return 0


def _check(options: Reproduction) -> None:
    if options.protocol not in grids.PROTOCOLS:
        raise ConfigError(f"Unknown --protocol {options.protocol!r}{nearest(options.protocol, grids.PROTOCOLS)}")
    if options.tune and options.protocol != "fair":
        raise ConfigError(f"Expected --tune with --protocol fair, but got --protocol {options.protocol}")
    if options.seeds < 1:
        raise ConfigError(f"Expected --seeds to be at least 1, but got {options.seeds}")
    if options.test.corruptions not in SOURCES:
        wrong = options.test.corruptions
        raise ConfigError(f"Unknown --corruptions {wrong!r}{nearest(wrong, SOURCES)}")


def _runs(options: Reproduction, name: str) -> list[Run]:
    """The runs of a grid for one data set, without what the user sets for all of them."""
    if options.grid == "matching":
        chosen = grids.matching(options.protocol)
    elif options.grid == "soft":
        chosen = grids.soft(options.augmentations or list(grids.SOFT))
    else:
        try:
            blocks = [int(text) for text in options.blocks.split(",")]
        except ValueError:
            raise ConfigError(f"Expected --blocks to be numbers, as in 1,2, but got {options.blocks!r}") from None
        augmentations = options.augmentations or list(grids.AUGMENTATIONS)
        chosen = grids.distinct(grids.mollification(name, blocks, augmentations))
    if not chosen:
        raise ConfigError(f"Expected --blocks and --augmentations that {name} has, but there is no run of these")
    given = _settings(options.training)
    return [Run(run.name, {k: v for k, v in run.settings.items() if k not in given}) for run in chosen]


def _settings(training: RecipeOptions) -> dict[str, Any]:
    """What the user sets for all runs."""
    elsewhere = {"dataset": "--data", "seed": "--seed", "background": "--background"}
    return training.given("image_size", "background") | said(training, elsewhere)


def _sweep(options: Reproduction, name: str, wanted: Sequence[Run]) -> Sweep:
    """The sweep of all runs for one data set."""
    spec = options.running.data.spec(name, options.training.image_size, options.training.background)
    settings = _settings(options.training)
    base = started(grids.base(options.grid, spec, options.protocol).with_(settings), spec, settings)
    for run in wanted:
        base.with_(run.settings)  # a setting that cannot be is told now, not in a trial
    return _settled(options, base, spec, wanted, range(options.seed, options.seed + options.seeds), _prefix(options))


def _trying(options: Reproduction, name: str, sweep: Sweep, wanted: Sequence[Run]) -> Sweep:
    """The sweep that tunes the learning rates of all runs for one data set."""
    tried = [one for run in wanted for one in tuning.tried(sweep.base, run).values()]
    spec, prefix = sweep.prepared.spec, f"{options.grid}-{options.protocol}-tune-"
    return _settled(options, sweep.base, spec, tried, [tuning.seed(options.seed)], prefix)


def _settled(
    options: Reproduction, base: Recipe, spec: DatasetSpec, wanted: Sequence[Run], seeds: Sequence[int], prefix: str
) -> Sweep:
    search = runs.search(wanted, seeds)
    return settle.sweep(
        options.running,
        base,
        spec,
        objectives=("corrupted_nll",),
        searches=(search,),
        trials=len(search.references),
        prefix=prefix,
    )


def _with(options: Reproduction, sweep: Sweep, wanted: Sequence[Run]) -> Sweep:
    """A sweep of other runs."""
    search = runs.search(wanted, range(options.seed, options.seed + options.seeds))
    return replace(sweep, setup=replace(sweep.setup, searches=(search,)))


def _prefix(options: Reproduction) -> str:
    """Of the names of what is measured."""
    return f"{options.grid}-{options.protocol}-" + "tuned-" * options.tune


def _measure(
    console: Console, options: Reproduction, carried: Carried, wanted: Sequence[Run], rates: Mapping[str, Tuned]
) -> list[dict[str, Any]]:
    """What was measured on the test set of every completed run, a record a run and seed."""
    sweep, study = carried.sweep, carried.study
    assert study is not None
    completed = runs.completed(study)
    todo = [(r.name, seed, trial) for r in wanted for seed, trial in sorted(completed.get(r.name, {}).items())]
    place = Place(threads=cores(), address=sweep.address)  # trials had one thread each
    how = Measurement("evaluation", published=options.protocol == "published")
    levels = LEVELS if options.grid == "matching" else ()
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
        data = data or test_data(options.test, options.running.data, loaded, console, place.threads)
        types = data.corrupted.types if data.corrupted else ()
        chosen = cells([name for name in types if name in BENCHMARK], levels)
        digests = [digest(model, data, how) for model in loaded]
        rows = measure_cells(loaded, data, chosen, how, store, digests, place, console)
        for (name, seed, trial), model in zip(group, loaded, strict=True):
            own = [row for row in rows if row["model"] == model.label]
            records.append(
                {
                    "grid": options.grid,
                    "protocol": options.protocol,
                    "dataset": sweep.base.data.dataset,
                    "run": name,
                    "seed": seed,
                    "sweep": sweep.name,
                    "trial": trial.number,
                    "lr": model.recipe.optim.lr,
                    "lr_tried": list(rates[name].values) if name in rates else None,
                    "lr_values": list(rates[name].values.values()) if name in rates else None,
                    "test_images": len(data.clean),
                    "corruptions": data.corrupted.source if data.corrupted else "none",
                    "verified": data.prepared.verified and (data.corrupted is None or data.corrupted.verified),
                    **summarise(own),
                }
            )
    return records
