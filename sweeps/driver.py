"""What the process that a user starts does: settle the sweep, plan it, run Tune with a live view, report."""

from __future__ import annotations

import argparse
import datetime
import fcntl
import functools
import hashlib
import io
import json
import math
import os
import re
import shlex
import shutil
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from rich.console import Console
from rich.table import Table

from mollify_core.datasets import DatasetSpec, ImageFolder, Prepared, prepare
from mollify_core.datasets import spec as dataset_spec
from mollify_core.errors import ConfigError, DataError, nearest
from mollify_core.presets import preset
from mollify_core.recipe import Recipe, parse_setting
from mollify_core.training import split_rows
from mollify_core.validation import check_objectives
from sweeps import plan, provenance, report, snapshots, space
from sweeps.results import Results
from sweeps.store import Store, retry, trial_folder
from sweeps.study import FINISHED, Setup, check_same, hide_password, load_study, quiet_optuna

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")

# Where a search starts, by data set: what a person would pick for a first sweep on the hardware that suits the set.
_DEFAULTS: dict[str, dict[str, Any]] = {
    "digits": {"network": "resnet20", "epochs": 12, "batch_size": 32, "lr": 0.05, "trials": 12},
}
_OTHER = {"network": "presnet18", "epochs": 30, "batch_size": 128, "trials": 50}


@dataclass(frozen=True)
class Sweep:
    """Everything about a sweep that is settled before Ray starts.

    Attributes:
        name: of the sweep.
        prepared: its data set.
        base: the recipe that trials vary.
        store: its folder on storage.
        local: its folder beside the driver: the live study, tracking files.
        setup: what the study's actor gets.
        placement: who runs where.
        seconds: estimated training time of one full trial, or None.
        checkpoint_bytes: what one trial keeps.
        fit, validation: number of images.
        argv: the command line, without a password.
    """

    name: str
    prepared: Prepared
    base: Recipe
    store: Store
    local: Path
    setup: Setup
    placement: plan.Placement
    seconds: float | None
    checkpoint_bytes: int
    fit: int
    validation: int
    argv: tuple[str, ...]


def run(args: argparse.Namespace) -> int:
    """Runs the sweep that the command line describes; returns the exit code."""
    console = Console(stderr=False)
    quiet_optuna()
    sweep = settle(args)
    study = _existing(console, sweep)
    left = sweep.setup.trials - _count_finished(study)
    show_plan(console, sweep, study)
    if args.dry_run:
        return 0
    if study is not None and left <= 0:
        console.print(f"\nSweep {sweep.name} is finished: it has all its {sweep.setup.trials} trials.")
        return _report(console, sweep, args)
    sweep.store.check_writable()
    sweep.local.mkdir(parents=True, exist_ok=True)
    with _claimed(sweep.local):
        from sweeps.engine import Stopped, execute

        try:
            execute(sweep, console, address=args.address, wandb=args.wandb, wandb_project=args.wandb_project)
        except Stopped as stop:
            console.print(f"\n[yellow]{stop}[/] Nothing is lost; continue with the same command:")
            # To be copied: neither broken at the terminal's edge nor read as markup.
            console.print(f"  {_command(args.argv)}", highlight=False, markup=False, soft_wrap=True)
            return 130
        return _report(console, sweep, args)


