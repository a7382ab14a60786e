"""The command line that says what typed options say: it goes on with a sweep that was started from Python."""

from __future__ import annotations

from mollify_sweeps.plan.options import Search

Value = str | int | float | bool | None


def words(options: Search) -> tuple[str, ...]:
    """The arguments of `sweeps/search.py` that mean `options`, without those that it takes anyway."""
    usual = _flags(Search(options.dataset))
    found = ["--dataset", options.dataset]
    for flag, values in _flags(options).items():
        if values == usual[flag]:
            continue
        if flag == "--network-kwargs":
            found += [flag, *map(str, values)]
            continue
        for value in values:
            if value is True:
                found.append(flag)
            elif value is not False and value is not None:
                found += [f"{flag}={value}"] if str(value).startswith("-") else [flag, str(value)]
    return tuple(found)


def _flags(options: Search) -> dict[str, tuple[Value, ...]]:
    """Flag -> its values; of a switch True or False."""
    running, training, confirm = options.running, options.training, options.confirm
    data, resources, keeping, follow = running.data, running.resources, running.keeping, running.following
    least, most = resources.workers
    one: dict[str, Value] = {
        "--image-size": training.image_size,
        "--background": training.background,
        "--data-dir": data.data_dir,
        "--cache-dir": data.cache_dir,
        "--allow-unverified": data.allow_unverified,
        "--on-bad-image": "skip" if data.skip_bad else None,
        "--feed": data.feed,
        "--groups": data.groups,
        "--network": training.network,
        "--weights": training.weights,
        "--epochs": training.epochs,
        "--batch-size": training.batch_size,
        "--train-fraction": training.train_fraction,
        "--seed": options.seed,
        "--preset": options.preset,
        "--recipe": options.recipe,
        "--methods": ",".join(options.methods or ()) or None,
        "--trials": options.trials,
        "--budget": None if options.budget is None else f"{options.budget:.9g}s",
        "--share": ",".join(f"{name}={share!r}" for name, share in options.shares.items()) or None,
        "--objective": ",".join(options.objectives),
        "--space": options.space,
        "--from": options.earlier,
        "--sampler": options.sampler,
        "--grid-points": options.grid_points,
        "--pruner": options.pruner,
        "--confirm": confirm.best,
        "--seeds": confirm.seeds,
        "--parts": confirm.parts,
        "--matters": confirm.matters,
        "--workers-per-trial": f"{least}:{most}" if resources.workers.elastic else most,
        "--cpus-per-worker": resources.cpus,
        "--gpus-per-worker": resources.gpus,
        "--pack": "auto" if resources.pack else None,
        "--max-concurrent": resources.at_most,
        "--address": resources.address,
        "--max-failures": running.max_failures,
        "--storage": keeping.storage,
        "--study-url": keeping.study_url,
        "--wandb": follow.wandb,
        "--wandb-project": follow.project,
        "--dashboard": follow.dashboard,
        "--dry-run": running.dry_run,
        "--name": options.name,
    }
    return {
        **{flag: (value,) for flag, value in one.items()},
        "--mirror": data.mirrors,
        "--network-kwargs": training.network_kwargs or (),
        "--set": training.settings,
    }
