"""Sweeps that an earlier version left are opened, checked, evaluated and gone on with."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from optuna.trial import TrialState
from pyarrow.fs import LocalFileSystem

import check
import evaluate
import mollify_sweeps
import search
import status
from mollify_core import checkpoint
from mollify_core.datasets import Prepared
from mollify_core.errors import ConfigError
from mollify_core.recipe import Recipe
from mollify_core.training import Training
from mollify_core.training_data import training_data
from mollify_sweeps.driver import publishing
from mollify_sweeps.inspection.state import look
from mollify_sweeps.plan import rehearsal, settle
from mollify_sweeps.plan.options import Keeping, RecipeOptions, Running, Search
from mollify_sweeps.storage.store import Store
from mollify_sweeps.study.database import check_same
from mollify_sweeps.study.description import Description, Started
from mollify_sweeps.study.study import SweepStudy
from places import FIXTURES
from setups import described

SWEEPS = FIXTURES / "sweeps"
UNBROKEN = json.loads((SWEEPS / "unbroken.json").read_text())
SET = {"network": "resnet8", "epochs": 3, "train_fraction": 0.2, "batch_size": 64}


@pytest.fixture
def kept(tmp_path: Path) -> Path:
    """A storage with both sweeps, which is not where they were made."""
    shutil.copytree(SWEEPS, tmp_path / "sweeps")
    return tmp_path / "sweeps"


def command(storage: Path, *more: str) -> list[str]:
    flags = [word for name, value in SET.items() for word in (f"--{name.replace('_', '-')}", str(value))]
    return ["--dataset", "digits", *flags, "--wandb", "off", "--max-concurrent", "1", "--storage", str(storage), *more]


def options_of(storage: Path) -> Search:
    running = Running(keeping=Keeping(str(storage)))
    return Search("digits", RecipeOptions(**SET), trials=3, name="stopped", running=running)  # type: ignore[arg-type]


def test_they_are_read_as_they_are(kept: Path) -> None:
    for name, state, done in (("finished", "finished", 2), ("stopped", "stopped", 1)):
        seen = look(Store(str(kept / name)))
        assert (seen.name, seen.state, seen.counts["complete"]) == (name, state, done)
        assert (seen.dataset, seen.network, seen.total) == ("digits", "resnet8", 2 if done == 2 else 3)
        assert seen.folder == "/srv/mollify"
        assert "--max-concurrent" in seen.command
        text = (kept / name / "sweep.json").read_text()
        description = Description.from_json(text)
        assert "format" not in json.loads(text)
        assert {**description.to_dict(), "format": None} == {**json.loads(text), "format": None}


def test_the_checker_finds_them_sound(kept: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert check.main([str(kept / "finished")]) == 0
    assert "sound; 2 trials (2 complete), 2 checkpoints verified" in capsys.readouterr().out
    assert check.main([str(kept / "stopped")]) == 1
    shown = capsys.readouterr().out
    assert "trial 1: is left running" in shown
    assert "1 finding;" in shown


def test_the_checker_takes_old_words_and_new_ones_for_the_same(kept: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A driver of now writes sweep.json anew; the study keeps the description that it was made with."""
    path = kept / "finished" / "sweep.json"
    tree = json.loads(path.read_text())
    for changes, code in (({}, 0), ({"lr": 0.1}, 1)):
        base = Recipe.from_dict(tree["base_recipe"]).with_(changes).to_dict()
        path.write_text(json.dumps({**tree, "base_recipe": base}))
        assert check.main([str(kept / "finished")]) == code
    assert "sweep.json and the study differ in base_recipe" in capsys.readouterr().out


