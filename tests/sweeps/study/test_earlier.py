"""What another sweep has found is tried first, each method its own."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from mollify_core.errors import ConfigError
from mollify_core.recipe import Recipe
from mollify_sweeps.report.words import unproven
from mollify_sweeps.storage.store import SWEEP
from mollify_sweeps.study.earlier import MOST, first_tried
from mollify_sweeps.study.ledger import FROM, METHOD
from mollify_sweeps.study.results import Results
from mollify_sweeps.study.setup import Setup
from mollify_sweeps.study.study import SweepStudy
from setups import fair_setup, make_setup, run_trials, study_of, told

BASE = Recipe().with_(epochs=4, lr=0.02)


def made(folder: Path, trials: int, *names: str, base: Recipe = BASE) -> Setup:
    folder.mkdir()
    setup = fair_setup(folder, base, trials, *names, shares={}, name=folder.name)
    (folder / SWEEP).write_bytes(setup.description.to_json())
    return setup


@pytest.fixture(scope="module")
def earlier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished search of plain training and mollification."""
    setup = made(tmp_path_factory.mktemp("x") / "earlier", 14, "plain", "mollification")
    run_trials(SweepStudy(setup))
    return Path(setup.description.storage)


def with_tried(setup: Setup, where: Path, metric: str = "corrupted_nll") -> Setup:
    return dataclasses.replace(setup, searches=first_tried(setup.searches, str(where), metric))


def test_each_method_begins_with_the_best_of_its_own(earlier: Path, tmp_path: Path) -> None:
    later = made(tmp_path / "later", 16, "plain", "mollification", "noise", base=BASE.with_(epochs=3))
    setup = with_tried(later, earlier)
    run_trials(SweepStudy(setup))
    old, new = Results(study_of(make_again(earlier))), Results(study_of(setup))
    trials = new.trials
    assert [trial.number for trial in trials] == list(range(16))
    tried = {name: [t for t in trials if FROM in t.user_attrs and t.user_attrs[METHOD] == name] for name in new.efforts}
    for name in ("plain", "mollification"):
        best = [t for t in old.of_method(name) if "reference" not in t.user_attrs][:MOST]
        assert [t.params for t in tried[name]] == [t.params for t in best]
        assert [t.user_attrs[FROM] for t in tried[name]] == [f"earlier, trial {t.number}" for t in best]
        assert len(best) >= 2
    numbers = {t.number for found in tried.values() for t in found}
    assert numbers == set(range(3, 3 + len(numbers))), "after the defaults"
    shared = ("lr", "weight_decay")  # the earlier sweep has not searched it: what plain training found of the rest
    assert [[t.params[s] for s in shared] for t in tried["noise"]] == [
        [t.params[s] for s in shared] for t in tried["plain"]
    ]
    default = next(t for t in trials if t.user_attrs[METHOD] == "noise")
    assert {t.params["max_noise"] for t in tried["noise"]} == {default.params["max_noise"]}
    assert "trials began with what another sweep had found" in unproven(new)
    assert "another sweep" not in unproven(old)


def make_again(folder: Path) -> Setup:
    return fair_setup(folder, BASE, 14, "plain", "mollification", shares={}, name="earlier")


def test_a_restart_at_any_time_tries_each_once(earlier: Path, tmp_path: Path) -> None:
    unbroken = with_tried(made(tmp_path / "s", 10, "plain", "mollification"), earlier)
    run_trials(SweepStudy(unbroken))
    broken = with_tried(made(tmp_path / "t", 10, "plain", "mollification"), earlier)
    for stop in (0, 1, 4, 6):
        run_trials(SweepStudy(dataclasses.replace(broken, trials=stop)))
    without = fair_setup(tmp_path / "t", BASE, 10, "plain", "mollification", shares={}, name="t")
    run_trials(SweepStudy(without))  # what was put into the study once stays there
    assert told(unbroken) == told(broken)


def test_what_lies_outside_is_tried_at_the_edge(earlier: Path, tmp_path: Path) -> None:
    later = made(tmp_path / "later", 10, "plain", "mollification")
    narrow = {"lr": {"low": 0.2, "high": 0.3}}
    searches = []
    for search in later.searches:
        space = dataclasses.replace(search.space, searched=dict(search.space.searched))
        space.searched["lr"] = type(space.searched["lr"])(**narrow["lr"])
        first = dataclasses.replace(search.references[0], params=search.references[0].params | {"lr": 0.2})
        searches.append(dataclasses.replace(search, space=space, references=(first,)))
    found = first_tried(searches, str(earlier), "corrupted_nll")
    assert {params["lr"] for search in found for _, params in search.tried} <= {0.2, 0.3}


def test_a_sweep_of_one_study_is_read_too(tmp_path: Path) -> None:
    (tmp_path / "old").mkdir()
    old = make_setup(tmp_path / "old", BASE, 8, name="old")
    (tmp_path / "old" / SWEEP).write_bytes(old.description.to_json())
    run_trials(SweepStudy(old))
    later = with_tried(made(tmp_path / "later", 10, "plain", "mollification"), tmp_path / "old")
    assert [bool(search.tried) for search in later.searches] == [False, True]  # it had no plain training but its own


@pytest.mark.parametrize(("trials", "says"), [(None, "found none in"), (0, "a completed trial, but")])
def test_nothing_to_begin_with_is_one_sentence(tmp_path: Path, trials: int | None, says: str) -> None:
    if trials is not None:
        SweepStudy(made(tmp_path / "empty", trials, "plain", "mollification"))
    later: Any = made(tmp_path / "later", 10, "plain", "mollification")
    with pytest.raises(ConfigError, match=says):
        with_tried(later, tmp_path / "empty")
