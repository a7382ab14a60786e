"""What a long sweep costs its driver: memory, operations of the study, and time per trial, at its start and its end.

    uv run python benchmarks/load.py                 2,000 trials
    uv run python benchmarks/load.py --trials 300

A whole real sweep: plan, Ray, the studies' actor on SQLite with TPE and successive halving, Tune, TensorBoard, live
view. Only the training is exchanged: an epoch of a trial is a formula and takes a millisecond.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

HUNDRED = 100


def trainable() -> type:
    """Takes the place of `mollify_sweeps.trial.actor.TrialActor`: tells the study the same, and how long that took."""
    from ray import tune

    from mollify_sweeps.study.client import StudyClient

    class Formula(tune.Trainable):
        def setup(self, config: dict[str, Any], setup: Any, datasets: dict[str, Any]) -> None:  # type: ignore[override]
            self.study = StudyClient(setup.study)

        def reset_config(self, new_config: dict[str, Any]) -> bool:
            return True

        def step(self) -> dict[str, Any]:
            number, recipe = self.config["number"], json.loads(self.config["recipe"])
            seconds: list[float] = []

            def tell(operation: str, *values: Any) -> Any:
                started = time.perf_counter()
                answer = getattr(self.study, operation)(number, *values)
                seconds.append(time.perf_counter() - started)
                return answer

            tell("begin")
            tell("ready")
            go_on, value = True, 0.0
            for epoch in range(recipe["optim"]["epochs"]):
                time.sleep(0.001)
                value = abs(recipe["mollify"]["max_noise"] - 0.6) + recipe["optim"]["lr"] + 1 / (1 + epoch)
                go_on, _ = tell("report", epoch, {"seconds": 0.001, "corrupted_nll": value})
                if not go_on:
                    break
            if go_on:
                tell("complete", {"operations": seconds}, {"corrupted_nll": value})
            else:
                tell("prune", {"operations": seconds})
            return {"number": number, "done": True}

    return Formula


def resident() -> int:
    """Resident memory of this process in bytes."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=2000)
    parser.add_argument("--epochs", type=int, default=3)
    args = parser.parse_args()

    from rich.console import Console

    from mollify_sweeps.driver import tune
    from mollify_sweeps.driver.searcher import StudySearcher
    from mollify_sweeps.plan import settle
    from mollify_sweeps.plan.options import Following, Keeping, RecipeOptions, Running, Search
    from mollify_sweeps.study.database import quiet_optuna
    from mollify_sweeps.trial import actor

    quiet_optuna()
    asked: list[float] = []
    suggest = StudySearcher.suggest

    def timed(self: StudySearcher, trial_id: str) -> Any:
        started = time.perf_counter()
        answer = suggest(self, trial_id)
        asked.append(time.perf_counter() - started)
        return answer

    memory: list[tuple[int, int]] = []  # trials asked for, bytes

    def watch() -> None:
        while True:
            memory.append((len(asked), resident()))
            time.sleep(0.5)

    actor.TrialActor = trainable()  # type: ignore[misc, assignment]
    StudySearcher.suggest = timed  # type: ignore[method-assign]
    with tempfile.TemporaryDirectory() as folder:
        running = Running(keeping=Keeping(folder), following=Following(wandb="off"))
        sweep = settle.search(Search("digits", RecipeOptions(epochs=args.epochs), trials=args.trials, running=running))
        sweep.local.mkdir(parents=True)
        threading.Thread(target=watch, daemon=True).start()
        with open(os.devnull, "w") as nowhere:
            tune.execute(sweep, Console(file=nowhere))
        study = sweep.setup.location.load(sweep.name)
        assert study is not None
        trials = study.trials
    assert len(trials) == args.trials
    ends = sorted(t.datetime_complete.timestamp() for t in trials if t.datetime_complete)
    operations = [t.user_attrs["operations"] for t in trials]
    first = next(size for count, size in memory if count >= min(HUNDRED, args.trials // 2))

    def at(values: list[Any]) -> tuple[list[Any], list[Any]]:
        return values[:HUNDRED], values[-HUNDRED:]

    def milliseconds(values: list[Any]) -> str:
        flat = [v for part in values for v in part] if isinstance(values[0], list) else values
        return f"{statistics.median(flat) * 1e3:.1f} ms"

    pace = [(part[-1] - part[0]) / (len(part) - 1) for part in at(ends)]
    states = {state: sum(t.state.name == state for t in trials) for state in sorted({t.state.name for t in trials})}
    print(f"load: {args.trials} trials of up to {args.epochs} epochs {states}, {ends[-1] - ends[0]:.0f} s")
    print(
        f"load: driver's memory {first / 1e6:.0f} MB after the first hundred trials, at most "
        f"{max(size for _, size in memory) / 1e6:.0f} MB: growth {(memory[-1][1] - first) / 1e6:+.0f} MB to the end"
    )
    for name, values in (("study operation (begin, report, end)", operations), ("suggestion of a trial", asked)):
        start, end = map(milliseconds, at(values))
        print(f"load: {name}: median {start} in the first hundred trials, {end} in the last")
    print(f"load: {pace[0]:.3f} s a trial in the first hundred, {pace[1]:.3f} in the last: {pace[1] / pace[0]:.2f}x")


if __name__ == "__main__":
    main()
