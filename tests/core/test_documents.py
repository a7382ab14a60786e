"""JSON and YAML are read by one reader: as people write them, within bounds, or it says why not in one sentence."""

from __future__ import annotations

import itertools
import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import strategies as st

from hostile import read, told
from mollify_core import checkpoint, documents, train
from mollify_core.classifier import Classifier
from mollify_core.documents import json_of, located, yaml_of
from mollify_core.errors import CheckpointError, ConfigError, DataError
from mollify_core.kinds import Flag, ListOf, MapOf, Maybe, Number, Record, Text, Whole, checked
from mollify_core.recipe import Recipe
from mutations import damaged, json_bytes, tried, yaml_text
from places import FIXTURES

TRIAL = FIXTURES / "sweeps/finished/trials/00000"
CHECKPOINT = TRIAL / "checkpoints/epoch-0003"
YAML = """\
# a recipe as people write it
method: mollification
label: coupled
data: &data {dataset: cifar10, augment: [flip, crop]}
mollify:
  p_clean: 0.25   # of them
  max_blur: null
  label_mode: "ls"
optim: {lr: 1e-3, nesterov: true, epochs: 10}
seed: 7
"""


@pytest.mark.parametrize(
    ("text", "value"),
    [
        *(("1e-3", 1e-3), ("1E5", 1e5), ("1.", 1.0), (".5", 0.5), ("+12", 12), ("-0", 0), ("-.inf", float("-inf"))),
        *(("0o17", 15), ("017", 17), ("0x1F", 31), ("1_000", "1_000"), ("1:30", "1:30"), ("0b11", "0b11")),
        *((word, word) for word in ("no", "No", "off", "OFF", "yes", "on", "y", "n", "2026-01-01", "<<", "=", "nUll")),
        *(("true", True), ("False", False), ("~", None), ("Null", None), ("", None), ("'1'", "1"), ('"no"', "no")),
        *(("!!str 5", "5"), ("!!float 3", 3.0), ("!!int '3'", 3), ("|\n  a\n  b\n", "a\nb\n")),
    ],
)
def test_scalars_mean_what_yaml_1_2_says(text: str, value: Any) -> None:
    tree, _ = yaml_of(f"a: {text}\nb: [1]")
    assert tree == {"a": value, "b": [1]}
    assert type(tree["a"]) is type(value)


def test_lines_are_known() -> None:
    assert yaml_of(YAML)[1]["mollify", "max_blur"] == 7
    assert yaml_of("a:\n- 1\n-\n  2\n")[1]["a", 1] == 4


_BOMB = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{chr(98 + i)}: &{chr(98 + i)} [{','.join(['*' + chr(97 + i)] * 9)}]\n" for i in range(9)
)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("a: 1\nb: 2\n'a': 3", "line 3: expected every name once, but 'a' stands on line 1 too"),
        ("x:\n  a: {b: 1,\n    b: 2}", "line 3: expected every name once, but 'b' stands on line 2 too"),
        (_BOMB, "at most 20,000 values"),
        ("a: &a [*a]", "line 1: an alias stands inside of what it stands for"),
        ("a: *b", "undefined alias"),
        ("[" * 100_000, "at most 64 values inside each other"),
        ("- " * 100_000, "at most 64 values inside each other"),
        ("{a: " * 50_000, "at most 64 values inside each other"),
        ("a: !!python/object/apply:os.system [ls]", "line 1: expected plain values, but got the tag"),
        ("a: !mine 1", "line 1: expected plain values, but got the tag '!mine'"),
        ("a: !!set {x}", "expected plain values"),
        ("a: !!int x", "line 1: expected a value of the tag"),
        ("1: a", "line 1: expected names that are text, but got 1"),
        ("? [1]\n: a", "line 1: expected names that are text"),
        ("a: 1\n---\na: 2", "line 2"),
        ("a: " + "9" * 400, "line 1: expected integers of at most 64 bits, but got one of 400 digits"),
        ("a: 0x" + "f" * 40, "64 bits"),
        ("", "it is empty"),
        ("\ufeff \n", "it is empty"),
        ("a: \0", "not valid YAML"),
        ('a: "\\0"', "without NUL characters"),
        (b"\xff\xfea", "in UTF-8, but byte 0 is not"),
        ("a: 1\n" * 60_000, "at most 262,144 bytes"),
    ],
    ids=itertools.count(),
)
def test_what_is_no_bounded_yaml_is_one_sentence(text: str | bytes, says: str) -> None:
    error = read(lambda: yaml_of(text))
    assert isinstance(error, DataError)
    assert says in str(error)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[" * 100_000, "at most 64 values inside each other"),
        ("[" * 900 + "]" * 900, "at most 64 values inside each other"),
        ('{"a": 1, "b": {"a": 1, "a": 2}}', "every name once, but 'a' stands twice"),
        ("9" * 400, "64 bits, but got one of 400 digits"),
        (str(10**30), "64 bits"),
        ('["\\u0000"]', "without NUL"),
        ('{"\\u0000": 1}', "without NUL"),
        (b"\xff\xfe{\x00}\x00", "in UTF-8"),
        ("", "it is empty"),
        ("{", "not valid JSON"),
        (b" " * (documents.MOST_BYTES + 1), "at most 8,388,608 bytes"),
    ],
    ids=itertools.count(),
)
def test_what_is_no_bounded_json_is_one_sentence(text: str | bytes, says: str) -> None:
    error = read(lambda: json_of(text))
    assert isinstance(error, DataError)
    assert says in str(error)
    assert json_of(b"\xef\xbb\xbf[1e400, -0, NaN]")[:2] == [float("inf"), 0]  # with a mark that editors write


