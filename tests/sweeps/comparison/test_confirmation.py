"""Confirmation with further seeds: what is chosen, what is said, and a whole one as a user runs it."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from types import SimpleNamespace
from typing import Any

import numpy as np
import optuna
import pytest
from scipy import stats

from mollify_core.errors import ConfigError
from mollify_core.recipe import Recipe
from mollify_sweeps.comparison import confirmation
from mollify_sweeps.plan import runs
from mollify_sweeps.plan.runs import Run
from mollify_sweeps.study.database import Location
from mollify_sweeps.study.description import describe
from mollify_sweeps.study.space import Reference, load, references
from places import ROOT
from search import main
from setups import described
from studies import make_study


def study_of_runs(values: dict[str, list[float]], **sweep: Any) -> optuna.Study:
    """A finished study of runs, with a value a seed, from seed 1."""
    study = optuna.create_study()
    describe(study, described(**{"name": "s-confirm", "space": {}, **sweep}))
    for reference in runs.references([Run(name, {}) for name in values], [1, 2, 3, 4]):
        name, _, seed = reference.name.rpartition(", seed ")
        if int(seed) > len(values[name]):
            continue
        value = values[name][int(seed) - 1]
        attrs = {"reference": reference.name, "metrics": {"clean_error": value / 10, "corrupted_nll": value}}
        study.enqueue_trial({}, user_attrs=attrs)
        study.tell(study.ask(), value)
    return study


def test_every_run_has_every_seed_and_seeds_come_one_after_the_other():
    found = runs.references([Run("a", {"lr": 0.1}), Run("b", {})], [5, 6])
    assert [r.name for r in found] == ["a, seed 5", "b, seed 5", "a, seed 6", "b, seed 6"]
    assert found[2] == Reference("a, seed 6", {}, {"lr": 0.1, "seed": 6})
    with pytest.raises(ConfigError, match="'a' twice"):
        runs.references([Run("a", {}), Run("a", {"lr": 0.1})], [1])


def test_runs_are_found_by_name_and_seed():
    found = runs.completed(study_of_runs({"trial 7": [1.0, 2.0], "fcr+trivaug, off": [3.0]}))
    assert {name: {seed: t.values[0] for seed, t in of.items()} for name, of in found.items()} == {
        "trial 7": {1: 1.0, 2: 2.0},
        "fcr+trivaug, off": {1: 3.0},
    }


def test_an_earlier_commands_runs_count_too():
    asked = runs.references([Run("a", {}), Run("new", {})], [1])
    setup = SimpleNamespace(space=runs.NOTHING, references=asked, trials=2)

    @dataclasses.dataclass
    class Settled:
        setup: Any

    @dataclasses.dataclass
    class Setup:
        space: Any
        references: Any
        trials: int

    sweep: Any = Settled(Setup(**vars(setup)))
    assert runs.widened(sweep, None).setup.trials == 2
    assert runs.widened(sweep, study_of_runs({"a": [1.0], "old": [1.0, 2.0]})).setup.trials == 4


def test_the_best_recipes_are_chosen_each_once_with_the_references():
    study = make_study(25)
    base = Recipe().with_(dataset="cifar10", lr=0.02)
    setup = SimpleNamespace(references=references(load(None, base, 32), base, 32))
    chosen = confirmation.chosen(SimpleNamespace(base=base, setup=setup), study, 3)  # type: ignore[arg-type]
    assert [run.name for run in chosen[:2]] == ["paper", "plain"]
    assert len(chosen) == 8
    controls = chosen[3::2]
    ranked = sorted((t for t in study.trials if t.values), key=lambda t: t.values[0])
    ranked = [t for t in ranked if "reference" not in t.user_attrs]
    assert [run.name for run in chosen[2::2]] == [f"trial {t.number}" for t in ranked[:3]]
    assert [run.name for run in controls] == [f"trial {t.number}, method off" for t in ranked[:3]]
    for run, control, trial in zip(chosen[2::2], controls, ranked, strict=False):
        assert control.settings == {**run.settings, "p_clean": 1.0}, "they differ in the method alone"
        recipe = base.with_({**run.settings, "seed": 3})
        assert recipe == Recipe.from_dict(trial.user_attrs["recipe"]).with_(seed=3)
    assert base.with_(chosen[1].settings).mollify.p_clean == 1


def test_what_the_method_does_is_told_by_the_control():
    """Nine tenths of the advantage over plain training are the learning rate's: the control says so."""
    off, on = [1.01, 1.12, 0.92, 1.03], [1.0, 1.1, 0.9, 1.0]
    values = {"plain": [1.5, 1.65, 1.35, 1.55], "trial 4": on, "trial 4, method off": off}
    found = confirmation.read(study_of_runs(values))
    assert list(found.values) == ["trial 4", "trial 4, method off", "plain"]
    difference = found.compared["trial 4", "trial 4, method off"]
    low, high = stats.t.interval(
        0.95, 3, *(f([a - b for a, b in zip(on, off, strict=True)]) for f in (np.mean, stats.sem))
    )
    assert (difference.mean.low, difference.mean.high) == pytest.approx((low, high))
    line = next(line for line in confirmation.summary(found).splitlines() if line.startswith("- trial 4:"))
    assert line.index("its own other settings without the method") < line.index("plain training")


