"""What the process that a user starts does: settle the sweep, plan it, run Tune with a live view, report."""

from __future__ import annotations

import argparse
import functools
import io
import shlex
import shutil
import tempfile
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import numpy as np
import optuna
from rich.console import Console
from rich.table import Table

from mollify_core.datasets import ImageFolder
from sweeps import claim, confirm, html_page, plan, report, runs, settle, snapshots
from sweeps.results import Results
from sweeps.settle import Sweep
from sweeps.store import retry, trial_folder
from sweeps.study_storage import FINISHED, check_same, load_study, make_study, quiet_optuna
from sweeps.wandb_runs import publish


def run(args: argparse.Namespace) -> int:
    """Runs the sweep that the command line of `sweeps/search.py` describes; returns the exit code."""
    console = Console(stderr=False)
    quiet_optuna()
    confirm.check(args)
    sweep = settle.search(args)
    code = carry_out(console, sweep, args)
    if code is None:
        code = _report(console, sweep, args)
        if args.confirm and code == 0:
            return _confirm(console, sweep, args)
    return code


def carry_out(console: Console, sweep: Sweep, args: argparse.Namespace) -> int | None:
    """Shows the plan of a sweep and runs what is left of it; the exit code to end with, None when it has all it needs.

    Raises:
        MollifyError: it cannot be run, or it broke.
    """
    study = _existing(console, sweep)
    sweep = runs.widened(sweep, study)
    left = sweep.setup.trials - _count_finished(study)
    show_plan(console, sweep, study, args)
    if args.dry_run:
        return 0
    if study is not None and left <= 0:
        console.print(f"\nSweep {sweep.name} is finished: it has all its {sweep.setup.trials} trials.")
        return None
    sweep.store.check_writable()
    sweep.local.mkdir(parents=True, exist_ok=True)
    with claim.locked(sweep.local), _signed(console, sweep) as still_ours:
        from sweeps.engine import Stopped, execute

        try:
            execute(
                sweep,
                console,
                still_ours=still_ours,
                address=args.address,
                wandb=args.wandb,
                wandb_project=args.wandb_project,
                dashboard=args.dashboard,
            )
        except Stopped as stop:
            console.print(f"\n[yellow]{stop}[/] Nothing is lost; continue with the same command:")
            # To be copied: neither broken at the terminal's edge nor read as markup.
            command = _command(sweep.program, sweep.argv)
            console.print(f"  {command}", highlight=False, markup=False, soft_wrap=True)
            return 130
    return None


def _signed(console: Console, sweep: Sweep) -> AbstractContextManager[Callable[[], None]]:
    """A claim that other machines see, where the study is on a server that they reach."""
    url = sweep.setup.url
    if url.startswith("sqlite:///"):
        return nullcontext(lambda: None)
    study = make_study(url, sweep.name, sweep.setup.sweep)
    return claim.signed(study, sweep.local, lambda text: console.print(text, highlight=False, soft_wrap=True))


def _confirm(console: Console, sweep: Sweep, args: argparse.Namespace) -> int:
    """Trains the best recipes and the references with further seeds, and says what that shows."""
    study = load_study(sweep.setup.url, sweep.name)
    assert study is not None
    second = confirm.settle(sweep, study, args)
    code = carry_out(console, second, args)
    if code is None:
        found = load_study(second.setup.url, second.name)
        assert found is not None
        confirmed = confirm.read(found)
        (sweep.store / "report").write("confirmation.md", confirm.summary(confirmed).encode())
        _build(sweep, study, args, extra=[confirm.section(confirmed)])
        console.print("\n[bold]Confirmed with further seeds[/]")
        for text in [*confirm.verdicts(confirmed), confirm.note(confirmed)]:
            console.print(text, highlight=False, markup=False)
        console.print(f"Report: {sweep.store.uri}/report/report.html", soft_wrap=True, highlight=False)
        code = 0
    return code


def _existing(console: Console, sweep: Sweep) -> optuna.Study | None:
    """The study of this sweep, when there is one; its snapshot on storage takes the place of an older or lost one."""
    url = sweep.setup.url
    restored = snapshots.restore(sweep.store, url, sweep.name, lambda: claim.locked(sweep.local))
    if restored:
        console.print(f"[yellow]![/] {restored}", highlight=False, soft_wrap=True)
    if url.startswith("sqlite:///") and not Path(url.removeprefix("sqlite:///")).exists():
        return None
    study = load_study(url, sweep.name)
    if study is not None:
        own = sweep.setup.sweep
        check_same(study, own)
        own["created"] = study.user_attrs.get("sweep", own).get("created", own["created"])  # trackers know it by that
    return study


def _count_finished(study: optuna.Study | None) -> int:
    return 0 if study is None else sum(t.state in FINISHED for t in study.get_trials(deepcopy=False))


