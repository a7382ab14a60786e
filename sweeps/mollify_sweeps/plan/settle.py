"""What a command means: everything about a sweep that can be settled, or be wrong, before Ray starts."""

from __future__ import annotations

import dataclasses
import datetime
import hashlib
import json
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from optuna.distributions import CategoricalDistribution

from mollify_core import provenance
from mollify_core.datasets import DatasetSpec, Prepared
from mollify_core.errors import ConfigError, nearest
from mollify_core.granted import cores
from mollify_core.matching.strength import check_strength
from mollify_core.measure.power import DEFAULT_SEEDS
from mollify_core.measure.validation import check_objectives
from mollify_core.networks import is_builtin
from mollify_core.networks.contract import check_network
from mollify_core.networks.weights import NONE
from mollify_core.recipe import Recipe
from mollify_core.steps import check_steps
from mollify_core.training_data import check_feed, judging_of, split_rows
from mollify_sweeps.cluster.connection import Node, cluster_nodes
from mollify_sweeps.plan import packing, rehearsal
from mollify_sweeps.plan.base import base_recipe, with_defaults
from mollify_sweeps.plan.options import Confirm, Resources, Running, Search
from mollify_sweeps.plan.placement import growing, place
from mollify_sweeps.plan.sweep import Sweep
from mollify_sweeps.storage.store import STUDY, Store
from mollify_sweeps.study import methods, space
from mollify_sweeps.study.database import Location
from mollify_sweeps.study.description import Description
from mollify_sweeps.study.earlier import first_tried
from mollify_sweeps.study.pruning import PRUNERS
from mollify_sweeps.study.reading import told_of
from mollify_sweeps.study.sampling import SAMPLERS
from mollify_sweeps.study.setup import Setup

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_MOST_POINTS = 10_000  # of a grid: nobody visits more, and part of a grid is but a costly random search


def search(options: Search) -> Sweep:
    """The sweep that `sweeps/search.py` is told to make.

    Raises:
        MollifyError: something is wrong; one sentence.
    """
    base, trials, spec = base_recipe(options)
    objectives = check_objectives(options.objectives, kept=True)
    _check_search(options, objectives)
    _check_seeds(base, options.confirm)
    names = methods.check(options.methods or (methods.PLAIN, methods.of_recipe(base)))
    rehearsal.checkpoint_bytes(base, spec)  # builds the network: its name and the image side fit
    prepared = options.running.data.prepare(spec, base.data.image_size)
    kept = _kept(options, base, prepared)
    if kept is not None:
        return kept
    check_objectives(objectives)
    base = with_defaults(options, base)
    side = spec.image_shape[-1]
    searched = space.load(options.space, base, side) if options.space else methods.built_in(names, base, side)
    base = space.applied(searched, base)
    searches = methods.searches(names, options.shares, base, searched, side)
    points = sum(search.most(options.sampler, options.grid_points) for search in searches)
    if points < math.inf:  # of a grid: every point once, and each method's first trial
        trials = int(points) if options.trials is None else min(options.trials, int(points))
    _check_trials(options, searches, trials)
    made = sweep(
        options.running,
        base,
        spec,
        objectives=objectives,
        searches=searches,
        trials=trials,
        sampler=options.sampler,
        pruner=(options.pruner or "halving") if len(objectives) == 1 else "none",
        grid_points=options.grid_points,
        name=options.name,
        budget=options.budget,
    )
    if options.earlier is None or told_of(made.store) is not None:  # one that has begun has them in its study
        return made
    searches = first_tried(searches, options.earlier, objectives[0], options.running.keeping.study_url)
    return dataclasses.replace(made, setup=dataclasses.replace(made.setup, searches=searches))


def _kept(options: Search, base: Recipe, prepared: Prepared) -> Sweep | None:
    """The sweep of version 0.1 that the same command has begun: it goes on under the rules of that version.

    It has one study, in which plain training was not searched, Hyperband's brackets, and no judging images.
    """
    if options.methods is not None:
        return None
    side = prepared.spec.image_shape[-1]
    try:
        searched = space.load(options.space, base, side)
        base = space.varied(space.applied(searched, base), searched.searched)
        single = methods.Search("", {}, searched, space.references(searched, base, side))
    except ConfigError:
        return None  # it is said again
    pruner = (options.pruner or "hyperband") if len(options.objectives) == 1 else "none"
    rules: dict[str, Any] = {"objectives": options.objectives, "sampler": options.sampler, "pruner": pruner}
    name = options.name or default_name(base, _description(base, prepared, (single,), **rules).identity)
    known = told_of(Store(options.running.keeping.storage) / name) if _NAME.fullmatch(name) else None
    if known is None or known.methods or not known.space:
        return None
    trials = options.trials or (known.started.trials if known.started else None) or len(single.references)
    return sweep(
        options.running,
        base,
        prepared.spec,
        searches=(single,),
        trials=trials,
        grid_points=options.grid_points,
        name=name,
        **rules,
    )