def test_what_the_method_does_is_told_over_seeds_and_images():
    """Images that like it or not widen the interval that seeds alone would give, and the word follows."""
    rng = np.random.default_rng(0)
    off, on = [1.01, 1.12, 0.92, 1.03], [0.96, 1.08, 0.87, 0.97]
    study = study_of_runs({"plain": [1.5, 1.65, 1.35, 1.55], "trial 4": on, "trial 4, method off": off})
    numbers = {name: [t.number for t in of.values()] for name, of in runs.completed(study).items()}
    for spread, word in ((0.1, "the method makes it better"), (3.0, "what the method does: cannot be told")):
        likes = rng.normal(0, spread, 400)
        likes -= likes.mean()
        per_image = {
            number: {"corrupted_nll": np.full(400, mean) + likes * (name == "trial 4")}
            for name, means in (("trial 4", on), ("trial 4, method off", off))
            for number, mean in zip(numbers[name], means, strict=True)
        }
        found = confirmation.read(study, per_image)
        part = found.method["trial 4"]
        assert part.value == pytest.approx(-0.05)
        assert part.high - part.low >= 2 * 1.96 * likes.std() / 20
        line = next(line for line in confirmation.summary(found).splitlines() if line.startswith("- trial 4:"))
        assert f"its other settings kept, {word}, -0.05000" in line
        assert "over 4 seeds and 400 images" in line


def test_what_seeds_tell_and_what_they_cannot():
    values = {"paper": [1.0, 1.1, 0.9, 1.0], "plain": [1.5, 1.65, 1.35, 1.55], "trial 4": [0.98, 1.13, 0.88, 1.02]}
    text = confirmation.summary(confirmation.read(study_of_runs(values)))
    assert "# Confirmation of s\n" in text
    line = next(line for line in text.splitlines() if line.startswith("- trial 4:"))
    assert "better than plain training" in line
    assert "cannot tell it from the paper's default schedule" in line
    raw = {
        (one, two): stats.ttest_rel(values[one], values[two]).pvalue
        for one, two in (("trial 4", "paper"), ("trial 4", "plain"), ("paper", "plain"))
    }
    for (one, two), p in raw.items():
        row = next(line for line in text.splitlines() if line.startswith(f"| {one} - {two} "))
        assert f"| {p:.2g} |" in row
        assert row.endswith("| yes |" if two == "plain" else "| no |")
    smallest = min(raw.values())
    assert f"| {3 * smallest:.2g} |" in text  # Holm: three comparisons
    assert "UNVERIFIED" not in text
    assert "UNVERIFIED DATA" in confirmation.summary(confirmation.read(study_of_runs(values, verified=False)))


def test_one_common_seed_tells_nothing():
    text = confirmation.summary(confirmation.read(study_of_runs({"plain": [1.5], "trial 4": [1.0, 1.1]})))
    assert "one seed cannot tell it from plain training" in text
    assert "no common seed to compare it with the paper's default schedule" in text


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--confirm", "0"), "--confirm to be at least 1"),
        (("--confirm", "2", "--seeds", "1"), "--seeds to be at least 2"),
    ],
)
def test_wrong_options_are_one_sentence(options, words, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["--dataset", "digits", *options]) == 2
    assert words in capsys.readouterr().err


@pytest.mark.slow
def test_a_whole_confirmation(tmp_path):
    """The search, then its best recipe and the references with two further seeds; a second call finds all done."""
    command = [sys.executable, str(ROOT / "sweeps/search.py"), "--dataset", "digits", "--name", "s", "--trials", "3"]
    command += ["--epochs", "1", "--train-fraction", "0.1", "--set", "validation_fraction=0.05"]
    command += ["--confirm", "1", "--seeds", "2"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "at most 8 more" in done.stdout
    study = Location.of_file(tmp_path / "runs/s-confirm/study.sqlite").load("s-confirm")
    assert study is not None
    found = runs.completed(study)
    assert found.keys() == {"paper", "plain", "trial 2", "trial 2, method off"}
    assert all(of.keys() == {1, 2} for of in found.values())
    for name, number in (("paper", 0), ("plain", 1), ("trial 2", 2)):
        of_search = Location.of_file(tmp_path / "runs/s/study.sqlite").load("s").trials[number]  # type: ignore[union-attr]
        for seed, trial in found[name].items():
            assert trial.user_attrs["recipe"] == {**of_search.user_attrs["recipe"], "seed": seed}
    for seed, trial in found["trial 2, method off"].items():
        on, off = (Recipe.from_dict(t.user_attrs["recipe"]) for t in (found["trial 2"][seed], trial))
        assert off == on.with_(p_clean=1.0)
    text = (tmp_path / "runs/s/report/confirmation.md").read_text()
    assert "trial 2" in text
    assert "trial 2 - plain" in text
    assert "over 2 seeds and" in text
    page = (tmp_path / "runs/s/report/report.html").read_text()
    assert "Confirmed with further seeds" in page
    assert "trial 2 - plain" in page
    again = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert again.returncode == 0, again.stdout + again.stderr
    assert "Sweep s-confirm is finished: it has all its 8 trials." in again.stdout
