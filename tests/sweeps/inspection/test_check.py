"""The checker: silent about a sound sweep, and every kind of damage found and named."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import random
import re
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from optuna.trial import TrialState

import setups
from check import main
from mollify_core import checkpoint
from mollify_core.errors import ConfigError, MollifyError
from mollify_core.recipe import Recipe
from mollify_core.training import Training
from mollify_core.training_data import training_data
from mollify_core.worker import Worker
from mollify_sweeps.inspection.check import Check
from mollify_sweeps.inspection.check_trial import Finding, TrialCheck
from mollify_sweeps.storage.store import Store, trial_folder
from mollify_sweeps.study.database import Location
from mollify_sweeps.study.description import Description
from mollify_sweeps.study.study import SweepStudy
from mollify_sweeps.trial.trial import Writer
from servers import moto

TRIALS = 5


def findings_of(sweep: str, study_url: str | None = None) -> list[Finding]:
    return Check(sweep, study_url).findings


@pytest.fixture(scope="module")
def original(tmp_path_factory, digits) -> Path:
    """A sweep as trials leave it: the real study, networks, checkpoints and files; only Ray is not there."""
    folder = tmp_path_factory.mktemp("runs") / "s"
    changes = {"train_fraction": 0.03, "validation_fraction": 0.03, "epochs": 3, "batch_size": 32, "augment": ()}
    base = Recipe().with_(dataset="digits", network="resnet8", **changes)
    setup = setups.make_setup(folder, base, TRIALS, fingerprint=digits.fingerprint)
    store = Store(str(folder))
    store.write("sweep.json", setup.description.to_json())
    study = SweepStudy(setup)
    data = training_data(base, digits)
    while (assignment := study.next()) is not None:
        number = assignment["number"]
        recipe = Recipe.from_dict(assignment["recipe"])
        training = Training(recipe, data, Worker())
        writer = Writer(store / trial_folder(number), {}, active=True)
        writer.start(recipe, 0)
        go_on = True
        for epoch in training.run():
            writer.epoch(training, epoch.metrics)
            go_on, _ = study.report(number, epoch.index, epoch.metrics)
            if not go_on:
                break
        metrics, per_image = training.final() if go_on else ({}, {})
        if go_on:
            writer.values(per_image)
        writer.close()
        attrs = {"checkpoint": f"{store.uri}/{trial_folder(number)}/checkpoints/{checkpoint.name(training.epoch)}"}
        if go_on:
            study.complete(number, attrs, metrics)
        else:
            study.prune(number, attrs)
    states = [t.state for t in study._frozen()]
    assert states[:2] == [TrialState.COMPLETE] * 2
    assert TrialState.PRUNED in states
    return folder


@pytest.fixture
def folder(original, tmp_path) -> Path:
    """A copy of the sweep, to be damaged."""
    return Path(shutil.copytree(original, tmp_path / "s"))


def pruned(folder: Path) -> int:
    study = Location.of_file(folder / "study.sqlite").load("s")
    assert study is not None
    return next(t.number for t in study.trials if t.state == TrialState.PRUNED)


def findings(folder: Path | str) -> list[str]:
    return [str(finding) for finding in findings_of(str(folder)) if not finding.note]


def about_the_sweep(store: Store) -> list[str]:
    return [text for text in findings(store.uri) if text.startswith("sweep: ")]


def notes(folder: Path) -> list[str]:
    return [str(finding) for finding in findings_of(str(folder)) if finding.note]


def sql(folder: Path, statement: str, *values: object) -> None:
    with contextlib.closing(sqlite3.connect(folder / "study.sqlite")) as database, database:
        assert database.execute(statement, values).rowcount > 0


OF = "trial_id = (SELECT trial_id FROM trials WHERE number = ?)"


def attribute(folder: Path, number: int, key: str, change: Callable[[object], object]) -> None:
    """Changes one attribute of a trial in the study."""
    where = f"{OF} AND key = ?"
    with contextlib.closing(sqlite3.connect(folder / "study.sqlite")) as database:
        query = f"SELECT value_json FROM trial_user_attributes WHERE {where}"
        (text,) = database.execute(query, (number, key)).fetchone()
    changed = json.dumps(change(json.loads(text)))
    sql(folder, f"UPDATE trial_user_attributes SET value_json = ? WHERE {where}", changed, number, key)


def edit(path: Path, change: Callable[[bytes], bytes]) -> None:
    path.write_bytes(change(path.read_bytes()))


def lines(folder: Path, number: int, change: Callable[[list[bytes]], list[bytes]]) -> None:
    edit(folder / trial_folder(number) / "metrics.jsonl", lambda data: b"".join(change(data.splitlines(True))))


def epoch(folder: Path, number: int, at: int) -> Path:
    return folder / trial_folder(number) / "checkpoints" / checkpoint.name(at)


def flip(at: float) -> Callable[[bytes], bytes]:
    """Flips a bit, at a share of the file's length."""

    def change(data: bytes) -> bytes:
        place = int(at * len(data))
        return data[:place] + bytes([data[place] ^ 4]) + data[place + 1 :]

    return change