def test_their_pages_are_written_at_any_time(kept: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, says in (("finished", None), ("stopped", "Unfinished: 1 of 3 trials have ended.")):
        page = tmp_path / f"{name}.html"
        assert status.main([str(kept / name), "--report", str(page)]) == 0
        assert f"page: {page}" in capsys.readouterr().out
        text = page.read_text()
        assert f"Sweep {name}: digits, resnet8" in text
        assert says in text if says else "Unfinished" not in text
    assert not (kept / "stopped" / "report").exists(), "looking changes nothing"
    assert status.main([str(kept), "--report", str(tmp_path / "x.html")]) == 2
    assert "Expected one sweep, but" in capsys.readouterr().err


def test_their_models_are_measured(kept: Path, tmp_path: Path, digits: object) -> None:
    out = tmp_path / "evaluation"
    options = ["--corruptions", "none", "--levels", "none", "--images", "100", "--threads", "1"]
    assert evaluate.main([str(kept / "finished"), "--out", str(out), *options]) == 0
    summary = (out / "summary.md").read_text()
    assert "plain" in summary
    assert "paper" in summary


def test_validation_images_are_those_of_ever(kept: Path, digits: Prepared) -> None:
    """In the same order: what a kept trial was measured on, and a trial that goes on is."""
    trial = kept / "stopped" / "trials" / "00000"
    recipe = Recipe.from_file(trial / "recipe.json")
    state = checkpoint.load_newest(LocalFileSystem(), str(trial / "checkpoints"))
    training = Training(recipe, training_data(recipe, digits), state=state)
    metrics, values = training.final()
    assert metrics["corrupted_nll"] == pytest.approx(
        UNBROKEN[0]["values"][0], rel=1e-4
    )  # other processors round otherwise
    with np.load(trial / "validation.npz") as known:
        np.testing.assert_allclose(values["clean_nll"], known["clean_nll"], rtol=1e-2)


def test_the_trial_that_was_cut_off_is_handed_out_again_and_the_next_one_is_drawn_as_ever(
    kept: Path, digits: object
) -> None:
    sweep = settle.search(options_of(kept))
    known = sweep.setup.location.load("stopped")
    assert known is not None
    check_same(known, sweep.setup.description)
    study = SweepStudy(sweep.setup)
    first = study.next()
    assert first is not None
    assert (first["number"], first["adopted"]) == (1, True)
    assert study.begin(1)["values"] == [pytest.approx(UNBROKEN[1]["epochs"][:1], rel=0.05)]
    for epoch in (1, 2):
        study.report(1, epoch, {"corrupted_nll": UNBROKEN[1]["epochs"][epoch], "seconds": 1.0})
    study.complete(1, {}, {"corrupted_nll": UNBROKEN[1]["values"][0]})
    second = study.next()
    assert second is not None
    assert (second["number"], second["adopted"]) == (2, False)
    trials = study._frozen()
    assert trials[2].params == UNBROKEN[2]["params"]
    assert trials[1].state == TrialState.COMPLETE


def test_a_kept_sweep_over_plain_training_still_mollifies_where_it_draws_so(
    kept: Path, tmp_path: Path, digits: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its base recipe, of format 1, has `p_clean` 1; read now it has the method "none"."""
    description = json.loads((kept / "stopped" / "sweep.json").read_text())
    tree = description["base_recipe"]
    tree["mollify"]["p_clean"] = 1.0
    (tmp_path / "plain.json").write_text(json.dumps(tree))
    (kept / "plain").mkdir()
    (kept / "plain" / "sweep.json").write_text(json.dumps({**description, "name": "plain"}))
    assert Recipe.from_dict(tree).method == "none"
    monkeypatch.setattr(rehearsal, "seconds_per_trial", lambda *_: None)
    options = dataclasses.replace(options_of(kept), recipe=str(tmp_path / "plain.json"), trials=6, name="plain")
    sweep = settle.search(options)
    old = dataclasses.replace(sweep.setup.description, base_recipe=tree)
    sweep.setup.location.make(old)
    study = SweepStudy(sweep.setup)
    recipes = []
    for _ in range(6):
        assignment = study.next()
        assert assignment is not None
        recipes.append(Recipe.from_dict(assignment["recipe"]))
    assert [recipe.method for recipe in recipes] == ["mollification", "none", *["mollification"] * 4]
    assert all(recipe.mollify.p_clean < 1 and recipe.label == "coupled" for recipe in recipes[2:])
    known = sweep.setup.location.load("plain")
    assert known is not None
    for trial, recipe in zip(known.trials, recipes, strict=True):
        own = {"arm": "off", **trial.params, **trial.user_attrs.get("settings", {})}
        assert recipe.hash == Recipe.from_dict(tree).with_(own).hash


def test_a_running_sweep_has_a_page(kept: Path, digits: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(publishing, "_EVERY", 0.0)
    sweep = settle.search(options_of(kept))
    page, file = publishing.searching(sweep), kept / "stopped" / "report" / "report.html"
    page.update({})
    page.close(30)
    assert not file.exists(), "no trial has ended"
    page = publishing.searching(sweep)
    page.end(0, "COMPLETE", {})
    page.update({})
    page.close(60)
    assert "Unfinished: 1 of 3 trials have ended." in file.read_text()


@pytest.mark.slow
def test_a_finished_one_says_what_has_an_effect_and_what_is_left_to_do(
    kept: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Plain training has no noise and no blur; and what has been measured need not be measured once more."""
    monkeypatch.chdir(tmp_path)
    again = command(kept, "--trials", "2", "--name", "finished")
    assert search.main(again) == 0
    out = capsys.readouterr().out
    assert "measure it on the test set" in out
    said = [line.split() for line in out.splitlines()]
    assert ["max_noise", "–", "1"] in said, "of the best one, which is plain training, and of the paper's schedule"
    assert ["lr", "0.05", "0.05"] in said
    measure = ["--corruptions", "none", "--levels", "none", "--images", "50", "--threads", "1"]
    assert evaluate.main([str(kept / "finished"), "--out", str(kept / "finished" / "evaluation"), *measure]) == 0
    capsys.readouterr()
    assert search.main(again) == 0
    assert "measure it on the test set" not in capsys.readouterr().out


@pytest.mark.slow
def test_the_command_that_made_one_goes_on_to_the_end_of_an_unbroken_one(
    kept: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    assert search.main(command(kept, "--trials", "3", "--name", "stopped")) == 0
    assert check.main([str(kept / "stopped")]) == 0
    study = settle.Location.of_file(kept / "stopped" / "study.sqlite").load("stopped")
    assert study is not None
    for trial, expected in zip(study.trials, UNBROKEN, strict=True):
        assert (trial.state.name, trial.params) == (expected["state"], expected["params"])
        # What had ended is as it was. What goes on draws otherwise than version 0.1, whose generators took 32 bits.
        assert trial.values == pytest.approx(expected["values"], rel=0.05)
        assert list(trial.intermediate_values.values()) == pytest.approx(expected["epochs"], rel=0.05)
    assert Description.from_json((kept / "stopped" / "sweep.json").read_text()).to_dict()["format"] == 3
    assert (kept / "stopped" / "report" / "report.html").is_file()


@pytest.mark.parametrize("started", [None, Started(), Started("sweeps/search.py", ("--budget", "2m"), "/srv", "host")])
def test_what_is_written_is_read_again_also_of_a_sweep_with_a_budget_alone(started: Started | None) -> None:
    written = described(started=started, matters=0.02)
    assert Description.from_json(written.to_json()) == written


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (b"", "JSON"),
        (b"[" * 100_000, "JSON"),
        (b"[]", "to be a mapping, but got list"),
        (b'{"format": 99}', "format 1 to 3, but got 99"),
        (b'{"format": 2}', "to hold `name`"),
    ],
)
def test_what_is_no_description_is_one_sentence(text: bytes, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        Description.from_json(text)


def test_a_kept_sweep_is_read_from_python(kept: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Sweeps of 0.1, one finished and one whose driver was killed: nothing is printed, nothing changes."""
    before = {path: path.read_bytes() for path in (kept / "stopped").rglob("*") if path.is_file()}
    sweep = mollify_sweeps.open_sweep(kept / "stopped")
    assert (sweep.name, sweep.question) == ("stopped", "Was mollification worth it?")
    assert "Best of 1 completed trials" in sweep.answer
    assert sweep.best_recipe is not None
    assert sweep.best_recipe.model.network == "resnet8"
    trials, epochs = sweep.trials.to_dict("records"), sweep.epochs.to_dict("records")
    assert [trial["state"] for trial in trials][:2] == ["COMPLETE", "RUNNING"]
    assert [(row["trial"], row["epoch"]) for row in epochs][:3] == [(0, 1), (0, 2), (0, 3)]
    assert epochs[2]["corrupted_nll"] == UNBROKEN[0]["epochs"][2]
    assert before == {path: path.read_bytes() for path in (kept / "stopped").rglob("*") if path.is_file()}
    assert capsys.readouterr() == ("", "")
    with pytest.raises(ConfigError, match=r"a sweep with a study in .*nowhere"):
        mollify_sweeps.open_sweep(kept / "nowhere")