def settle(args: argparse.Namespace) -> Sweep:
    """Turns the command line into a sweep; everything that can be wrong with it is found here.

    Raises:
        MollifyError: something is wrong; one sentence.
    """
    base, trials, spec = _base_recipe(args)
    side = spec.image_shape[-1]
    searched = space.load(args.space, base, side)
    base = base.with_(searched.fixed)
    if args.sampler == "grid":  # every point once, and the two references
        points = math.prod(len(values) for values in searched.grid(args.grid_points).values()) + 2
        trials = points if args.trials is None else min(args.trials, points)
    checkpoint_bytes = plan.checkpoint_bytes(base, spec)  # builds the network: its name and the image side fit
    objectives = check_objectives(tuple(o.strip() for o in args.objective.split(",") if o.strip()))
    _check_search(args, searched, trials, objectives)
    placement = plan.place(
        _nodes(args),
        workers=args.workers_per_trial,
        cpus=args.cpus_per_worker,
        gpus=args.gpus_per_worker,
        at_most=args.max_concurrent,
        trials=trials,
    )
    parts = placement.workers * base.mollify.repeat
    if base.optim.batch_size % parts:
        what = "--workers-per-trial" + (" times repeat" if base.mollify.repeat > 1 else "")
        raise ConfigError(f"Expected --batch-size to be a multiple of {what} {parts}, but got {base.optim.batch_size}")
    prepared = prepare(
        args.dataset,
        data_dir=args.data_dir,
        image_size=base.data.image_size,
        cache_dir=args.cache_dir,
        mirrors=tuple(args.mirror),
        allow_unverified=args.allow_unverified,
    )
    images = prepared.tensors("train")
    fit, validation = split_rows(images.labels.numpy(), base, prepared.fingerprint)
    if len(fit) < placement.workers:
        raise DataError(f"Expected at least one fit image for each worker, but got {len(fit)} images")
    identity = {
        "fingerprint": prepared.fingerprint,
        "objectives": list(objectives),
        "base_recipe": base.to_dict(),
        "space": searched.describe(),
        "sampler": args.sampler,
        "pruner": args.pruner if len(objectives) == 1 else "none",
        "seed": base.seed,
    }
    name = args.name or _default_name(base, identity)
    if not _NAME.fullmatch(name):
        raise ConfigError(f"Expected --name to be letters, digits, '.', '_' and '-', but got {name!r}")
    store = Store(args.storage) / name
    local = store.local or Path("runs").resolve() / name
    url = args.study_url or f"sqlite:///{local}/study.sqlite"
    sweep = {
        **identity,
        "name": name,
        "dataset": base.data.dataset,
        "verified": prepared.verified,
        "network": base.model.network,
        "versions": provenance.versions(),
        "commit": provenance.commit(),
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "storage": store.uri,
        "study_url": hide_password(url) if args.study_url else url,
    }
    references = space.references(searched, base, side)
    setup = Setup(url, name, sweep, base, searched, references, trials, args.grid_points, args.max_failures)
    sample = images.select(np.resize(fit, base.optim.batch_size))
    seconds = plan.seconds_per_trial(base, sample, prepared.spec, placement, len(fit), len(validation))
    secret = args.study_url
    argv = tuple(word.replace(secret, hide_password(secret)) if secret else word for word in args.argv)
    return Sweep(
        name,
        prepared,
        base,
        store,
        local,
        setup,
        placement,
        seconds,
        checkpoint_bytes,
        len(fit),
        len(validation),
        argv,
    )


def _base_recipe(args: argparse.Namespace) -> tuple[Recipe, int, DatasetSpec]:
    """The recipe that trials vary, the number of trials, and what the data set is."""
    if args.recipe and args.preset:
        raise ConfigError("Expected --recipe or --preset, but got both")
    recipe = Recipe.from_file(args.recipe) if args.recipe else Recipe()
    size = recipe.data.image_size if args.image_size is None else args.image_size
    spec = dataset_spec(args.dataset, data_dir=args.data_dir, image_size=size)
    defaults = dict(_DEFAULTS.get(spec.name, _OTHER))
    default_trials = defaults.pop("trials")
    trials = default_trials if args.trials is None else args.trials
    if not args.recipe:
        recipe = recipe.with_(
            dataset=spec.name, augment=spec.augment, validation_fraction=spec.validation_fraction, **defaults
        )
    elif recipe.data.dataset != spec.name:
        raise ConfigError(f"Recipe {args.recipe!r} is for {recipe.data.dataset!r}, but got --dataset {args.dataset}")
    recipe = recipe.with_(image_size=size)
    if args.preset:
        recipe = recipe.with_(preset(args.preset))
    flags = ("network", "epochs", "batch_size", "train_fraction", "seed")
    recipe = recipe.with_({f: getattr(args, f) for f in flags if getattr(args, f) is not None})
    for item in args.set:
        name, equals, text = item.partition("=")
        if not equals:
            raise ConfigError(f"Expected --set NAME=VALUE, but got {item!r}")
        if name in ("dataset", "image_size"):
            raise ConfigError(f"Expected --{name.replace('_', '-')}, but got --set {name}=…")
        recipe = recipe.with_({name: parse_setting(name, text)})
    return recipe, trials, spec


