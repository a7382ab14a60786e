"""The plan of a sweep as a table: what runs, on what, how long it takes, and what it stores."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Iterator, Mapping

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from mollify_core import precision
from mollify_core.datasets.about import described, divided, leaks, sides
from mollify_core.datasets.shards import Sharded
from mollify_core.foreign import clean
from mollify_core.hiding import hidden
from mollify_core.measure.validation import epoch_images, judging_note, ranking_note
from mollify_core.networks.weights import DEFAULT, NONE
from mollify_core.steps import joining
from mollify_core.training_data import groups_of, judging_of, split_rows
from mollify_sweeps.display.console import styled
from mollify_sweeps.display.text import duration, size
from mollify_sweeps.plan import rehearsal
from mollify_sweeps.plan.sweep import Sweep
from mollify_sweeps.study import budget
from mollify_sweeps.study.database import finished
from mollify_sweeps.study.ledger import Ledger


def _start(sweep: Sweep) -> Iterator[str]:
    """What a network is made of that is not this package's, from what it starts, and how it is tuned."""
    model, optim = sweep.base.model, sweep.base.optim
    if model.network_kwargs:
        yield f"with {', '.join(model.network_kwargs)}"
    if model.network_sha256:
        yield f"its code: sha256 {model.network_sha256[:12]}…, a copy goes with the sweep"
    if model.weights != NONE:
        what = "the weights that its library has published" if model.weights == DEFAULT else f"weights {model.weights}"
        stays = f"; {sweep.new_layer}, which they lack in this size, is new" if sweep.new_layer else ""
        scaling = sweep.base.data.scaling
        yield f"starts from {what} (sha256 {model.weights_sha256[:12]}…){stays}; images scaled as {scaling!r}"
    if optim.frozen_epochs or optim.head_lr_factor != 1 or optim.frozen_bn:
        count = f"{optim.frozen_epochs} epoch{'s' * (optim.frozen_epochs > 1)}"
        parts = [f"the last layer alone for {count}"] if optim.frozen_epochs else []
        parts += [f"its learning rate times {optim.head_lr_factor:g}"] if optim.head_lr_factor != 1 else []
        yield "; ".join([*parts, *["BatchNorm keeps its statistics"] * optim.frozen_bn])


def show_plan(console: Console, sweep: Sweep, study: Ledger | None, confirm: str = "") -> None:
    """Prints what is going to happen.

    Args:
        console: where to.
        sweep: what is run.
        study: what is there of it.
        confirm: what comes after it, in words.
    """
    base, place, setup = sweep.base, sweep.placement, sweep.setup
    prepared, done = sweep.prepared, finished(study)
    left = max(0, setup.trials - done)
    table = Table(box=None, show_header=False, pad_edge=False, title=f"Sweep {sweep.name}", title_justify="left")
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    labels = prepared.labels("train")
    rows = split_rows(labels, base, prepared)
    judges = judging_of(labels, rows[1], base, prepared)
    together = groups_of(prepared, rows[1])
    groups = None if together is None else (np.delete(together, judges), together[judges])
    judging, *warnings = _judging(sweep, len(judges), groups)
    table.add_row("data", f"{base.data.dataset}: {sweep.fit} fit and {sweep.validation} validation images{judging}")
    for warning in filter(None, warnings):
        table.add_row("", styled(warning, "yellow"))
    grouped = {"groups": sides(prepared, *rows, judges)} if prepared.groups else {}
    for name, line in (described(prepared) | grouped).items():
        table.add_row("", f"{name}: {line}")
    table.add_row("", _feed(sweep))
    if split := divided(prepared):
        table.add_row("", styled(split, "yellow"))
    if leak := leaks(prepared, *rows):
        table.add_row("", styled(leak, "yellow"))
    if not prepared.verified:
        table.add_row("", styled("UNVERIFIED DATA", "bold red", ": not the official files"))
    state = f"{setup.trials}" + (f" ({done} finished, {left} to go)" if study else "")
    if setup.total is None:
        assert setup.budget is not None
        rest = max(0.0, setup.budget - budget.used(study))
        left = 0 if sweep.seconds is None else int(rest / sweep.seconds * place.concurrent)
        fit = f": about {left} more, or twice as many where half are pruned" if sweep.seconds else ""
        state = f"as many as fit into {duration(setup.budget)}" + (f" ({duration(rest)} left)" if study else "") + fit
    objectives, known = setup.description.objectives, setup.description.methods
    searching = bool(setup.searched)
    about = "; 0 is the paper's default schedule, 1 is plain training, which is not searched"
    if known:
        about = "; the methods take turns, each with its own search; the first of each has default settings"
    grid = setup.description.sampler == "grid"
    if (
        searching
        and known
        and setup.trials >= sum(s.most(setup.description.sampler, setup.grid_points) for s in setup.searches)
    ):
        about += "; there are no more points to try"
    table.add_row("trials", state + (about if searching else ", a recipe and a seed each"))
    computed = base.optim.precision
    if not place.gpus and sweep.address is None and precision.used(computed, torch.device("cpu")) != computed:
        computed = "float32 (this CPU has no units for bf16)"
    table.add_row("each", f"{base.model.network}, up to {base.optim.epochs} epochs, {computed}")
    for line in _start(sweep):
        table.add_row("", clean(line, 200, ""))
    if searching:
        shared = [n for n in setup.searched if all(n in search.space.searched for search in setup.searches)]
        table.add_row("search", f"{setup.description.sampler} over {', '.join(shared)}")
        for search in setup.searches if known else ():
            own = ", ".join(name for name in search.space.searched if name not in shared)
            share = f" (share {search.share:g})" if search.share != 1 else ""
            points = f"; {search.space.points(setup.grid_points):,} points" if grid else ""
            table.add_row("", f"{search.name}{share}: {f'also {own}' if own else 'nothing else'}{points}")
        if first := [f"{search.name} {len(search.tried)}" for search in setup.searches if search.tried]:
            table.add_row("", f"recipes that another sweep has found are tried first: {', '.join(first)}")
        pruning = setup.description.pruner
        if len(objectives) > 1:
            pruning = "none (Optuna prunes on one objective only)"
        table.add_row("minimise", f"{', '.join(objectives)} on validation; pruner {pruning}")
    if confirm:
        table.add_row("confirm", confirm)
    table.add_row("a trial", f"{place.workers} on {place.device}, {place.cpus} CPU each")
    if place.workers.elastic:
        table.add_row("", "as many as the cluster has; the numbers then depend on when machines come and go")
    if not place.workers.alone:
        own = "BatchNorm over the images of all workers" if place.gpus else "BatchNorm over each worker's own images"
        table.add_row("", own + ("" if place.gpus else ": PyTorch synchronises it on GPUs only"))
    steps = (sweep.fit, range(place.workers.least, place.workers.most + 1), prepared.spec.classes)
    if note := joining(base, *steps, prepared.spec.image_shape):
        table.add_row("", note)
    table.add_row("at once", f"{place.concurrent} trial{'s' * (place.concurrent > 1)} ({place.why})")
    if sweep.seconds is None:
        table.add_row("time", "unknown until the first epoch: the trials' device is not on this machine")
    else:
        total = rehearsal.most_seconds(sweep.seconds, left, place)
        pruned = "; less where trials are pruned" if setup.description.pruner != "none" else ""
        words = (
            f"about {duration(sweep.seconds)} a trial, at most {duration(total)} in all (with start and report{pruned})"
        )
        table.add_row("time", words)
        if note := _jobs(total, time.time(), os.environ):
            table.add_row("", note)
    need = sweep.checkpoint_bytes * left
    table.add_row("storage", f"{sweep.store.uri} (about {size(need)} more)")
    if sweep.command.environment:
        table.add_row("", f"as the environment says: {', '.join(sweep.command.environment)}")
    table.add_row("study", hidden(setup.description.study_url))
    console.print(table)


