"""A kept sweep in which one thing is changed: it is read, or one sentence says why not, and hides no other sweep."""

from __future__ import annotations

import json
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from hypothesis import strategies as st

import check
import status
from hostile import read, told
from mollify_core.errors import DataError
from mollify_core.recipe import Recipe
from mollify_sweeps.evaluation import cells, models, rows
from mollify_sweeps.inspection.check import Check
from mollify_sweeps.inspection.state import look
from mollify_sweeps.inspection.status import show_sweep
from mollify_sweeps.storage.store import Store
from mollify_sweeps.study import claim, space
from mollify_sweeps.study.database import Location, check_same, finished, quiet_optuna
from mollify_sweeps.study.description import Description, description_of
from mollify_sweeps.study.results import Results
from mollify_sweeps.study.soundness import metrics_of
from mollify_sweeps.trial.files import Writer
from mutations import apply, json_bytes, study_change, tried, yaml_text
from places import FIXTURES

SWEEPS = FIXTURES / "sweeps"
SWEEP = (SWEEPS / "finished/sweep.json").read_bytes()
LINE = (SWEEPS / "finished/trials/00000/metrics.jsonl").read_bytes().splitlines()[1]
OF = "trial_id = (SELECT trial_id FROM trials WHERE number = 0)"


@pytest.fixture
def kept(tmp_path: Path) -> Path:
    """A storage with both sweeps, which is not where they were made."""
    quiet_optuna()
    shutil.copytree(SWEEPS, tmp_path / "sweeps", ignore=shutil.ignore_patterns("*.md", "*.json.*", "unbroken.json"))
    return tmp_path / "sweeps"


def sql(place: Path, statement: str, *values: Any) -> None:
    with closing(sqlite3.connect(place / "study.sqlite")) as study:
        study.execute(statement, values)
        study.commit()


def attribute(place: Path, key: str, text: str) -> None:
    sql(place, f"UPDATE trial_user_attributes SET value_json = ? WHERE key = ? AND {OF}", text, key)


def described(place: Path, **changes: Any) -> None:
    path = place / "sweep.json"
    path.write_text(json.dumps({**json.loads(path.read_bytes()), **changes}))


CHANGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "not JSON": (lambda f: (f / "sweep.json").write_text("{"), "to be JSON: it is not valid JSON"),
    "empty": (lambda f: (f / "sweep.json").write_bytes(b""), "to be JSON: expected a document, but it is empty"),
    "brackets": (lambda f: (f / "sweep.json").write_text("[" * 100_000), "at most 64 values inside each other"),
    "not UTF-8": (lambda f: (f / "sweep.json").write_bytes(b"\xff{}"), "UTF-8"),
    "no name": (lambda f: described(f, name=None), "`name` of a sweep's description to be a text"),
    "a list for a number": (lambda f: described(f, seed=[1]), "`seed` of a sweep's description to be a whole number"),
    "digits": (
        lambda f: (f / "sweep.json").write_bytes(SWEEP.replace(b'"seed": 0', b'"seed": ' + b"9" * 400)),
        "integers of at most 64 bits, but got one of 400 digits",
    ),
    "infinite": (
        lambda f: (f / "sweep.json").write_bytes(SWEEP.replace(b'"low": 0.003', b'"low": 1e400')),
        "`space.lr.low` of a sweep's description to be a number, but got inf",
    ),
    "base recipe": (lambda f: described(f, base_recipe={"optim": {"lr": []}}), "`lr` to be a number, but got []"),
    "objectives": (lambda f: described(f, objectives=["speed"]), "measures, as 'corrupted_nll', but got 'speed'"),
    "command": (lambda f: described(f, command=[1]), "`command[0]` of a sweep's description to be a text"),
    "created": (lambda f: described(f, created="yesterday"), "`created` of a sweep's description to be a time"),
    "trials": (lambda f: described(f, trials=10**12), "`trials` of a sweep's description"),
    "format": (lambda f: described(f, format=[]), "format 1 to 3, but got []"),
    "answer": (lambda f: attribute(f, "epoch_1", "3"), "`epoch_1` of trial 0 in the study to be a mapping, but got 3"),
    "answer's value": (
        lambda f: attribute(f, "epoch_1", '{"values": ["low"], "seconds": 1, "go_on": true}'),
        "`epoch_1.values[0]` of trial 0 in the study",
    ),
    "recipe": (lambda f: attribute(f, "recipe", "[1]"), "`recipe` of trial 0 in the study to be a mapping"),
    "reference": (lambda f: attribute(f, "reference", '["paper"]'), "`reference` of trial 0 in the study to be a text"),
    "metrics": (lambda f: attribute(f, "metrics", '{"a": null}'), "`metrics.a` of trial 0 in the study to be a number"),
    "attribute cut": (lambda f: attribute(f, "settings", "[1,"), "damaged"),
    "value lost": (lambda f: sql(f, "DELETE FROM trial_values"), "`values` of trial 0 in the study to be a list"),
    "value a text": (
        lambda f: sql(f, "UPDATE trial_values SET value = 'low'"),
        "`values[0]` of trial 0 in the study to be a number, but got 'low'",
    ),
    "state": (lambda f: sql(f, "UPDATE trials SET state = 'ASLEEP'"), "damaged"),
    "moment": (lambda f: sql(f, "UPDATE trials SET datetime_start = 'x'"), "damaged"),
    "early": (lambda f: sql(f, "UPDATE trials SET datetime_start = '0001-01-01 00:00:00.000000'"), "to be after 1980"),
    "number": (lambda f: sql(f, "UPDATE trials SET number = 'x' WHERE number = 0"), "damaged"),
    "distribution": (
        lambda f: sql(
            f, f"UPDATE trial_params SET distribution_json = replace(distribution_json, '0.25', '0.2') WHERE {OF}"
        ),
        "of trial 0 in the study to be drawn from",
    ),
    "parameter": (
        lambda f: sql(f, f"UPDATE trial_params SET param_value = 9 WHERE param_name = 'lr' AND {OF}"),
        "`lr` of trial 0 in the study to be in",
    ),
    "what it is": (
        lambda f: sql(f, "UPDATE study_user_attributes SET value_json = '[]' WHERE key = 'sweep'"),
        "Expected a sweep's description to be a mapping, but got list",
    ),
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_bad_sweep_is_a_row_a_finding_and_a_sentence(
    name: str, kept: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    change, says = CHANGES[name]
    change(kept / "finished")
    assert told(status.main, [str(kept), "--json"], tmp_path, Path("/tmp")) == 0
    bad, good = json.loads(capsys.readouterr().out)
    assert (bad["state"], good["state"], good["counts"]["complete"]) == ("unreadable", "stopped", 1)
    assert says in bad["problem"]
    assert told(status.main, [str(kept / "finished")], tmp_path, Path("/tmp")) == 2
    assert says in capsys.readouterr().err
    assert told(check.main, [str(kept / "finished")], tmp_path, Path("/tmp")) == 1
    assert says in capsys.readouterr().out


def test_a_folder_in_place_of_a_file(kept: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    for name in ("sweep.json", "trials/00001/recipe.json", "trials/00001/metrics.jsonl", "study.sqlite"):
        path = kept / "finished" / name
        path.rename(kept / "aside")
        path.mkdir()
        assert told(status.main, [str(kept)], tmp_path, Path("/tmp")) == 0
        assert "stopped" in capsys.readouterr().out
        assert told(check.main, [str(kept / "finished")], tmp_path, Path("/tmp")) in (1, 2)
        path.rmdir()
        (kept / "aside").rename(path)


def test_what_is_shown_of_a_sweep_is_neither_markup_nor_steers(kept: Path, capsys: pytest.CaptureFixture[str]) -> None:
    described(kept / "stopped", dataset="[/]\x1b[31m", network="[bold", host="[/x]")
    assert status.main([str(kept / "stopped")]) == 0
    assert status.main([str(kept)]) == 0
    out = capsys.readouterr().out
    assert r"[/]\x1b[31m, [bold" in out
    assert "\x1b" not in out


# ---- whatever one thing is changed


def _sweep_json(text: bytes, folder: Path) -> None:
    """Without its study, which takes most of the time."""
    place = folder / "alone"
    place.mkdir(exist_ok=True)
    (place / "sweep.json").write_bytes(text)
    store = Store(str(place))
    read(lambda: show_sweep(look(store)), folder, Path("/tmp"), Path("/dev/shm"))
    read(lambda: Check(str(place)), folder, Path("/tmp"), Path("/dev/shm"))


def _study(change: tuple[str, tuple], reader: str, folder: Path) -> None:
    place = folder / "finished"
    shutil.copyfile(SWEEPS / "finished/study.sqlite", place / "study.sqlite")
    if not apply(place / "study.sqlite", change):
        return

    def go_on() -> None:
        """What a continued search reads before its plan is shown."""
        study = Location.of_file(place / "study.sqlite").load("finished")
        if study is not None:
            check_same(study, Description.from_json(SWEEP))
            finished(study)
            description_of(study)

    def page() -> None:
        """What a report reads."""
        study = Location.of_file(place / "study.sqlite").load("finished")
        if study is not None:
            results = Results(study)
            for trial in results.trials:
                results.effective(trial)
            assert results.importances is not None

    readers: dict[str, Callable[[], object]] = {
        "status": lambda: show_sweep(look(Store(str(place)))),
        "check": lambda: Check(str(place)),
        "evaluate": lambda: models.find([str(place)], lambda text: None),
        "search": go_on,
        "report": page,
    }
    read(readers[reader], folder, Path("/tmp"), Path("/dev/shm"))


def _trial_file(name: str) -> Callable[[bytes, Path], None]:
    def act(text: bytes, folder: Path) -> None:
        trial = folder / "finished/trials/00000"
        before = (trial / name).read_bytes()
        (trial / name).write_bytes(text)
        try:
            if name == "recipe.json":
                read(lambda: Recipe.from_file(trial / name), folder)
            else:
                read(lambda: metrics_of(text, ["corrupted_nll"]), folder)
                writer = Writer(Store(str(trial)), {}, active=False)
                read(lambda: [entry["epoch"] for entry in writer.metrics()], folder)
        finally:
            (trial / name).write_bytes(before)

    return act


class _Board:
    """A study that a signature stands in, or a store."""

    def __init__(self, text: bytes) -> None:
        self.text = text
        self.root = self.uri = "s3://b/x"

    def read(self, name: str) -> bytes:
        return self.text


def _signature(text: bytes, folder: Path) -> None:
    read(lambda: claim.signer([claim.InStore(_Board(text))]))  # type: ignore[arg-type]


def _space(text: bytes, folder: Path) -> None:
    (folder / "space.yaml").write_bytes(text)
    read(lambda: space.load(folder / "space.yaml", Recipe(), 32), folder)


def _cell(text: bytes, folder: Path) -> None:
    (folder / "cells/d").mkdir(parents=True, exist_ok=True)
    (folder / "cells/d/clean.json").write_bytes(text)
    store = Store(str(folder))

    def action() -> None:
        found = cells._read(store, "d", "clean")
        if found is not None:
            assert {"model", *found, "source"} == set(rows.SCHEMA.names)

    read(action, folder)


SPACE = """\
# what is searched
lr: {low: 1e-3, high: 0.2, log: true}
max_noise: search
max_blur: [null, 4, 8.0]
beta_b:
- 1
- 2.5
spread: [all, others]
blur_power: 0.86
label: fixed
"""
SIGNED = json.dumps({"pid": 7, "host": "a", "folder": "/srv/s", "id": "0", "time": 1.7e9})
CELL = json.dumps(
    {
        **dict.fromkeys((n for n in rows.SCHEMA.names if n not in ("model", "source")), 0.5),
        **dict.fromkeys(("kind", "name", "group"), "clean"),
        **dict.fromkeys(("severity", "images"), 1),
        "bin_count": [1, 8],
        "class_images": [1, 0],
        **{name: [0.5, 1] for name in ("risk_curve", "ood_msp_roc", "ood_energy_roc")},
        **{name: [0.5, 1] for name in ("bin_accuracy", "bin_confidence", "class_error", "class_confidence")},
    }
)
KINDS: dict[str, tuple[Callable[[Any, Path], None], st.SearchStrategy]] = {
    "sweep.json": (_sweep_json, json_bytes(SWEEP)),
    "recipe.json": (
        _trial_file("recipe.json"),
        json_bytes((SWEEPS / "finished/trials/00000/recipe.json").read_bytes()),
    ),
    "metrics.jsonl": (_trial_file("metrics.jsonl"), json_bytes(LINE)),
    "driver.json": (_signature, json_bytes(SIGNED)),
    "a space file": (_space, yaml_text(SPACE)),
    "a kept cell": (_cell, json_bytes(CELL)),
    **{
        f"a study, read by {reader}": (
            lambda change, folder, reader=reader: _study(change, reader, folder),
            study_change(SWEEPS / "finished/study.sqlite"),
        )
        for reader in ("status", "check", "evaluate", "search", "report")
    },
}


def _try(kind: str, examples: int, folder: Path) -> None:
    act, strategy = KINDS[kind]

    tried(act, strategy, examples, folder)


def _quick(kind: str) -> int:
    return 10 if kind.startswith("a study") else 50  # of a study, 50 over its five readers


@pytest.mark.parametrize("kind", KINDS)
def test_one_thing_changed_is_read_or_one_sentence(kind: str, kept: Path) -> None:
    _try(kind, _quick(kind), kept)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("kind", KINDS)
def test_many_times_one_thing_changed(kind: str, kept: Path) -> None:
    _try(kind, 500 if kind.startswith("a study") else 2500, kept)


def test_an_evaluation_is_read_by_its_description(tmp_path: Path) -> None:
    import pyarrow.parquet as pq

    row = {"model": "m", "source": "test set", **json.loads(CELL)}
    row["class_confidence"] = row["class_error"] = [0.5, 0.5]
    good = {"dataset": "digits", "verified": True, "class_names": ["a", "b"], "models": {"m": {}}}
    table = rows.to_table([row], good)
    path = tmp_path / "evaluation.parquet"
    pq.write_table(table, path)
    assert rows.read(path)[1] == good
    for metadata, says in (
        (b"[" * 100_000, "inside each other"),
        (json.dumps({**good, "models": []}).encode(), "`models` of the metadata"),
        (json.dumps({**good, "class_names": ["a"]}).encode(), "1 classes"),
        (json.dumps({**good, "reference": "x"}).encode(), "the reference to be a model"),
        (json.dumps({**good, "dataset": 1}).encode(), "`dataset`"),
    ):
        pq.write_table(table.replace_schema_metadata({rows._KEY: metadata}), path)
        error = read(lambda: rows.read(path), tmp_path)
        assert isinstance(error, DataError)
        assert says in str(error)
    pq.write_table(table.drop_columns(["nll"]), path)
    assert "missing or too many are ['nll']" in str(read(lambda: rows.read(path), tmp_path))