def _check_search(args: argparse.Namespace, searched: space.Space, trials: int, objectives: tuple[str, ...]) -> None:
    if trials < 1:
        raise ConfigError(f"Expected --trials to be at least 1, but got {trials}")
    for flag, value in (("--grid-points", args.grid_points), ("--max-failures", args.max_failures)):
        if value < 1:
            raise ConfigError(f"Expected {flag} to be at least 1, but got {value}")
    for flag, value, known in (
        ("--sampler", args.sampler, space.SAMPLERS),
        ("--pruner", args.pruner, space.PRUNERS),
    ):
        if value not in known:
            raise ConfigError(f"Unknown {flag} {value!r}{nearest(value, known)}")
    if len(objectives) > 1 and args.sampler == "cmaes":
        raise ConfigError("Expected one objective for --sampler cmaes, but got several; tpe, gp and nsga2 take several")
    numeric = [
        n for n, d in searched.searched.items() if not isinstance(d, optuna.distributions.CategoricalDistribution)
    ]
    if args.sampler == "cmaes" and len(numeric) < 2:
        raise ConfigError(f"Expected at least two ranges for --sampler cmaes, but got {len(numeric)}")


def _nodes(args: argparse.Namespace) -> list[plan.Node]:
    """The machines that trials may run on: this one, or a running cluster's and those that it may still start."""
    if args.address is None:
        import joblib
        import torch

        return [plan.Node(joblib.cpu_count(), torch.cuda.device_count())]
    from sweeps.engine import cluster_nodes

    nodes = cluster_nodes(args.address)
    if args.max_concurrent and args.max_concurrent > 0:  # the autoscaler starts machines when trials wait for them
        coming = args.max_concurrent * max(args.workers_per_trial, 1)
        nodes += [plan.Node(args.cpus_per_worker, args.gpus_per_worker or 0)] * coming
    return nodes


def _default_name(base: Recipe, identity: dict[str, Any]) -> str:
    """Made of the settings, so that the same command finds its sweep again and another one never does."""
    settled = json.dumps({**identity, "base_recipe": base.hash}, sort_keys=True)
    digest = hashlib.sha256(settled.encode()).hexdigest()[:6]
    return f"{base.data.dataset}-{base.model.network}-{digest}"


def _existing(console: Console, sweep: Sweep) -> optuna.Study | None:
    """The study of this sweep, when there is one; its snapshot on storage takes the place of an older or lost one."""
    url = sweep.setup.url
    restored = snapshots.restore(sweep.store, url, sweep.name, lambda: _claimed(sweep.local))
    if restored:
        console.print(f"[yellow]![/] {restored}", highlight=False, soft_wrap=True)
    if url.startswith("sqlite:///") and not Path(url.removeprefix("sqlite:///")).exists():
        return None
    study = load_study(url, sweep.name)
    if study is not None:
        check_same(study, sweep.setup.sweep)
    return study


def _count_finished(study: optuna.Study | None) -> int:
    return 0 if study is None else sum(t.state in FINISHED for t in study.get_trials(deepcopy=False))