def _jobs(seconds: float, now: float, environment: Mapping[str, str]) -> str:
    """Into how many SLURM jobs of this one's length so many seconds go; "" where there is none, or it has no end."""
    try:
        start, end = (int(environment[f"SLURM_JOB_{name}_TIME"]) for name in ("START", "END"))
    except (KeyError, ValueError):
        return ""
    job, left = environment.get("SLURM_JOB_ID", ""), end - now
    if not end > max(start, now) or seconds <= left:
        return f"job {job} of SLURM has {duration(left)} left" if left > 0 else ""
    more = math.ceil((seconds - left) / (end - start))
    return f"job {job} of SLURM has {duration(left)} left: {more} more like it, at most"


def _feed(sweep: Sweep) -> str:
    """How images get to trials, and what that takes."""
    prepared = sweep.prepared
    each = math.prod(prepared.spec.image_shape)
    total = size(each * (sweep.fit + sweep.validation))
    if not isinstance(prepared, Sharded):
        return f"feed: resident, {total} of images in memory" + (", and on each GPU" if sweep.placement.gpus else "")
    files = size(sum(entry["bytes"] for entry in prepared.manifest["files"].values()))
    held = rehearsal.resident_bytes(prepared.spec, sweep.fit, sweep.validation, gpu=False)
    return (
        f"feed: stream, {total} of images in {files} of files, read again each epoch; each trial holds up to "
        f"{size(held)}, and nearly equal images were not looked for"
    )


def _judging(sweep: Sweep, judging: int, groups: tuple[np.ndarray, np.ndarray] | None) -> tuple[str, str, str]:
    """How many validation images choose and how many only judge, empty where all choose; and warnings of too few.

    Where images come in groups, those of the images that choose and of those that judge are counted for the warnings.
    """
    setup = sweep.setup
    choosing = sweep.validation - judging
    pruning = None if setup.description.pruner == "none" else epoch_images(sweep.fit, choosing)
    note = ranking_note(setup.description.objectives, choosing, pruning)
    if not sweep.base.data.judging_fraction:
        return "", "", note
    warning = judging_note(choosing, judging)
    if groups is not None:
        few, fewer = (len(np.unique(part)) for part in groups)
        warning = judging_note(few, fewer, "groups of validation images")
    return f", of which {choosing} choose and {judging} judge", warning, note