def rerun(folder: Path) -> None:
    """What the study of a driver looks like that handed one suggestion out under two numbers."""
    for table, key in (("trial_params", "param_name"), ("trial_user_attributes", "key")):
        column = {"trial_params": "param_value", "trial_user_attributes": "value_json"}[table]
        only = "" if table == "trial_params" else "AND key = 'recipe'"
        source = f"SELECT b.{column} FROM {table} b JOIN trials s USING (trial_id) WHERE s.number = 2"
        sql(
            folder,
            f"UPDATE {table} AS a SET {column} = ({source} AND b.{key} = a.{key}) WHERE {OF} {only}",
            3,
        )


def renumber(folder: Path, number: int) -> None:
    sql(folder, "UPDATE trials SET number = 9 WHERE number = ?", number)


def array(folder: Path, number: int) -> None:
    path = folder / trial_folder(number) / "validation.npz"
    with np.load(path) as arrays:
        changed = {name: values + (name == "corrupted_nll") for name, values in arrays.items()}
    np.savez_compressed(path, **changed)


STATE = "UPDATE trials SET state = ? WHERE number = ?"
VALUE = f"UPDATE trial_intermediate_values SET intermediate_value = 1.5 WHERE step = 1 AND {OF}"
DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    # the study
    "left running": (lambda f: sql(f, STATE, "RUNNING", 2), "trial 2: is left running"),
    "value lost": (
        lambda f: sql(f, f"DELETE FROM trial_intermediate_values WHERE step = 1 AND {OF}", 0),
        "trial 0: has an answer of the pruner, but no value, of epoch 1",
    ),
    "answer lost": (
        lambda f: sql(f, f"DELETE FROM trial_user_attributes WHERE key = 'epoch_1' AND {OF}", 0),
        "trial 0: has no value of epoch 1 in the study",
    ),
    "last answer lost": (
        lambda f: sql(f, f"DELETE FROM trial_user_attributes WHERE key = 'epoch_2' AND {OF}", 0),
        "trial 0: is complete with 2 of 3 epochs",
    ),
    "surplus value": (
        lambda f: sql(f, f"UPDATE trial_intermediate_values SET step = 7 WHERE step = 2 AND {OF}", 0),
        "trial 0: has a value, but no answer of the pruner, of epoch 7",
    ),
    "two values": (lambda f: sql(f, VALUE, 0), "trial 0: has two different values of epoch 1"),
    "value changed": (
        lambda f: (
            sql(f, VALUE, 0),
            attribute(f, 0, "epoch_1", lambda a: {**a, "values": [1.5]}),  # type: ignore[dict-item]
        ),
        "trial 0: metrics.jsonl and the study differ in epoch 1",
    ),
    "parameter changed": (
        lambda f: sql(f, f"UPDATE trial_params SET param_value = 0.01 WHERE param_name = 'lr' AND {OF}", 2),
        "trial 2: has another recipe than its parameters say",
    ),
    "parameter lost": (
        lambda f: sql(f, f"DELETE FROM trial_params WHERE param_name = 'lr' AND {OF}", 2),
        "trial 2: has other parameters than the search space",
    ),
    "recipe lost": (
        lambda f: sql(f, f"DELETE FROM trial_user_attributes WHERE key = 'recipe' AND {OF}", 2),
        "trial 2: has no recipe in the study",
    ),
    "recipe damaged": (
        lambda f: attribute(f, 2, "recipe", lambda r: {**r, "sed": 1}),  # type: ignore[dict-item]
        "trial 2: has a damaged recipe in the study: Unknown recipe key 'sed'",
    ),
    "run twice": (rerun, "trial 3: has the recipe and seed of trial 2: it ran twice"),
    "number lost": (lambda f: renumber(f, 1), "sweep: the study lacks trial 1"),
    "reference twice": (
        lambda f: attribute(f, 1, "reference", lambda _: "paper"),
        "sweep: the reference 'paper' stands in the study 2 times",
    ),
    "pruned without an answer": (
        lambda f: sql(f, STATE, "PRUNED", 0),
        "trial 0: is pruned, but the pruner's stored answer to its last epoch is to go on",
    ),
    "complete against the answer": (
        lambda f: attribute(f, 0, "epoch_2", lambda a: {**a, "go_on": False}),  # type: ignore[dict-item]
        "trial 0: is complete, but the pruner's stored answer to epoch 2 is to stop",
    ),
    "trained on": (
        lambda f: attribute(f, 0, "epoch_0", lambda a: {**a, "go_on": False}),  # type: ignore[dict-item]
        "trial 0: trained on after the pruner had stopped it at epoch 0",
    ),
    "epochs miscounted": (
        lambda f: attribute(f, 0, "epochs_done", lambda _: 2),
        "trial 0: says 2 epochs were done, but the study has 3",
    ),
    "failed for nothing": (lambda f: sql(f, STATE, "FAIL", 0), "trial 0: failed without a known reason: None"),
    "another checkpoint named": (
        lambda f: attribute(f, 0, "checkpoint", lambda p: str(p).replace("0003", "0002")),
        "trial 0: names the checkpoint",
    ),
    "study missing": (lambda f: (f / "study.sqlite").unlink(), "sweep: study.sqlite is missing"),
    "study emptied": (lambda f: (f / "study.sqlite").write_bytes(b""), "sweep: study.sqlite holds no study named 's'"),
    "study cut": (
        lambda f: os.truncate(f / "study.sqlite", (f / "study.sqlite").stat().st_size // 2),
        "sweep: study.sqlite is damaged",
    ),
    "study overwritten": (
        lambda f: edit(f / "study.sqlite", lambda d: b"\0" * 4096 + d[4096:]),
        "sweep: study.sqlite is damaged",
    ),
    "study damaged inside": (
        lambda f: sql(f, f"UPDATE trial_user_attributes SET value_json = '[1,' WHERE key = 'recipe' AND {OF}", 0),
        "sweep: study.sqlite is damaged",
    ),
    # sweep.json
    "sweep.json missing": (lambda f: (f / "sweep.json").unlink(), "sweep: sweep.json is missing"),
    "sweep.json cut": (lambda f: edit(f / "sweep.json", lambda d: d[:-20]), "sweep: sweep.json is damaged"),
    "sweep.json of another": (
        lambda f: edit(f / "sweep.json", lambda d: json.dumps({**json.loads(d), "seed": 1, "space": {}}).encode()),
        "sweep: sweep.json and the study differ in space, seed",
    ),
    # files of trials
    "recipe.json missing": (lambda f: (f / "trials/00002/recipe.json").unlink(), "trial 2: recipe.json is missing"),
    "recipe.json cut": (
        lambda f: edit(f / "trials/00002/recipe.json", lambda d: d[:50]),
        "trial 2: recipe.json is damaged",
    ),
    "recipe.json of another": (
        lambda f: shutil.copy(f / "trials/00003/recipe.json", f / "trials/00002"),
        "trial 2: recipe.json is of another recipe",
    ),
    "metrics missing": (
        lambda f: (f / "trials/00000/metrics.jsonl").unlink(),
        "trial 0: metrics.jsonl is missing",
    ),
    "metrics: line cut": (
        lambda f: lines(f, 0, lambda x: [*x[:2], x[2][:30]]),
        "trial 0: line 3 of metrics.jsonl is damaged",
    ),
    "metrics: last line lost": (
        lambda f: lines(f, 0, lambda x: x[:2]),
        "trial 0: epoch 2 is missing in metrics.jsonl",
    ),
    "metrics: first line lost": (
        lambda f: lines(f, 0, lambda x: x[1:]),
        "trial 0: epoch 0 is missing in metrics.jsonl",
    ),
    "metrics: doubled": (
        lambda f: lines(f, 0, lambda x: [x[0], x[1], x[1], x[2]]),
        "trial 0: epoch 1 is doubled in metrics.jsonl",
    ),
    "metrics: disorder": (
        lambda f: lines(f, 0, lambda x: [x[1], x[0], x[2]]),
        "trial 0: the epochs in metrics.jsonl are out of order",
    ),
    "metrics: surplus": (
        lambda f: lines(f, 0, lambda x: [*x, x[2].replace(b'"epoch": 2', b'"epoch": 3')]),
        "trial 0: metrics.jsonl has epoch 3, which the study does not know",
    ),
    "validation missing": (
        lambda f: (f / "trials/00000/validation.npz").unlink(),
        "trial 0: validation.npz is missing",
    ),
    "validation damaged": (
        lambda f: edit(f / "trials/00000/validation.npz", lambda d: d[: len(d) // 2]),
        "trial 0: validation.npz is damaged",
    ),
    "validation of another": (lambda f: array(f, 0), "trial 0: validation.npz and the study differ in corrupted_nll"),
    "checkpoint missing": (
        lambda f: shutil.rmtree(epoch(f, 0, 3)),
        "trial 0: its checkpoint epoch-0003 is missing",
    ),
    "checkpoint of another epoch": (
        lambda f: (shutil.rmtree(epoch(f, 0, 3)), shutil.copytree(epoch(f, 0, 2), epoch(f, 0, 3))),
        "trial 0: its checkpoint epoch-0003 is that of epoch-0002",
    ),
    "checkpoint of another trial": (
        lambda f: (shutil.rmtree(epoch(f, 0, 3)), shutil.copytree(epoch(f, 1, 3), epoch(f, 0, 3))),
        "trial 0: its checkpoint epoch-0003 is of another recipe",
    ),
    "older checkpoint damaged": (
        lambda f: edit(epoch(f, 0, 2) / "model.safetensors", flip(0.5)),
        "trial 0: its checkpoint epoch-0002 is damaged",
    ),
    "foreign trial": (
        lambda f: shutil.copytree(f / "trials/00002", f / "trials/00077"),
        "sweep: there is a folder, but nothing in the study, of trial 77",
    ),
}
FILES = ("model.safetensors", "optimizer.safetensors", "average.safetensors", "state.json", checkpoint.MANIFEST)
WAYS: dict[str, Callable[[bytes], bytes]] = {
    "flipped": flip(0.3),
    "first": flip(0),
    "last": flip(0.9999999),
    "cut": lambda data: data[:-1],
    "emptied": lambda data: b"",
}


def test_no_alarm_about_a_sound_sweep(original, capsys):
    before = {p: p.stat().st_mtime_ns for p in original.rglob("*")}
    assert findings_of(str(original)) == []
    assert main([str(original), str(original)]) == 0
    out = capsys.readouterr().out.splitlines()
    assert len(out) == 2
    assert out[0].startswith(f"{original}: sound; 5 trials (")
    assert {p: p.stat().st_mtime_ns for p in original.rglob("*")} == before  # nothing is written


def test_a_sweep_may_be_moved(folder, tmp_path):
    shutil.move(folder, tmp_path / "elsewhere")
    assert findings_of(str(tmp_path / "elsewhere")) == []


@pytest.mark.parametrize("name", DAMAGES)
def test_damage_is_found_and_named(name, folder):
    damage, says = DAMAGES[name]
    damage(folder)
    found = findings(folder)
    assert any(text.startswith(says) for text in found), found


def test_a_damaged_or_incomplete_checkpoint(folder):
    number = pruned(folder)
    last = len((folder / trial_folder(number) / "metrics.jsonl").read_bytes().splitlines())
    for file in FILES:
        path = epoch(folder, number, last) / file
        good = path.read_bytes()
        for way, change in WAYS.items():
            path.write_bytes(change(good))
            (found,) = findings(folder)
            assert found.startswith(f"trial {number}: its checkpoint epoch-000{last} is damaged: "), (file, way)
        path.unlink()
        (found,) = findings(folder)
        assert found.startswith(f"trial {number}: its checkpoint epoch-000{last} is damaged: "), file
        path.write_bytes(good)
    assert findings(folder) == []


def test_no_flipped_bit_of_the_study_breaks_the_checker(folder):
    """It finds something or, where the bit means nothing, does not; but it never ends in the middle."""
    shutil.rmtree(folder / "trials")
    good, rand = (folder / "study.sqlite").read_bytes(), random.Random(0)
    texts = [m.start() for m in re.finditer(rb"recipe|epoch_|go_on|sweep|[0-9]\.[0-9]{6}", good)]
    for number in range(60):
        place = rand.choice(texts) + rand.randrange(9) if number % 2 else rand.randrange(len(good))
        (folder / "study.sqlite").write_bytes(flip((place + 0.5) / len(good))(good))
        with contextlib.suppress(MollifyError):
            assert all(str(finding).isprintable() for finding in findings_of(str(folder)))


def test_one_damage_is_one_line_and_ends_the_command_with_1(folder, capsys):
    lines(folder, 0, lambda x: x[:2])
    assert main([str(folder)]) == 1
    finding, verdict = capsys.readouterr().out.splitlines()
    assert finding == "trial 0: epoch 2 is missing in metrics.jsonl"
    assert verdict.startswith(f"{folder}: 1 finding; 5 trials (")


def test_what_a_killed_process_leaves_is_only_noted(folder):
    shutil.copytree(epoch(folder, 0, 2), epoch(folder, 0, 2).with_name("bad-epoch-0001"))
    shutil.copytree(epoch(folder, 0, 2), epoch(folder, 0, 1))
    (epoch(folder, 0, 1) / checkpoint.MANIFEST).unlink()
    (folder / "trials/00000/metrics.jsonl.4711.tmp").write_bytes(b"{")
    assert findings(folder) == []
    assert notes(folder) == [
        "sweep: note: trials/00000/metrics.jsonl.4711.tmp is a draft that a killed process left",
        "trial 0: note: the damaged checkpoint bad-epoch-0001 was set aside",
        "trial 0: note: the checkpoint epoch-0001 is unfinished: a killed process left it",
    ]


def test_two_drivers_on_one_trial_leave_a_whole_checkpoint_of_another_recipe(folder):
    """The second one finds the first one's checkpoint in its way, and sets it aside."""
    shutil.copytree(epoch(folder, 1, 3), folder / trial_folder(0) / "checkpoints/bad-epoch-0003")
    says = "bad-epoch-0003 is of another recipe: two drivers have trained it, or its study was lost"
    assert findings(folder) == [f"trial 0: {says}"]


def test_values_of_images_that_only_judge_are_not_held_against_the_trials(folder):
    array(folder, 0)
    sweep = Description.from_json((folder / "sweep.json").read_text())
    study = Location.of_file(folder / "study.sqlite").load("s")
    assert study is not None
    trial = study.trials[0]
    for fraction, said in ((0.0, True), (0.5, False)):
        trial.user_attrs["recipe"]["data"]["judging_fraction"] = fraction
        found: list[Finding] = []
        TrialCheck(Store(str(folder)), sweep, trial, {}, found).check(driven=False)
        assert any("validation.npz" in finding.message for finding in found) == said


def test_a_trial_may_run_while_a_driver_holds_the_sweep(folder):
    sql(folder, STATE, "RUNNING", 4)
    (folder / "trials/00004/recipe.json.1.tmp").write_bytes(b"")
    shutil.rmtree(folder / "trials/00004/checkpoints")
    with open(folder / "driver.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        lock.write("4711")
        lock.flush()
        assert findings(folder) == []
        assert notes(folder)[0].startswith("sweep: note: process 4711 on ")
        assert notes(folder)[1].startswith("trial 4: note: is running, ")
    assert findings(folder) == ["trial 4: is left running, and no driver on this machine holds the sweep"]


def test_a_killed_trial_may_be_between_two_writes(folder):
    """The value is told before the pruner's answer to it, and files may be ahead of both or behind."""
    sql(folder, STATE, "RUNNING", 0)
    sql(folder, f"DELETE FROM trial_user_attributes WHERE key = 'epoch_2' AND {OF}", 0)
    (left,) = findings(folder)
    assert left.startswith("trial 0: is left running")
    lines(folder, 0, lambda x: x[:1])
    assert findings(folder) == [left]
    sql(folder, STATE, "WAITING", 0)
    assert notes(folder) == ["trial 0: note: has not been started"]


@pytest.mark.parametrize(
    ("sampler", "says"), [("gp", "note: {}: it was suggested twice"), ("grid", "{}: it ran twice")]
)
def test_some_samplers_may_suggest_a_recipe_again(sampler, says, folder):
    rerun(folder)
    change = "UPDATE study_user_attributes SET value_json = json_set(value_json, '$.sampler', ?) WHERE key = 'sweep'"
    sql(folder, change, sampler)
    message = says.format("has the recipe and seed of trial 2")
    assert f"trial 3: {message}" in findings(folder) + notes(folder)


def test_a_study_that_lives_elsewhere(folder, tmp_path, capsys):
    edit(
        folder / "sweep.json",
        lambda d: json.dumps({**json.loads(d), "study_url": "postgresql://me:***@host/db"}).encode(),
    )
    shutil.move(folder / "study.sqlite", tmp_path / "own.sqlite")
    assert main([str(folder)]) == 2
    assert "at postgresql://me:***@host/db; give its address by --study-url" in capsys.readouterr().err
    assert main([str(folder), "--study-url", f"sqlite:///{tmp_path}/own.sqlite"]) == 0
    assert main([str(folder), "--study-url", f"sqlite:///{tmp_path}/none.sqlite"]) == 2
    assert "no such file" in capsys.readouterr().err
    assert not (tmp_path / "none.sqlite").exists()


@pytest.mark.parametrize(
    "address",
    [
        "/a?b#c/[red]/{folder}/checkpoints/{name}",
        "s3://b/x/{folder}/checkpoints/{name}",
        "s3://b/x/{folder}/checkpoints/{name}?endpoint_override=127.0.0.1:5555&scheme=http",
        "s3://b/x/{folder}?endpoint_override=127.0.0.1:5555/checkpoints/{name}",  # as 0.1 joined them
    ],
)
def test_a_checkpoint_is_where_its_address_says(address, folder):
    def elsewhere(path: object) -> str:
        *_, trials, number, _, name = str(path).split("/")
        return address.format(folder=f"{trials}/{number}", name=name)

    attribute(folder, 0, "checkpoint", elsewhere)
    assert findings(folder) == []


@pytest.mark.parametrize(
    "url", ["postgresql://me:Canary@127.0.0.1:1/db", "postgresql://me@127.0.0.1:1/db?password=Canary"]
)
def test_a_password_that_a_file_holds_is_not_printed(url, folder, tmp_path, capsys):
    edit(folder / "sweep.json", lambda d: json.dumps({**json.loads(d), "study_url": url}).encode())
    shutil.move(folder / "study.sqlite", tmp_path / "own.sqlite")
    main([str(folder)])
    said = "".join(capsys.readouterr())
    assert "postgresql://me" in said
    assert "Canary" not in said


def test_bad_input(tmp_path, capsys):
    with pytest.raises(ConfigError, match="Expected a sweep"):
        findings_of(str(tmp_path))
    for argv in ([], [str(tmp_path)], [str(tmp_path / "nothing")], ["ftp://x/y"], [str(tmp_path), "--study", "x"]):
        assert main(argv) == 2
        err = capsys.readouterr().err
        assert err.startswith("error: ")
        assert err.count("\n") == 1


def test_help_teaches(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["--help"])
    assert stop.value.code == 0
    out = capsys.readouterr().out
    assert "python sweeps/check.py s3://" in out
    assert "Exit code: 0 sound" in out


def test_in_object_storage(folder, tmp_path):
    """The live study beside the driver is the truth; without it, the snapshot; and a snapshot must not be behind."""
    with moto():
        store = Store("s3://bucket/some/s")
        live = f"sqlite:///{folder}/study.sqlite"
        edit(folder / "sweep.json", lambda d: json.dumps({**json.loads(d), "storage": store.uri}).encode())
        store.upload(folder)
        assert findings(store.uri) == []
        (folder / "study.sqlite").rename(tmp_path / "live.sqlite")
        assert findings(store.uri) == []

        store = Store("s3://bucket/other/s")  # the study alone: what its trials lack is none of this test's business
        description = {**json.loads((folder / "sweep.json").read_bytes()), "study_url": live}
        store.write("sweep.json", json.dumps(description).encode())
        assert about_the_sweep(store) == ["sweep: no snapshot of the study is on storage: study.sqlite is missing"]
        shutil.copy(tmp_path / "live.sqlite", folder / "study.sqlite")
        sql(folder, STATE, "RUNNING", 3)
        store.write("study.sqlite", (folder / "study.sqlite").read_bytes())
        assert about_the_sweep(store) == []
        sql(folder, STATE, "PRUNED", 3)
        behind = "sweep: the snapshot of the study on storage is behind: it lacks the end of trial 3"
        assert about_the_sweep(store) == [behind]
        attribute(folder, 4, "recipe", lambda recipe: {**recipe, "seed": 7})
        found = about_the_sweep(store)
        assert found[0] == "sweep: the study and its snapshot on storage have two recipes of trial 4: two drivers ran"
        store.write("study.sqlite", b"nonsense")
        (found,) = about_the_sweep(store)
        assert found.startswith("sweep: snapshot.sqlite is damaged")
        (folder / "study.sqlite").unlink()
        assert about_the_sweep(store) == [found]