def sweep(
    running: Running,
    base: Recipe,
    spec: DatasetSpec,
    *,
    objectives: tuple[str, ...],
    searches: tuple[methods.Search, ...],
    trials: int,
    sampler: str = "random",
    pruner: str = "none",
    grid_points: int = 3,
    name: str | None = None,
    prefix: str = "",
    budget: float | None = None,
) -> Sweep:
    """A sweep over a base recipe, with its data, its place to run and its place on storage.

    Args:
        running: the options about data, resources and storage.
        base: what all trials vary.
        spec: the data set.
        objectives: what is minimised.
        searches: what is searched in which method.
        trials: in all.
        sampler, pruner: their names.
        grid_points: values of each range in a grid search.
        name: of the sweep; None makes one out of its settings.
        prefix: of such a name.
        budget: wall time in seconds.

    Raises:
        MollifyError: something is wrong; one sentence.
    """
    checkpoint_bytes = rehearsal.checkpoint_bytes(base, spec)  # builds the network: its name and the image side fit
    pack, nodes = packing.wanted(running.resources), _nodes(running.resources)
    placement = place(nodes, running.resources, trials)
    prepared = running.data.prepare(spec, base.data.image_size)
    labels = prepared.labels("train")
    fit, validation = split_rows(labels, base, prepared)
    judging_of(labels, validation, base, prepared)  # groups may leave too few
    _check_fit(base, searches, prepared.spec, len(fit), range(placement.workers.least, placement.workers.most + 1))
    sample = prepared.select("train", np.resize(fit, base.optim.batch_size))
    new_layer = ""
    if base.model.weights != NONE or not is_builtin(base.model.network):
        new_layer = check_network(base, sample.images, prepared.spec.classes)
    if pack:
        packed = packing.choose(base, sample, prepared.spec, cores(), len(fit), len(validation))
        placement = packing.placed(packed, nodes, running.resources, trials)
    description = _description(base, prepared, searches, objectives=objectives, sampler=sampler, pruner=pruner)
    name = name or prefix + default_name(base, description.identity)
    if not _NAME.fullmatch(name):
        raise ConfigError(f"Expected --name to be letters, digits, '.', '_' and '-', but got {name!r}")
    store = Store(running.keeping.storage) / name
    known = told_of(store)
    if known is not None and known.feed != description.feed and running.data.feed == "auto":  # on another machine
        return sweep(
            dataclasses.replace(running, data=dataclasses.replace(running.data, feed=known.feed)),
            base,
            dataclasses.replace(spec, streamed=known.feed == "stream"),
            objectives=objectives,
            searches=searches,
            trials=trials,
            sampler=sampler,
            pruner=pruner,
            grid_points=grid_points,
            name=name,
            budget=budget,
        )
    local = store.local or Path("runs").resolve() / name
    url = running.keeping.study_url
    location = Location(url) if url else Location.of_file(local / STUDY)
    description = dataclasses.replace(description, name=name, storage=store.uri, study_url=location.shown)
    reading = rehearsal.reading_seconds(prepared)
    seconds = rehearsal.seconds_per_trial(base, sample, prepared.spec, placement, len(fit), len(validation), reading)
    return Sweep(
        prepared=prepared,
        base=base,
        store=store,
        local=local,
        setup=Setup(location, description, base, searches, trials, grid_points, running.max_failures, budget, seconds),
        placement=placement,
        seconds=seconds,
        checkpoint_bytes=checkpoint_bytes,
        new_layer=new_layer,
        fit=len(fit),
        validation=len(validation),
        command=running.command.shown,
        data_flags=tuple(running.data.flags(prepared.spec)),
        following=running.following,
        address=running.resources.address,
    )


def _check_fit(
    base: Recipe, searches: Sequence[methods.Search], spec: DatasetSpec, images: int, workers: range
) -> None:
    """Checks that all that a sweep may train goes with its data and workers, as far as that can be known."""

    def fits(recipe: Recipe) -> None:
        check_feed(recipe, "stream" if spec.streamed else "resident")
        check_steps(recipe, images, workers, spec.classes, spec.image_shape)
        check_strength(recipe, spec.classes)

    for search in searches:
        for reference in search.references:
            fits(base.with_({**search.settings, **reference.params, **reference.settings}))
        if search.name:  # a sweep of version 0.1 goes on as it was
            space.check(search.space, base.with_(search.settings), fits, f"search of {search.name}")


