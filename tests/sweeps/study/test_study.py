"""The study: every trial and every epoch once, whatever is killed and started again."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import sqlite3

import pytest
from optuna.trial import TrialState

import setups
from mollify_core.errors import ConfigError, StorageError
from mollify_core.recipe import Recipe
from mollify_sweeps.study import methods, space
from mollify_sweeps.study.database import Location, study_errors
from mollify_sweeps.study.setup import Setup
from mollify_sweeps.study.study import SweepStudy
from setups import run_trials, study_of, told

EPOCHS = 4
TRIALS = 8
BASE = Recipe().with_(epochs=EPOCHS, network="resnet20", dataset="digits")


def make_setup(tmp_path, trials=TRIALS, **changes) -> Setup:
    return setups.make_setup(tmp_path, BASE, trials, **changes)


def run(setup: Setup, die_after: int | None = None) -> int:
    """Runs trials one after the other; dies after so many calls that change the study. Returns the calls made."""
    calls = 0

    def call(method, *args):
        nonlocal calls
        if calls == die_after:
            raise KeyboardInterrupt
        calls += 1
        return method(*args)

    with contextlib.suppress(KeyboardInterrupt):
        run_trials(SweepStudy(setup), call)
    return calls


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    setup = make_setup(tmp_path_factory.mktemp("unbroken"))
    calls = run(setup)
    return calls, told(setup)


def test_runs_prunes_and_keeps_the_references(unbroken):
    _, trials = unbroken
    assert len(trials) == TRIALS
    assert all(s in (TrialState.COMPLETE, TrialState.PRUNED) for _, s, *_ in trials)
    assert any(s == TrialState.PRUNED for _, s, *_ in trials)
    assert [s for _, s, *_ in trials[:2]] == [TrialState.COMPLETE] * 2
    assert trials[1][2]["p_clean"] == 1.0


@pytest.mark.parametrize("share", [0.02, 0.1, 0.3, 0.55, 0.8, 0.97])
def test_killed_and_started_again_equals_unbroken(share, unbroken, tmp_path):
    calls, expected = unbroken
    setup = make_setup(tmp_path)
    run(setup, die_after=round(share * calls))
    run(setup, die_after=3)
    run(setup)
    assert told(setup) == expected


def test_repeated_epochs_hear_the_same_answers(tmp_path):
    setup = make_setup(tmp_path)
    run(setup)
    study = SweepStudy(make_setup(tmp_path, trials=16))
    while (assignment := study.next()) is not None:
        number = assignment["number"]
        answers = []
        for epoch in range(EPOCHS):
            answers.append(study.report(number, epoch, {"corrupted_nll": 100.0, "seconds": 1.0}))
            assert answers[-1][1] == {"seconds": 1.0, "corrupted_nll": 100.0}
            assert study.report(number, epoch, {"corrupted_nll": 100.0, "seconds": 1.0}) == answers[-1]
            if not answers[-1][0]:
                break
        assert [study.report(number, e, {"corrupted_nll": 1.0, "seconds": 1.0}) for e in range(len(answers))] == answers
        begin = study.begin(number)
        assert begin["values"] == [[100.0]] * len(answers)
        assert (begin["go_on"], begin["finished"]) == (answers[-1][0], False)
        study.prune(number, {})
        assert study.begin(number)["finished"]


def test_a_trial_keeps_the_threads_with_which_it_began(tmp_path):
    study = SweepStudy(make_setup(tmp_path))
    study.next()
    assert study.begin(0, 2)["threads"] == 2
    again = SweepStudy(make_setup(tmp_path))  # by a driver with other --cpus-per-worker
    assert again.next()["number"] == 0
    assert again.begin(0, 4)["threads"] == 2
    again.next()
    assert again.begin(1, 4)["threads"] == 4


def test_budget_may_grow_and_ends(tmp_path):
    run(make_setup(tmp_path, trials=3))
    assert SweepStudy(make_setup(tmp_path, trials=3)).next() is None
    run(make_setup(tmp_path, trials=5))
    assert [n for n, *_ in told(make_setup(tmp_path))] == [0, 1, 2, 3, 4]


def test_failures_are_told_and_end_the_sweep_at_last(tmp_path):
    study = SweepStudy(make_setup(tmp_path, trials=16))
    for kind in ("nan", "oom", "bug", "bug", "bug", "bug", "bug"):
        assignment = study.next()
        assert assignment is not None
        study.fail(assignment["number"], kind, "it broke")
        study.lost(assignment["number"], "twice told, once written")
    assert study.next() is None
    status = study.status()
    assert status["stopped_by_failures"]
    assert status["counts"]["FAIL"] == 7
    loaded = study_of(make_setup(tmp_path))
    assert loaded is not None
    assert [t.user_attrs["failure"] for t in loaded.trials] == ["nan", "oom", "bug", "bug", "bug", "bug", "bug"]
    assert loaded.trials[0].user_attrs["failure_message"] == "it broke"


def test_several_objectives_prune_nothing(tmp_path):
    setup = make_setup(tmp_path, trials=4, objectives=("corrupted_nll", "clean_error"))
    study = SweepStudy(setup)
    while (assignment := study.next()) is not None:
        for epoch in range(EPOCHS):
            assert study.report(
                assignment["number"], epoch, {"corrupted_nll": epoch, "clean_error": 1.0, "seconds": 1.0}
            )[0]
        study.complete(assignment["number"], {}, {"corrupted_nll": 1.0, "clean_error": 2.0})
    loaded = study_of(setup)
    assert loaded is not None
    assert [t.values for t in loaded.trials] == [[1.0, 2.0]] * 4


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"fingerprint": "other"}, "another data set"),
        ({"space": {"lr": {}}}, "another search space"),
        ({"objectives": ["clean_nll"]}, "another objectives"),
        ({"seed": 1, "fingerprint": "x"}, "another data set and seed"),
    ],
)
def test_a_study_of_another_sweep_is_refused(changes, says, tmp_path):
    run(make_setup(tmp_path, trials=2))
    before = told(make_setup(tmp_path))
    with pytest.raises(ConfigError, match=says):
        SweepStudy(make_setup(tmp_path, **changes))
    assert told(make_setup(tmp_path)) == before


@pytest.mark.parametrize(
    "url", ["nonsense", "mysql://root:secret@127.0.0.1:1/x", "sqlite:////nowhere/at/all.sqlite", "redis://a:secret@b"]
)
def test_unusable_study_urls(url):
    with pytest.raises(StorageError) as error:
        Location(url).load("s")
    assert "secret" not in str(error.value)
    assert "\n" not in str(error.value)


def test_a_database_that_fails_under_an_open_study_is_one_sentence(tmp_path):
    setup = make_setup(tmp_path)
    run(setup, die_after=5)
    study = study_of(setup)
    assert study is not None
    with contextlib.closing(sqlite3.connect(tmp_path / "study.sqlite")) as file:
        file.execute("DROP TABLE trials")
    with pytest.raises(StorageError, match=r"^The study's database failed: no such table: trials; .* kept$"):
        with study_errors():
            _ = study.trials


def test_events_are_drained_once(tmp_path):
    setup = copy.deepcopy(make_setup(tmp_path, trials=1))
    study = SweepStudy(setup)
    assignment = study.next()
    assert assignment is not None
    study.report(0, 0, {"corrupted_nll": 1.0, "seconds": 1.0, "clean_nll": 1.0})
    study.complete(0, {}, {"corrupted_nll": 1.0, "clean_nll": 1.0})
    kinds = [e[0] for e in study.drain()]
    assert kinds == ["start", "epoch", "end"]
    assert study.drain() == []


def test_several_workers_of_one_trial_fail_once(tmp_path):
    study = SweepStudy(make_setup(tmp_path, trials=16))
    assignment = study.next()
    assert assignment is not None
    for _ in range(8):
        study.fail(assignment["number"], "bug", "it broke")
    assert [e[0] for e in study.drain()] == ["start", "end", "notice"]
    assert study.next() is not None


def test_a_grid_is_visited_point_by_point_also_when_trials_fail_or_the_driver_dies(tmp_path):
    ranges = {"max_noise": space.FloatDistribution(0.25, 1.0), "beta_b": space.CategoricalDistribution([1.0, 2.0, 4.0])}
    searched = space.Space(ranges, {})
    setup = dataclasses.replace(
        make_setup(tmp_path, sampler="grid", space=searched.describe()),
        searches=(methods.Search("", {}, searched, space.references(searched, BASE, 32)),),
        trials=9 + 2,
        max_failures=9,
    )
    asked = 0
    while asked < 11:
        study = SweepStudy(setup)  # another driver for every two trials
        for _ in range(2):
            if (assignment := study.next()) is not None:
                study.fail(assignment["number"], "bug" if asked % 3 else "nan", "no luck")
                asked += 1
    done = study_of(setup)
    assert done is not None
    visited = [tuple(t.params.values()) for t in done.trials[2:]]
    assert len(set(visited)) == len(visited) == 9


def test_other_groups_of_images_are_another_sweep_and_refused(tmp_path):
    """The images' fingerprint holds their groups, so it differs too: the groups alone are named."""
    SweepStudy(make_setup(tmp_path, groups="a" * 64))
    with pytest.raises(ConfigError, match=r"^Sweep 's' exists with another --groups file; repeat its own settings"):
        SweepStudy(make_setup(tmp_path, groups="b" * 64, fingerprint="g"))
    with pytest.raises(ConfigError, match=r"exists with another --groups file;"):
        SweepStudy(make_setup(tmp_path, fingerprint="g"))
    SweepStudy(make_setup(tmp_path, groups="a" * 64))
