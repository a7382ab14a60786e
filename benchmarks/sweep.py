"""What the service costs: the Ray Data feed, and a whole sweep. `groups.py` has the start of a trial.

    uv run python benchmarks/sweep.py feed       epoch fed by Ray Data inside a Ray Train trial / plain tensors
    uv run python benchmarks/sweep.py whole      wall time of a sweep / training time of its trials

All on handwritten digits, resnet20, one thread a trial. `feed` interleaves epochs of both sides in one process and
takes medians; `whole` runs a real sweep.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from mollify_core.recipe import Recipe

ROOT = Path(__file__).resolve().parents[1]
RECIPE = Recipe().with_(dataset="digits", network="resnet20", augment=("crop",), batch_size=128, epochs=1000)


def feed(rounds: int) -> None:
    import ray
    import ray.train
    import ray.train.torch
    import torch

    from mollify_core.datasets import prepare
    from mollify_core.training import Training
    from mollify_core.training_data import training_data
    from mollify_core.worker import Worker
    from mollify_sweeps.cluster.connection import connect
    from mollify_sweeps.trial import feed as sweep_feed

    torch.set_num_threads(1)
    connect(None)
    prepared = prepare("digits")
    shards, info = sweep_feed.datasets(prepared, RECIPE)

    def loop(config: dict[str, Any]) -> None:
        started = time.perf_counter()
        fed = Training(RECIPE, sweep_feed.training_data(info, Worker(), ray.train.get_dataset_shard))
        first = time.perf_counter() - started
        plain = Training(RECIPE, training_data(RECIPE, prepared))
        ratios = []
        for _ in range(rounds):
            seconds = []
            for side in (fed, plain):
                start = time.process_time()
                side._train_epoch(time.perf_counter(), None)
                side.epoch += 1
                seconds.append(time.process_time() - start)
            ratios.append(seconds[1] / seconds[0])
        ratios = ratios[1:]
        print(
            f"feed: data and network ready {first:.2f} s after the loop began; then throughput fed / plain = ", end=""
        )
        print(f"{statistics.median(ratios):.3f} ({min(ratios):.3f} to {max(ratios):.3f}, {len(ratios)} epochs each)")

    scaling = ray.train.ScalingConfig(num_workers=0)
    ray.train.torch.TorchTrainer(loop, train_loop_config={}, datasets=shards, scaling_config=scaling).fit()
    ray.shutdown()


def run_sweep(*argv: str) -> tuple[float, list[Any]]:
    """(wall seconds, trials) of a real sweep in a process of its own."""
    from mollify_sweeps.study.database import Location, quiet_optuna

    quiet_optuna()
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, str(ROOT / "sweeps/search.py"), "--dataset", "digits"]
        command += ["--name", "s", "--wandb", "off", *argv]
        started = time.perf_counter()
        subprocess.run(command, cwd=folder, check=True, stdout=subprocess.DEVNULL)
        wall = time.perf_counter() - started
        ledger = Location.of_file(Path(folder, "runs/s/study.sqlite")).load("s")
        assert ledger is not None
        return wall, ledger.trials


def whole(epochs: int) -> None:
    shape = ("--trials", "6", "--epochs", str(epochs), "--pruner", "none", "--batch-size", "128")
    wall, trials = run_sweep(*shape)
    seconds = [t.user_attrs["seconds"] for t in trials]
    running = (max(t.datetime_complete for t in trials) - min(t.datetime_start for t in trials)).total_seconds()
    at_once = round(sum((t.datetime_complete - t.datetime_start).total_seconds() for t in trials) / running)
    ideal = sum(seconds) / at_once
    print(
        f"whole: {len(trials)} trials of {statistics.median(seconds):.0f} s training, {at_once} at once: wall over "
        f"training time {running / ideal:.3f} from the first trial's assignment to the last one's end, "
        f"{wall / ideal:.3f} with imports, start of Ray, plan and report"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("feed", "whole"), nargs="*", default=["feed", "whole"])
    parser.add_argument("--rounds", type=int, default=8, help="epochs of each side in `feed`")
    parser.add_argument("--epochs", type=int, default=30, help="epochs of a trial in `whole`")
    args = parser.parse_args()
    for what in args.what:
        {"feed": lambda: feed(args.rounds), "whole": lambda: whole(args.epochs)}[what]()


if __name__ == "__main__":
    main()
