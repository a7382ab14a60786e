"""From a trial's assignment to its first batch: one, two and four workers, the first trial and later ones.

    uv run python -m benchmarks.groups               # as many workers as this machine has cores

Ours is a real sweep. The other side is the form that Ray documents, a Tune function that fits a TorchTrainer, on the
same images, network and settings of Ray. They take turns, each in a process of its own; handwritten digits, resnet20,
one thread a worker, one trial at a time.
"""

from __future__ import annotations

import argparse
import json
import logging
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.sweep import RECIPE, ROOT, run_sweep

TRIALS = 4


def ours(workers: int) -> list[float]:
    """Seconds of each trial, in order."""
    shape = ("--trials", str(TRIALS), "--epochs", "1", "--workers-per-trial", str(workers))
    _, trials = run_sweep(*shape, "--max-concurrent", "1", "--pruner", "none", "--network", "resnet20")
    return [t.user_attrs["startup_seconds"] for t in sorted(trials, key=lambda t: t.datetime_start)]


def documented(workers: int) -> list[float]:
    """The same of Ray's form."""
    command = [sys.executable, "-m", "benchmarks.groups", "--documented", str(workers)]
    run = subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(run.stdout.splitlines()[-1])


def run_documented(workers: int) -> None:
    """Runs it in this process, which it needs for itself; prints what `documented` returns."""
    import os
    import time

    from mollify_sweeps.cluster import environment

    environment.set_defaults()
    os.environ["PYTHONPATH"] = environment.python_path()
    import ray
    import ray.train
    import ray.train.torch
    from ray import tune

    from mollify_core.datasets import prepare
    from mollify_core.training import Training
    from mollify_core.worker import Worker
    from mollify_sweeps.trial import feed

    logging.getLogger("ray.tune").setLevel(logging.ERROR)
    ray.init(address="local", num_cpus=workers, resources={"slot": 1}, log_to_driver=False, include_dashboard=False)
    shards, info = feed.datasets(prepare("digits"), RECIPE)
    folder = tempfile.mkdtemp()

    def loop(config: dict[str, str]) -> None:
        import torch

        torch.set_num_threads(1)
        context = ray.train.get_context()
        worker = Worker(context.get_world_rank(), context.get_world_size())
        training = Training(RECIPE, feed.training_data(info, worker, ray.train.get_dataset_shard), worker)
        if worker.rank == 0:
            Path(config["out"]).write_text(str(time.time()))
        training.run_epoch()

    def trial(config: dict[str, int]) -> None:
        begun, out = time.time(), f"{folder}/{config['number']}"
        ray.train.torch.TorchTrainer(
            loop,
            train_loop_config={"out": out},
            datasets=shards,
            dataset_config=ray.train.DataConfig(datasets_to_split=[]),
            scaling_config=ray.train.ScalingConfig(num_workers=workers, resources_per_worker={"CPU": 1}),
            run_config=ray.train.RunConfig(name=f"trial-{config['number']}", storage_path=folder),
        ).fit()
        tune.report({"seconds": float(Path(out).read_text()) - begun})

    results = tune.Tuner(
        tune.with_resources(trial, tune.PlacementGroupFactory([{"slot": 1}])),
        param_space={"number": tune.grid_search(list(range(TRIALS)))},
        tune_config=tune.TuneConfig(max_concurrent_trials=1, reuse_actors=True),
        run_config=tune.RunConfig(storage_path=folder, verbose=0),
    ).fit()
    seconds = {
        r.config["number"]: r.metrics["seconds"]
        for r in map(results.__getitem__, range(TRIALS))
        if r.config and r.metrics
    }
    print(json.dumps([seconds[number] for number in range(TRIALS)]))


def main() -> None:
    from mollify_core.granted import cores

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3, help="of both sides")
    parser.add_argument("--documented", type=int, metavar="WORKERS", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.documented is not None:
        return run_documented(args.documented)
    for workers in (w for w in (1, 2, 4) if w <= cores()):
        found: dict[str, list[list[float]]] = {"ours": [], "documented": []}
        for _ in range(args.rounds):
            found["ours"].append(ours(workers))
            found["documented"].append(documented(workers))
        for side, runs in found.items():
            firsts, later = [run[0] for run in runs], [s for run in runs for s in run[1:]]
            print(f"{workers} worker(s), {side}: first trial {_median(firsts)}, later ones {_median(later)}")
    return None


def _median(seconds: list[float]) -> str:
    return f"{statistics.median(seconds):.2f} s ({min(seconds):.2f} to {max(seconds):.2f})"


if __name__ == "__main__":
    main()
