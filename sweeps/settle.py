"""What a command line means: everything about a sweep that can be settled, or be wrong, before Ray starts."""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import hashlib
import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import optuna

from mollify_core.datasets import DatasetSpec, Prepared, prepare
from mollify_core.datasets import spec as dataset_spec
from mollify_core.errors import ConfigError, nearest
from mollify_core.presets import preset
from mollify_core.recipe import Recipe, parse_setting
from mollify_core.training import check_batch_size, split_rows
from mollify_core.validation import check_objectives
from sweeps import packing, plan, provenance, space
from sweeps.store import Store
from sweeps.study_setup import Setup
from sweeps.study_storage import hide_password

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
        program, argv: the command line, without a password.
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
    program: str
    argv: tuple[str, ...]


def search(args: argparse.Namespace) -> Sweep:
    """The sweep that the command line of `sweeps/search.py` describes.

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
    objectives = check_objectives(tuple(o.strip() for o in args.objective.split(",") if o.strip()))
    _check_search(args, searched, trials, objectives)
    return settle(
        args,
        base,
        objectives=objectives,
        searched=searched,
        references=space.references(searched, base, side),
        trials=trials,
        sampler=args.sampler,
        pruner=args.pruner if len(objectives) == 1 else "none",
        name=args.name,
    )


def settle(
    args: argparse.Namespace,
    base: Recipe,
    *,
    objectives: tuple[str, ...],
    searched: space.Space,
    references: Sequence[space.Reference],
    trials: int,
    sampler: str,
    pruner: str,
    name: str | None,
    prefix: str = "",
) -> Sweep:
    """A sweep over a base recipe, with its data, its place to run and its place on storage.

    Args:
        args: the options about data, resources and storage.
        base: what all trials vary.
        objectives: what is minimised.
        searched: the space.
        references: trials that are run whatever the search finds, the first ones.
        trials: in all.
        sampler, pruner: their names.
        name: of the sweep; None makes one out of its settings.
        prefix: of such a name.

    Raises:
        MollifyError: something is wrong; one sentence.
    """
    spec = dataset_spec(args.dataset, data_dir=args.data_dir, image_size=base.data.image_size)
    checkpoint_bytes = plan.checkpoint_bytes(base, spec)  # builds the network: its name and the image side fit
    pack, nodes = _pack(args), _nodes(args)

    def place(cpus: int, gpus: float | None) -> plan.Placement:
        return plan.place(
            nodes, workers=args.workers_per_trial, cpus=cpus, gpus=gpus, at_most=args.max_concurrent, trials=trials
        )

    placement = place(args.cpus_per_worker, args.gpus_per_worker)
    check_batch_size(base, placement.workers.most)
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
    sample = images.select(np.resize(fit, base.optim.batch_size))
    if pack:
        packed = packing.choose(base, sample, prepared.spec, plan.cores())
        placement = place(packed.cpus, packed.gpus)
        placement = dataclasses.replace(placement, why=f"{placement.why}; {packed.why}")
    identity = {
        "fingerprint": prepared.fingerprint,
        "objectives": list(objectives),
        "base_recipe": base.to_dict(),
        "space": searched.describe(),
        "sampler": sampler,
        "pruner": pruner,
        "seed": base.seed,
    }
    name = name or prefix + default_name(base, identity)
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
    grid_points = getattr(args, "grid_points", 3)
    setup = Setup(url, name, sweep, base, searched, tuple(references), trials, grid_points, args.max_failures)
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
        args.program,
        argv,
    )


def default_name(base: Recipe, identity: dict[str, Any]) -> str:
    """Made of the settings, so that the same command finds its sweep again and another one never does."""
    settled = json.dumps({**identity, "base_recipe": base.hash}, sort_keys=True)
    digest = hashlib.sha256(settled.encode()).hexdigest()[:6]
    return f"{base.data.dataset}-{base.model.network}-{digest}"


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
    for name, value in given(args.set, {"dataset": "--dataset", "image_size": "--image-size"}).items():
        recipe = recipe.with_({name: value})
    return recipe, trials, spec


def given(items: Sequence[str], elsewhere: dict[str, str]) -> dict[str, Any]:
    """The settings that `--set NAME=VALUE` gives.

    Args:
        items: the words.
        elsewhere: setting -> the option that gives it instead.
    """
    settings = {}
    for item in items:
        name, equals, text = item.partition("=")
        if not equals:
            raise ConfigError(f"Expected --set NAME=VALUE, but got {item!r}")
        if name in elsewhere:
            raise ConfigError(f"Expected {elsewhere[name]}, but got --set {name}=…")
        settings[name] = parse_setting(name, text)
    return settings


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


def _pack(args: argparse.Namespace) -> bool:
    """Whether the number of trials on a device is to be measured; raises a ConfigError where that cannot be."""
    if args.pack == "off":
        return False
    if args.address is not None or not args.workers_per_trial.alone:
        raise ConfigError("Expected --pack auto for trials of one worker on this machine: it is measured here")
    if args.cpus_per_worker != 1 or args.gpus_per_worker is not None:
        raise ConfigError("Expected --pack auto without --cpus-per-worker and --gpus-per-worker, which it chooses")
    return True


def _nodes(args: argparse.Namespace) -> list[plan.Node]:
    """The machines that trials may run on: this one, or a running cluster's and those that it may still start."""
    if args.address is None:
        import torch

        return [plan.Node(plan.cores(), torch.cuda.device_count())]
    from sweeps.engine import cluster_nodes

    nodes = cluster_nodes(args.address)
    if args.max_concurrent and args.max_concurrent > 0:  # the autoscaler starts machines when trials wait for them
        coming = args.max_concurrent * args.workers_per_trial.most
        nodes += [plan.Node(args.cpus_per_worker, args.gpus_per_worker or 0)] * coming
    return nodes
