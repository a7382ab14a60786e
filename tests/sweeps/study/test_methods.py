"""Methods that are searched alike: a study each, one ledger of trials, turns that no restart changes."""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution
from optuna.trial import TrialState

from mollify_core.errors import ConfigError
from mollify_core.recipe import Recipe
from mollify_sweeps.inspection.check_trial import Finding, TrialCheck
from mollify_sweeps.storage.store import Store
from mollify_sweeps.study import budget, methods, space
from mollify_sweeps.study.database import finished, progress
from mollify_sweeps.study.ledger import METHOD, NUMBER
from mollify_sweeps.study.results import Results
from mollify_sweeps.study.study import SweepStudy
from setups import fair_setup, make_setup, run_trials, study_of, told

BASE = Recipe().with_(epochs=4, lr=0.02)
THREE = ("plain", "mollification", "matching")


def setup_of(folder: Path, trials: int = 9, *names: str, **changes: Any) -> Any:
    folder.mkdir(exist_ok=True)
    return fair_setup(folder, BASE, trials, *(names or THREE), shares=changes.pop("shares", {}), **changes)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A finished search of three methods with ten trials."""
    setup = setup_of(tmp_path_factory.mktemp("whole"), 10)
    run_trials(SweepStudy(setup))
    return setup


def test_methods_take_turns_in_studies_of_their_own_with_numbers_of_one_ledger(whole: Any) -> None:
    ledger = study_of(whole)
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


def test_shared_settings_are_searched_in_every_method_over_the_same_ranges(whole: Any) -> None:
    spaces = {search.name: search.space.searched for search in whole.searches}
    shared = set(spaces["plain"])
    assert shared == {"lr", "weight_decay"}
    for name, own in spaces.items():
        assert {key: own[key] for key in shared} == spaces["plain"], name
    assert "max_noise" in spaces["mollification"]
    assert not set(spaces["mollification"]) & set(spaces["matching"]) - shared
    for trial in study_of(whole).get_trials():
        recipe = Recipe.from_dict(trial.user_attrs["recipe"])
        name = trial.user_attrs[METHOD]
        assert (recipe.method, recipe.label) == {
            "plain": ("none", "hard"),
            "mollification": ("mollification", "coupled"),
            "matching": ("matching", "coupled"),
        }[name]
        assert all(recipe.get(key) == value for key, value in trial.params.items())
        assert set(trial.params) == set(spaces[name])


def test_first_trials_have_the_settings_that_nothing_chose(whole: Any) -> None:
    plain, paper, matching = study_of(whole).get_trials()[:3]
    recipes = [Recipe.from_dict(trial.user_attrs["recipe"]) for trial in (plain, paper, matching)]
    assert all(recipe.optim.lr == 0.02 for recipe in recipes)
    assert recipes[0] == BASE.with_(method="none", label="hard")
    assert recipes[1] == BASE.with_(max_blur=32.0)
    assert recipes[2] == BASE.with_(method="matching")


def test_shares_are_kept_from_the_first_trials_on(tmp_path: Path) -> None:
    setup = setup_of(tmp_path, 6, "plain", "mollification", shares={"mollification": 2.0})
    begun: Counter[str] = Counter()
    for count in range(1, 13):
        turn = methods.turn(setup.searches, begun, "tpe", 3)
        assert turn is not None
        begun[turn.name] += 1
        assert abs(begun["mollification"] - 2 * count / 3) < 1
    assert begun == {"plain": 4, "mollification": 8}


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


def test_a_restart_at_any_trial_changes_nothing(whole: Any, tmp_path: Path) -> None:
    again = setup_of(tmp_path / "again", 10)
    while finished(study_of(again) if (tmp_path / "again/study.sqlite").exists() else None) < 10:
        study, calls = SweepStudy(again), iter(range(17))

        def call(method: Any, *args: Any, left: Any = calls) -> Any:
            if next(left, None) is None:
                raise InterruptedError
            return method(*args)

        try:
            run_trials(study, call)
        except InterruptedError:
            continue
    assert told(again) == told(whole)
    assert {TrialState.COMPLETE, TrialState.PRUNED} <= {trial.state for trial in study_of(whole).get_trials()}


@pytest.mark.slow
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


@pytest.mark.parametrize(
    ("given", "searched", "useless"),
    [
        ({"method": "matching"}, ("max_noise", "max_epsilon", "lr"), "max_noise"),
        ({"label": "fixed"}, ("smoothing", "noise_power", "max_noise"), "smoothing, noise_power"),
        ({"noise_share": 1.0}, ("blur_power", "max_blur", "max_noise"), "blur_power, max_blur"),
        ({"p_clean": 1.0, "label": "coupled"}, ("max_noise", "lr"), "max_noise"),
        ({"optimizer": "adamw"}, ("lr", "momentum"), "momentum"),
        ({}, ("lr", "arm"), "arm"),
    ],
)
def test_a_searched_setting_that_changes_nothing_is_refused_by_name(
    given: dict[str, Any], searched: tuple[str, ...], useless: str
) -> None:
    base = BASE.with_(given)
    ranges: dict[str, Any] = space.default_ranges(32) | {
        "momentum": FloatDistribution(0.1, 0.9),
        "arm": CategoricalDistribution(["off", "matching"]),
    }
    chosen = space.Space({name: ranges[name] for name in searched}, {})
    with pytest.raises(ConfigError, match=f"have a use for, but got {useless}, which would change nothing"):
        methods.searches(("plain", methods.of_recipe(base)), {}, base, chosen, 32)


def test_what_is_searched_without_a_space_file_has_an_effect() -> None:
    """`--set arm=matching`, or `method=matching`: not the schedule of mollification, which did nothing there."""
    for given, own in (
        ({"arm": "matching"}, {"p_undistorted", "max_epsilon", "epsilon_power"}),
        ({"method": "matching", "label": "fixed"}, {"p_undistorted"}),
        ({"label": "fixed"}, {"max_noise", "max_blur", "beta_b", "p_clean", "noise_share"}),
    ):
        base = BASE.with_(given)
        names = ("plain", methods.of_recipe(base))
        plain, other = methods.searches(names, {}, base, methods.built_in(names, base, 32), 32)
        assert set(plain.space.searched) == {"lr", "weight_decay"}
        assert set(other.space.searched) == {"lr", "weight_decay"} | own


def test_settings_that_cannot_be_trained_fail_their_trial_alone_and_check_takes_it(tmp_path: Path) -> None:
    """A sweep of an earlier version, whose space nobody judged: its command used to break at this trial for ever."""
    mixed = space.Space(
        {
            "label_mode": CategoricalDistribution(["ls", "ld"]),
            "loss": CategoricalDistribution(["ce", "nce"]),
            "lr": FloatDistribution(0.01, 0.1),
        },
        {},
    )
    setup = make_setup(tmp_path, BASE, 10, searched=mixed, sampler="random", pruner="none")
    run_trials(SweepStudy(setup))
    trials = study_of(setup).get_trials()
    assert len(trials) == 10
    failed = [trial for trial in trials if trial.state == TrialState.FAIL]
    assert 1 <= len(failed) < 5
    for trial in trials:
        assert (trial in failed) == (trial.params["label_mode"] == "ld" and trial.params["loss"] == "nce")
    said = {(t.user_attrs["failure"], t.user_attrs["failure_message"]) for t in failed}
    assert said == {("settings", "Expected label_mode 'ls' for loss 'nce', but got 'ld'")}
    findings: list[Finding] = []
    for trial in failed:
        TrialCheck(Store(str(tmp_path)), setup.description, trial, {}, findings).check(driven=False)
    assert not findings


def test_where_only_a_methods_own_settings_are_searched_plain_training_is_one_trial(tmp_path: Path) -> None:
    setup = setup_of(tmp_path, 5, "plain", "noise")
    own = space.Space({"max_noise": space.default_ranges(32)["max_noise"]}, {})
    searches = methods.searches(("plain", "noise"), {}, BASE, own, 32)
    run_trials(SweepStudy(type(setup)(**{**vars(setup), "searches": searches})))
    by = [trial.user_attrs[METHOD] for trial in study_of(setup).get_trials()]
    assert by == ["plain", *["noise"] * 4]


def test_results_compare_what_was_searched_alike(whole: Any) -> None:
    results = Results(study_of(whole))
    assert results.fair
    best = {name: results.of_method(name)[0] for name in THREE}
    assert results.compared["plain"].number == best["plain"].number
    others = sorted(("mollification", "matching"), key=lambda name: best[name].values[0])
    assert results.compared["best"].number == best[others[0]].number
    assert results.compared[others[1]].number == best[others[1]].number
    assert results.compared["paper"].user_attrs["reference"] == f"{others[0]} default"
    for name, effort in results.efforts.items():
        assert sum(effort.counts.values()) == (4 if name == "plain" else 3)
        assert 0 < effort.epochs <= 4 * 4
    assert set(results.searched(results.compared["plain"])) == {"lr", "weight_decay"}


def test_a_budget_gives_methods_equal_training_time_and_begins_nothing_that_cannot_end(tmp_path: Path) -> None:
    """An epoch of the stand-in says it took a second: a trial is four, plain training is pruned as others are."""
    setup = setup_of(tmp_path, budget.UNBOUNDED, "plain", "mollification")
    setup = dataclasses.replace(setup, budget=700.0, seconds=4.0)
    assert setup.total is None
    clock = iter(range(10**6))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(budget.time, "monotonic", lambda: 20.0 * next(clock))
        run_trials(SweepStudy(setup))
    trials = study_of(setup).get_trials()
    assert all(trial.state.is_finished() for trial in trials)
    assert budget.spent(study_of(setup), 700.0)
    assert not budget.spent(study_of(setup), 7200.0)
    assert 0 < budget.used(study_of(setup)) <= 700.0 + 100
    seconds: Counter[str] = Counter()
    for trial in trials:
        seconds[trial.user_attrs[METHOD]] += trial.user_attrs["epochs_done"]
    assert abs(seconds["plain"] - seconds["mollification"]) <= 4


def test_budgets_are_read() -> None:
    assert [budget.parse(text) for text in ("90m", "1.5h", "1d 2h", "45s")] == [5400, 5400, 93600, 45]
    for text in ("", "12", "h", "12h!", "0h"):
        with pytest.raises(ConfigError, match="--budget to be a time"):
            budget.parse(text)