def show_plan(console: Console, sweep: Sweep, study: optuna.Study | None, args: argparse.Namespace) -> None:
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
    searching, objectives = bool(setup.space.searched), setup.sweep["objectives"]
    about = "; 0 is the paper's default schedule, 1 is plain training" if searching else ", a recipe and a seed each"
    table.add_row("trials", state + about)
    table.add_row("each", f"{base.model.network}, up to {base.optim.epochs} epochs, {base.optim.precision}")
    if searching:
        table.add_row("search", f"{setup.sweep['sampler']} over {', '.join(setup.space.searched)}")
        pruning = setup.sweep["pruner"]
        if len(objectives) > 1:
            pruning = "none (Optuna prunes on one objective only)"
        table.add_row("minimise", f"{', '.join(objectives)} on validation; pruner {pruning}")
    if searching and args.confirm:
        more = (args.confirm + len(setup.references)) * args.seeds
        table.add_row(
            "confirm", f"then the {args.confirm} best and trials 0 and 1, {args.seeds} seeds each: {more} more"
        )
    table.add_row("a trial", f"{place.workers} on {place.device}, {place.cpus} CPU each")
    if place.workers.elastic:
        table.add_row("", "as many as the cluster has; the numbers then depend on when machines come and go")
    if not place.workers.alone:
        own = "BatchNorm over the images of all workers" if place.gpus else "BatchNorm over each worker's own images"
        table.add_row("", own + ("" if place.gpus else ": PyTorch synchronises it on GPUs only"))
    table.add_row("at once", f"{place.concurrent} trial{'s' * (place.concurrent > 1)} ({place.why})")
    if sweep.seconds is None:
        table.add_row("time", "unknown until the first epoch: the trials' device is not on this machine")
    else:
        total = sweep.seconds * -(-left // place.concurrent)
        single = plan.duration(sweep.seconds)
        shortened = " (pruning shortens it)" if setup.sweep["pruner"] != "none" else ""
        table.add_row("time", f"about {single} a trial, at most {plan.duration(total)} in all{shortened}")
    need = sweep.checkpoint_bytes * left
    table.add_row("storage", f"{sweep.store.uri} (about {plan.size(need)} more)")
    table.add_row("study", setup.sweep["study_url"])
    console.print(table)


def _report(console: Console, sweep: Sweep, args: argparse.Namespace) -> int:
    """Builds and prints the report; 1 when no trial completed."""
    study = load_study(sweep.setup.url, sweep.name)
    assert study is not None
    best = _build(sweep, study, args)
    page = f"{sweep.store.uri}/report/report.html"
    report.print_result(console, study, report_uri=page, commands=_commands(sweep, args))
    return 1 if best is None else 0


def _build(
    sweep: Sweep, study: optuna.Study, args: argparse.Namespace, extra: Sequence[html_page.Section] = ()
) -> int | None:
    """Writes the report to storage; returns the number of the best trial."""
    tested = _tested(sweep)
    folder = Path(tempfile.mkdtemp(prefix="mollify-report-"))
    try:
        built = report.build(
            study,
            folder,
            per_image=_per_image(sweep, study),
            evaluation=tested if tested and tested.is_file() else None,
            commands=_commands(sweep, args),
            extra=extra,
        )
        (sweep.store / "report").upload(folder)
        publish(
            folder,
            sweep=sweep.setup.sweep,
            local=sweep.local,
            mode=args.wandb,
            project=args.wandb_project,
            notice=lambda text: print(f"! {text}"),
        )
    finally:
        shutil.rmtree(folder)
    return built.best


def _commands(sweep: Sweep, args: argparse.Namespace) -> list[tuple[str, str]]:
    """What a user may do next: (description, command), without a password."""
    best, flags = "best_recipe.json", _data_flags(sweep, args)
    recipe = f"{sweep.store.uri}/report/{best}" if sweep.store.local else best
    commands = [
        ("look at the study", shlex.join(["optuna-dashboard", sweep.setup.sweep["study_url"]])),
        ("look at the curves", shlex.join(["tensorboard", "--logdir", str(sweep.local / "tensorboard")])),
        ("train the best again, alone", shlex.join(["python", "-m", "mollify_core.train", recipe, *flags])),
    ]
    tested = _tested(sweep)
    if tested:
        words = ["python", "sweeps/evaluate.py", sweep.store.uri, "--out", str(tested.parent), *flags]
        commands.append(("measure it on the test set; the sweep's command then shows that too", shlex.join(words)))
    more = 2 * sweep.setup.trials
    return [*commands, ("search on", _command(sweep.program, sweep.argv, trials=more))]


def _tested(sweep: Sweep) -> Path | None:
    """Where a measurement on the test set is looked for."""
    return sweep.store.local / "evaluation" / "evaluation.parquet" if sweep.store.local else None


def _per_image(sweep: Sweep, study: optuna.Study) -> dict[int, dict[str, np.ndarray]]:
    """Values over the validation images of the trials that are compared image by image."""
    result = {}
    for trial in Results(study).compared.values():
        data = retry(functools.partial(sweep.store.read, f"{trial_folder(trial.number)}/validation.npz"))
        if data:
            with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
                result[trial.number] = dict(arrays)
    return result


def _command(program: str, argv: Sequence[str], trials: int | None = None) -> str:
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
    return shlex.join(["python", program, *words])


def _data_flags(sweep: Sweep, args: argparse.Namespace) -> list[str]:
    """Those options that say where the data is, for a command of another program."""
    source = sweep.prepared.spec.source
    data_dir = str(source.path) if isinstance(source, ImageFolder) else args.data_dir
    flags: list[str] = []
    for flag, value in (("--data-dir", data_dir), ("--cache-dir", args.cache_dir)):
        flags += [flag, value] if value else []
    return flags + ["--allow-unverified"] * args.allow_unverified