def test_what_cannot_be_opened_is_one_sentence_too(tmp_path: Path) -> None:
    os.mkfifo(pipe := tmp_path / "pipe")  # nobody will ever write into it
    for path, says in (
        (tmp_path, "it is no file"),
        (pipe, "it is no file"),
        (tmp_path / "x.json", "No such file"),
        ("a\0b", "null byte"),
    ):
        error = read(lambda path=path: located(path, "recipe "), tmp_path)  # type: ignore[misc]
        assert str(error).startswith("Cannot read recipe ")
        assert says in str(error)


def test_values_are_held_against_what_was_said_of_them() -> None:
    kind = Record({"n": Whole(1, 9), "x": Maybe(Number(0, 1))}, {"of": MapOf(ListOf(Text(3), 1)), "f": Flag()})
    assert checked({"n": 1, "x": None, "of": {"a": ["b"]}, "new": 0}, kind, "it")
    for tree, says in (
        ([], "Expected it to be a mapping, but got []"),
        ({"n": 1}, "Expected it to hold `x`, but it does not"),
        ({"n": True, "x": 0}, "Expected `n` of it to be a whole number from 1 to 9, but got True"),
        ({"n": 10, "x": 0}, "but got 10"),
        ({"n": 1, "x": float("nan")}, "Expected `x` of it to be a number from 0 to 1 or null, but got nan"),
        ({"n": 1, "x": 10**400}, "but got 1000"),
        (
            {"n": 1, "x": 0, "of": {"a": ["b", "long"]}},
            "`of.a[1]` of it to be a text of at most 3 characters, but got 'long'",
        ),
        ({"n": 1, "x": 0, "of": {"a\x1b": []}}, r"Expected `of.a\x1b` of it to be a list of at least 1"),
        ({"n": 1, "x": 0, "f": 1}, "Expected `f` of it to be true or false, but got 1"),
    ):
        with pytest.raises(DataError) as error:
            checked(tree, kind, "it")
        assert says in str(error.value)


def test_a_recipe_is_read_as_people_write_it(tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    path.write_text(YAML)
    recipe = Recipe.from_file(path)
    assert (recipe.optim.lr, recipe.optim.nesterov, recipe.mollify.max_blur) == (1e-3, True, None)
    path.write_text("matching: {arm: off}\nformat: 1\n")
    assert Recipe.from_file(path).get("arm") == "off"
    path.write_text("seed: 1\nseed: 2\n")
    with pytest.raises(ConfigError, match="line 2: expected every name once, but 'seed' stands on line 1 too"):
        Recipe.from_file(path)


@pytest.mark.parametrize(
    ("tree", "says"),
    [
        ({"recipe": {}, "provenance": {"threads": "many"}}, "`provenance.threads` of it to be a whole number from 1"),
        ({"recipe": {}, "provenance": []}, "`provenance` of it to be a mapping"),
        ({"recipe": {}, "metrics": {"clean_nll": "low"}}, "`metrics.clean_nll` of it to be a number"),
        ({"recipe": []}, "Expected a recipe to be a mapping"),
        ({"optim": {"batch_size": 2**40}}, "`batch_size` to be at most 1048576"),
        ({"optim": {"epochs": 10**12}}, "`epochs` to be at most 1000000"),
        ({"data": {"image_size": 10**6}}, "`image_size` to be at least 8 and at most 2048"),
        ({"data": {"dataset": "x" * 2000}}, "`dataset` to be a name, but got 'xxx"),
        ({"x" * 2000: 1}, "Unknown recipe key 'xxx"),
        ({"format": True}, "format 1 or 2, but got format True"),
        ({"format": [1]}, "format 1 or 2, but got format [1]"),
    ],
    ids=itertools.count(),
)
def test_a_recipe_says_what_is_wrong_and_where(tree: Any, says: str, tmp_path: Path) -> None:
    path = tmp_path / "r.json"
    path.write_text(json.dumps(tree))
    error = read(lambda: Recipe.beside(path), tmp_path)
    assert isinstance(error, ConfigError)
    assert says in str(error)
    assert "r.json" in str(error)


def _resigned(state: bytes) -> dict[str, bytes]:
    """The files of a kept checkpoint with another state.json, under a manifest that says so."""
    files = {path.name: path.read_bytes() for path in CHECKPOINT.iterdir() if path.name != checkpoint.MANIFEST}
    files["state.json"] = state
    return {**files, checkpoint.MANIFEST: checkpoint._manifest(files)}


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"epoch": "3"}, "`epoch` of state.json to be a whole number"),
        ({"progress": [1]}, "`progress` of state.json to be a mapping"),
        ({"progress": {"step": 1, "losses": 3, "errors": 0, "seconds": 1}}, "`progress.losses` of state.json"),
        ({"optimizer": {"0.step": []}}, "`optimizer.0.step` of state.json to be a number"),
        ({"optimizer": {"x.step": 1}}, "damaged"),
        ({"meta": None}, "`meta` of state.json to be a mapping"),
        ({"meta": {"recipe": 3}}, "`meta.recipe` of state.json to be a mapping"),
    ],
)
def test_a_checkpoint_says_what_is_wrong_and_where(change: dict[str, Any], says: str) -> None:
    state = {**json.loads((CHECKPOINT / "state.json").read_bytes()), **change}
    files = _resigned(json.dumps(state).encode())
    error = read(lambda: checkpoint.from_files(files.__getitem__))
    assert isinstance(error, CheckpointError)
    assert says in str(error)