def show_plan(console: Console, sweep: Sweep, study: optuna.Study | None) -> None:
    """Prints what is going to happen."""
    base, place, setup = sweep.base, sweep.placement, sweep.setup
    prepared, done = sweep.prepared, _count_finished(study)
    left = max(0, setup.trials - done)
    table = Table(box=None, show_header=False, pad_edge=False, title=f"Sweep {sweep.name}", title_justify="left")
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    table.add_row("data", f"{base.data.dataset}: {sweep.fit} fit and {sweep.validation} validation images")
    if not prepared.verified:
        table.add_row("", "[bold red]UNVERIFIED DATA[/]: not the official files")
    state = f"{setup.trials}" + (f" ({done} finished, {left} to go)" if study else "")
    table.add_row("trials", f"{state}; 0 is the paper's default schedule, 1 is plain training")
    table.add_row("each", f"{base.model.network}, up to {base.optim.epochs} epochs, {base.optim.precision}")
    table.add_row("search", f"{setup.sweep['sampler']} over {', '.join(setup.space.searched)}")
    objectives = setup.sweep["objectives"]
    pruning = setup.sweep["pruner"]
    if len(objectives) > 1:
        pruning = "none (Optuna prunes on one objective only)"
    table.add_row("minimise", f"{', '.join(objectives)} on validation; pruner {pruning}")
    workers = f"{place.workers} worker{'s' if place.workers > 1 else ''} on {place.device}"
    table.add_row("a trial", f"{workers}, {place.cpus} CPU each")
    table.add_row("at once", f"{place.concurrent} trial{'s' * (place.concurrent > 1)} ({place.why})")
    if sweep.seconds is None:
        table.add_row("time", "unknown until the first epoch: the trials' device is not on this machine")
    else:
        total = sweep.seconds * -(-left // place.concurrent)
        single = plan.duration(sweep.seconds)
        table.add_row("time", f"about {single} a trial, at most {plan.duration(total)} in all (pruning shortens it)")
    need = sweep.checkpoint_bytes * left
    table.add_row("storage", f"{sweep.store.uri} (about {plan.size(need)} more)")
    table.add_row("study", setup.sweep["study_url"])
    console.print(table)


@contextmanager
def _claimed(folder: Path) -> Iterator[None]:
    """Holds the sweep for this process; the claim ends with the process, however it ends.

    Raises:
        ConfigError: another process holds it.
    """
    path = folder / "driver.lock"
    with open(path, "a+", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            owner = " on ".join(file.read().split()) or "unknown"
            raise ConfigError(f"This sweep is being run already, by process {owner}") from None
        file.truncate(0)
        file.write(f"{os.getpid()} {socket.gethostname()}")
        file.flush()
        yield


def _report(console: Console, sweep: Sweep, args: argparse.Namespace) -> int:
    """Builds and prints the report; 1 when no trial completed."""
    study = load_study(sweep.setup.url, sweep.name)
    assert study is not None
    folder = Path(tempfile.mkdtemp(prefix="mollify-report-"))
    try:
        built = report.build(study, folder, per_image=_per_image(sweep, study))
        (sweep.store / "report").upload(folder)
    finally:
        shutil.rmtree(folder)
    here = f"{sweep.store.uri}/report"
    best = "best_recipe.json"
    train = [
        "python",
        "-m",
        "mollify_core.train",
        f"{here}/{best}" if sweep.store.local else best,
        *_data_flags(sweep, args),
    ]
    commands = [
        ("look at the study", shlex.join(["optuna-dashboard", sweep.setup.sweep["study_url"]])),
        ("look at the curves", shlex.join(["tensorboard", "--logdir", str(sweep.local / "tensorboard")])),
        ("train the best again, alone", shlex.join(train)),
        ("search on", _command(args.argv, trials=2 * sweep.setup.trials)),
    ]
    report.print_result(console, study, report_uri=here, commands=commands)
    return 1 if built.best is None else 0


def _per_image(sweep: Sweep, study: optuna.Study) -> dict[int, dict[str, np.ndarray]]:
    """Values over the validation images of the trials that are compared image by image."""
    result = {}
    for trial in Results(study).compared.values():
        data = retry(functools.partial(sweep.store.read, f"{trial_folder(trial.number)}/validation.npz"))
        if data:
            with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
                result[trial.number] = dict(arrays)
    return result


def _command(argv: list[str], trials: int | None = None) -> str:
    """The command that was typed, with another number of trials when given."""
    words = list(argv)
    if trials is not None:
        for i, word in enumerate(words):
            if word == "--trials":
                del words[i : i + 2]
                break
            if word.startswith("--trials="):
                del words[i]
                break
        words += ["--trials", str(trials)]
    return shlex.join(["python", "sweeps/search.py", *words])


def _data_flags(sweep: Sweep, args: argparse.Namespace) -> list[str]:
    """Those options that say where the data is, for a command of another program."""
    source = sweep.prepared.spec.source
    data_dir = str(source.path) if isinstance(source, ImageFolder) else args.data_dir
    flags: list[str] = []
    for flag, value in (("--data-dir", data_dir), ("--cache-dir", args.cache_dir)):
        flags += [flag, value] if value else []
    return flags + ["--allow-unverified"] * args.allow_unverified
