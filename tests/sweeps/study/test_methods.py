"""Methods that are searched alike: a study each, one ledger of trials, turns that no restart changes."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from optuna.trial import TrialState

from mollify_core.errors import ConfigError
from mollify_core.recipe import Recipe
from mollify_sweeps.study import methods, space
from mollify_sweeps.study.database import finished, progress
from mollify_sweeps.study.ledger import METHOD, NUMBER
from mollify_sweeps.study.results import Results
from mollify_sweeps.study.study import SweepStudy
from setups import fair_setup, run_trials, study_of, told

BASE = Recipe().with_(epochs=8, lr=0.02)
THREE = ("plain", "mollification", "matching")


def setup_of(folder: Path, trials: int = 9, *names: str, **changes: Any) -> Any:
    folder.mkdir(exist_ok=True)
    return fair_setup(folder, BASE, trials, *(names or THREE), shares=changes.pop("shares", {}), **changes)


def test_methods_take_turns_in_studies_of_their_own_with_numbers_of_one_ledger(tmp_path: Path) -> None:
    setup = setup_of(tmp_path, 10)
    run_trials(SweepStudy(setup))
    ledger = study_of(setup)
    assert [study.study_name for study in ledger.studies.values()] == [f"s/{name}" for name in THREE]
    trials = ledger.get_trials()
    assert [trial.number for trial in trials] == list(range(10))
    assert [trial.user_attrs[METHOD] for trial in trials] == [*THREE, *THREE, *THREE, "plain"]
    first = [trial.user_attrs.get("reference") for trial in trials]
    assert first == [*(f"{name} default" for name in THREE), *[None] * 7]
    for name, study in ledger.studies.items():
        own = study.get_trials()
        assert [trial.number for trial in own] == list(range(len(own))), "Optuna's own numbers, as its dashboard shows"
        assert [trial.user_attrs[NUMBER] for trial in own] == [t.number for t in trials if t.user_attrs[METHOD] == name]
    assert finished(ledger) == 10
    assert progress(ledger)[2] == 10


def test_shared_settings_are_searched_in_every_method_over_the_same_ranges(tmp_path: Path) -> None:
    setup = setup_of(tmp_path)
    spaces = {search.name: search.space.searched for search in setup.searches}
    shared = set(spaces["plain"])
    assert shared == {"lr", "weight_decay"}
    for name, own in spaces.items():
        assert {key: own[key] for key in shared} == spaces["plain"], name
    assert "max_noise" in spaces["mollification"]
    assert not set(spaces["mollification"]) & set(spaces["matching"]) - shared
    run_trials(SweepStudy(setup))
    for trial in study_of(setup).get_trials():
        recipe = Recipe.from_dict(trial.user_attrs["recipe"])
        name = trial.user_attrs[METHOD]
        assert (recipe.method, recipe.label) == {
            "plain": ("none", "hard"),
            "mollification": ("mollification", "coupled"),
            "matching": ("matching", "coupled"),
        }[name]
        assert all(recipe.get(key) == value for key, value in trial.params.items())
        assert set(trial.params) == set(spaces[name])


def test_first_trials_have_the_settings_that_nothing_chose(tmp_path: Path) -> None:
    setup = setup_of(tmp_path)
    run_trials(SweepStudy(setup))
    plain, paper, matching = study_of(setup).get_trials()[:3]
    recipes = [Recipe.from_dict(trial.user_attrs["recipe"]) for trial in (plain, paper, matching)]
    assert all(recipe.optim.lr == 0.02 for recipe in recipes)
    assert recipes[0] == BASE.with_(method="none", label="hard")
    assert recipes[1] == BASE.with_(max_blur=32.0)
    assert recipes[2] == BASE.with_(method="matching")


def test_shares_are_kept_from_the_first_trials_on(tmp_path: Path) -> None:
    setup = setup_of(tmp_path, 12, "plain", "mollification", shares={"mollification": 2.0})
    run_trials(SweepStudy(setup))
    by = [trial.user_attrs[METHOD] for trial in study_of(setup).get_trials()]
    assert Counter(by) == {"plain": 4, "mollification": 8}
    assert Counter(by[:6]) == {"plain": 2, "mollification": 4}


def test_a_grid_ends_when_every_method_has_visited_its_points(tmp_path: Path) -> None:
    setup = setup_of(tmp_path, 999, "plain", "noise", sampler="grid", pruner="none")
    few = {"lr": space.default_ranges(32)["lr"], "max_noise": space.default_ranges(32)["max_noise"]}
    searches = methods.searches(("plain", "noise"), {}, BASE, space.Space(few, {}), 32)
    setup = type(setup)(**{**vars(setup), "searches": searches, "grid_points": 2, "trials": 2 + 4 + 2})
    run_trials(SweepStudy(setup))
    trials = study_of(setup).get_trials()
    assert Counter(trial.user_attrs[METHOD] for trial in trials) == {"plain": 3, "noise": 5}
    for name, count in (("plain", 2), ("noise", 4)):
        points = {
            json.dumps(t.params) for t in trials if t.user_attrs[METHOD] == name and "reference" not in t.user_attrs
        }
        assert len(points) == count


def test_a_restart_at_any_trial_changes_nothing(tmp_path: Path) -> None:
    setup = setup_of(tmp_path / "whole", 12)
    run_trials(SweepStudy(setup))
    again = setup_of(tmp_path / "again", 12)
    while finished(study_of(again) if (tmp_path / "again/study.sqlite").exists() else None) < 12:
        study, calls = SweepStudy(again), iter(range(9))

        def call(method: Any, *args: Any, left: Any = calls) -> Any:
            if next(left, None) is None:
                raise InterruptedError
            return method(*args)

        try:
            run_trials(study, call)
        except InterruptedError:
            continue
    assert told(again) == told(setup)
    assert {TrialState.COMPLETE, TrialState.PRUNED} <= {trial.state for trial in study_of(setup).get_trials()}


def test_with_a_dozen_trials_a_method_sampler_and_pruner_do_something(tmp_path: Path) -> None:
    setup = setup_of(tmp_path, 24, "plain", "mollification")
    run_trials(SweepStudy(setup))
    for name, study in study_of(setup).studies.items():
        states = Counter(trial.state for trial in study.get_trials())
        assert 3 <= states[TrialState.PRUNED] <= 9, name
        late = [t.params["lr"] for t in study.get_trials()[6:]]
        early = [t.params["lr"] for t in study.get_trials()[1:6]]
        assert sum(late) / len(late) < sum(early) / len(early), "the stand-in is the better the lower the learning rate"


@pytest.mark.parametrize(
    ("names", "says"),
    [
        (("plain", "molification"), "did you mean 'mollification'"),
        (("mollification", "matching"), "plain, which the others are held against"),
        (("plain",), "at least one other"),
        (("plain", "noise", "noise"), "each once"),
    ],
)
def test_wrong_methods_are_one_sentence(names: tuple[str, ...], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        methods.check(names)


def test_every_method_is_a_recipe_and_rivals_add_their_augmentation() -> None:
    for name in methods.METHODS:
        recipe = BASE.with_(methods.settings_of(name, BASE))
        assert set(methods.METHODS[name].searched) <= set(space.default_ranges(32))
        if methods.METHODS[name].augmentation:
            assert recipe.data.augment == (*BASE.data.augment, name)
    with pytest.raises(ConfigError, match="without trivialaugment with --methods augmix"):
        methods.settings_of("augmix", BASE.with_(augment=("flip", "trivialaugment")))


def test_a_space_names_only_what_its_methods_use() -> None:
    ranges = space.default_ranges(32)
    with pytest.raises(ConfigError, match="have a use for, but got max_noise"):
        methods.searches(
            ("plain", "matching"), {}, BASE, space.Space({"lr": ranges["lr"], "max_noise": ranges["max_noise"]}, {}), 32
        )


def test_where_only_a_methods_own_settings_are_searched_plain_training_is_one_trial(tmp_path: Path) -> None:
    setup = setup_of(tmp_path, 5, "plain", "noise")
    own = space.Space({"max_noise": space.default_ranges(32)["max_noise"]}, {})
    searches = methods.searches(("plain", "noise"), {}, BASE, own, 32)
    run_trials(SweepStudy(type(setup)(**{**vars(setup), "searches": searches})))
    by = [trial.user_attrs[METHOD] for trial in study_of(setup).get_trials()]
    assert by == ["plain", *["noise"] * 4]


def test_results_compare_what_was_searched_alike(tmp_path: Path) -> None:
    setup = setup_of(tmp_path, 18)
    run_trials(SweepStudy(setup))
    results = Results(study_of(setup))
    assert results.fair
    best = {name: results.of_method(name)[0] for name in THREE}
    assert results.compared["plain"].number == best["plain"].number
    others = sorted(("mollification", "matching"), key=lambda name: best[name].values[0])
    assert results.compared["best"].number == best[others[0]].number
    assert results.compared[others[1]].number == best[others[1]].number
    assert results.compared["paper"].user_attrs["reference"] == f"{others[0]} default"
    for effort in results.efforts.values():
        assert sum(effort.counts.values()) == 6
        assert 0 < effort.epochs <= 6 * 8
    assert set(results.searched(results.compared["plain"])) == {"lr", "weight_decay"}