def test_a_checkpoint_that_lost_its_average_is_not_measured_without_it() -> None:
    """Its manifest without that file is one of the first checkpoints', which had none."""
    state = json.loads(STATE)
    state["meta"]["recipe"]["optim"]["ema"] = 0.9
    files = _resigned(json.dumps(state).encode())
    del files["average.safetensors"], files[checkpoint.MANIFEST]
    files[checkpoint.MANIFEST] = checkpoint._manifest(files)
    kept = checkpoint.from_files(files.__getitem__)
    with pytest.raises(CheckpointError, match="Expected the average of the weights"):
        Classifier.load(kept, 10, (1, 32, 32), (0.5,), (0.5,))


# ---- whatever one thing is changed

REPORT = (FIXTURES / "sweeps/finished/report/best_recipe.json").read_bytes()
RECIPE = (TRIAL / "recipe.json").read_bytes()
MANIFEST = (CHECKPOINT / "manifest.json").read_bytes()
STATE = (CHECKPOINT / "state.json").read_bytes()


def _train(text: bytes, name: str, folder: Path) -> None:
    """`train` up to where it has read the recipe: there is no such data set beside it."""
    path = folder / name
    path.write_bytes(text)
    argv = [str(path), "--data-dir", str(folder / "none"), "--out", str(folder / "out")]
    assert told(train.main, argv, folder) == 2


def _recipe(text: bytes, folder: Path) -> None:
    (folder / "r.json").write_bytes(text)
    read(lambda: Recipe.beside(folder / "r.json"), folder)


def _yaml(text: bytes, folder: Path) -> None:
    (folder / "r.yaml").write_bytes(text)
    read(lambda: Recipe.beside(folder / "r.yaml"), folder)


def _manifest(text: bytes, folder: Path) -> None:
    files = {**_resigned(STATE), checkpoint.MANIFEST: text}
    error = read(lambda: checkpoint.from_files(files.__getitem__))
    if error is None:  # the first ones had no average, and a manifest may be of one of these
        assert json_of(text)["files"].items() <= json_of(MANIFEST)["files"].items()


def _state(text: bytes, folder: Path) -> None:
    files = _resigned(text)

    def action() -> None:
        state = checkpoint.from_files(files.__getitem__)
        Recipe.from_dict(state.meta.get("recipe"))

    read(action)


KINDS = {
    "a report's recipe": (_recipe, json_bytes(REPORT)),
    "a recipe": (_recipe, json_bytes(RECIPE)),
    "a recipe in YAML": (_yaml, yaml_text(YAML)),
    "a manifest": (_manifest, st.one_of(json_bytes(MANIFEST), damaged(MANIFEST))),
    "a state": (_state, json_bytes(STATE)),
}


def _try(kind: str, examples: int, folder: Path) -> None:
    act, texts = KINDS[kind]

    tried(act, texts, examples, folder)


@pytest.mark.parametrize("kind", KINDS)
def test_one_thing_changed_is_read_or_one_sentence(kind: str, tmp_path: Path) -> None:
    _try(kind, 50, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_many_times_one_thing_changed(kind: str, tmp_path: Path) -> None:
    _try(kind, 2500, tmp_path)


@pytest.mark.parametrize(
    "text",
    [b"[" * 100_000, b"", b"\xff", b'{"recipe": {}, "provenance": {"threads": [1]}}', b"0"],
    ids=itertools.count(),
)
def test_train_says_it_and_ends_with_2(text: bytes, tmp_path: Path) -> None:
    _train(text, "r.json", tmp_path)
    _train(text, "r.yaml", tmp_path)