def _description(base: Recipe, prepared: Prepared, searches: Sequence[methods.Search], **rules: Any) -> Description:
    """What a sweep is, but for its name and place."""
    ranges: dict[str, dict[str, Any]] = {}
    for search in searches:
        ranges |= search.space.describe()
    return Description(
        name="",
        fingerprint=prepared.fingerprint,
        base_recipe=base.to_dict(),
        space=ranges,
        methods={
            s.name: {"settings": json.loads(json.dumps(s.settings)), "space": list(s.space.searched)}
            for s in searches
            if s.name
        },
        seed=base.seed,
        feed="stream" if prepared.spec.streamed else "resident",
        groups=prepared.manifest.get("groups", ""),
        classes=prepared.spec.classes,
        mean=prepared.spec.mean,
        std=prepared.spec.std,
        dataset=base.data.dataset,
        verified=prepared.verified,
        network=base.model.network,
        versions=provenance.versions(),
        commit=provenance.commit(),
        created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        **rules,
    )


def default_name(base: Recipe, identity: dict[str, Any]) -> str:
    """Made of the settings, so that the same command finds its sweep again and another one never does."""
    identity = {key: value for key, value in identity.items() if key != "feed"}  # --feed auto finds it again
    base = base.with_(network_sha256="", weights_sha256="")  # a file that changed is refused, not another sweep
    settled = json.dumps({**identity, "base_recipe": base.hash}, sort_keys=True)
    digest = hashlib.sha256(settled.encode()).hexdigest()[:6]
    return f"{base.data.dataset}-{re.sub('[^A-Za-z0-9_-]', '-', base.model.network)[:40]}-{digest}"


def _check_search(options: Search, objectives: tuple[str, ...]) -> None:
    """What can be wrong whatever the data are."""
    for flag, value in (
        ("--trials", options.trials),
        ("--max-failures", options.running.max_failures),
    ):
        if value is not None and value < 1:
            raise ConfigError(f"Expected {flag} to be at least 1, but got {value}")
    for flag, word, known in (
        ("--sampler", options.sampler, SAMPLERS),
        ("--pruner", options.pruner, PRUNERS),
    ):
        if word is not None and word not in known:
            raise ConfigError(f"Unknown {flag} {word!r}{nearest(word, known)}")
    if options.grid_points < 2:
        raise ConfigError(
            f"Expected --grid-points to be at least 2, the ends of a range, but got {options.grid_points}"
        )
    if options.earlier is not None and options.sampler == "grid":
        raise ConfigError("Expected a sampler that learns for --from, but got grid, which visits its own points alone")
    if len(objectives) > 1 and options.sampler == "cmaes":
        raise ConfigError("Expected one objective for --sampler cmaes, but got several; tpe, gp and nsga2 take several")


def _check_trials(options: Search, searches: Sequence[methods.Search], trials: int) -> None:
    if trials < len(searches):
        raise ConfigError(
            f"Expected --trials to be at least {len(searches)}, one for each of --methods, but got {trials}"
        )
    for name in options.shares:
        if name not in [search.name for search in searches]:
            raise ConfigError(f"Expected --share of a method in --methods, but got {name!r}")
    for search in searches if options.sampler == "grid" else ():
        points = search.space.points(options.grid_points)
        if points > _MOST_POINTS:
            each = " x ".join(str(len(values)) for values in search.space.grid(options.grid_points).values())
            raise ConfigError(
                f"Expected a grid of at most {_MOST_POINTS:,} points, but {search.name} has {points:,} ({each}); "
                "name fewer settings in --space, or take fewer --grid-points or another --sampler"
            )
    for search in searches if options.sampler == "cmaes" else ():
        numeric = [d for d in search.space.searched.values() if not isinstance(d, CategoricalDistribution)]
        if len(numeric) < 2:
            raise ConfigError(
                f"Expected at least two ranges in {search.name} for --sampler cmaes, but got {len(numeric)}"
            )


def _check_seeds(base: Recipe, confirm: Confirm) -> None:
    """A confirmation takes the seeds after the sweep's: they must be seeds too."""
    count = 0 if confirm.best is None else confirm.seeds or DEFAULT_SEEDS
    if base.seed + count >= 2**63:
        raise ConfigError(
            f"Expected --seed to be below 2**63 with the {count} seeds of --confirm after it, but got {base.seed}"
        )


def _nodes(resources: Resources) -> list[Node]:
    """The machines that trials may run on: this one, or a running cluster's and those that it may still start."""
    if resources.address is None:
        import torch

        return [Node(cores(), torch.cuda.device_count())]
    return growing(cluster_nodes(resources.address), resources)
