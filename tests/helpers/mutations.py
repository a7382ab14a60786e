"""Documents with one thing changed, as hypothesis draws them: JSON of any shape, YAML text, and a study's database."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

_RAW = {  # what `json.dumps` does not write
    "@huge@": "1e400",
    "@digits@": "9" * 400,
    "@deep@": "[" * 100_000 + "]" * 100_000,
    "@nested@": '{"a":' * 300 + "1" + "}" * 300,
    "@same@": '{"a": 1, "a": 2}',
    "@bad@": "x'",
}
VALUES: list[Any] = [
    *(None, True, False, 0, 1, -1, 2, 3, 2**31, 2**63, -(2**63), 10**30, -(10**30)),
    *(0.5, -0.5, 1e-320, 1e308, -1e308, float("nan"), float("inf"), -float("inf")),
    *("", "x", "1", "1e-3", "a/b", "../../x", "[/]", "\x1b[31mred", "\0", "\ud800", "\u202e", "x" * 5000, "é" * 300),
    *([], [1], [[]], ["x"], [None], [1.5, "x"], {}, {"a": 1}, {"": {}}, [[[[[[]]]]]], list(range(200))),
    *_RAW,
]
_WORDS = ["name", "format", "epoch", "values", "recipe", "seed", "space", "x", "", "data", "optim", "low", "choices"]


def _places(tree: Any, path: tuple = ()) -> list[tuple]:
    below = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    return [path, *(place for key, item in below for place in _places(item, (*path, key)))]


def _written(tree: Any) -> bytes:
    text = json.dumps(tree)
    for word, raw in _RAW.items():
        text = text.replace(f'"{word}"', raw)
    return text.encode()


@st.composite
def json_bytes(draw: st.DrawFn, text: bytes | str) -> bytes:
    """A JSON document with one node of another type, size or depth, renamed, removed or added; or its bytes damaged."""
    tree = json.loads(text)
    how = draw(st.sampled_from(["value", "value", "value", "value", "remove", "rename", "add", "bytes"]))
    if how == "bytes":
        return draw(damaged(text if isinstance(text, bytes) else text.encode()))
    path = draw(st.sampled_from(_places(tree)))
    value = draw(st.sampled_from(VALUES))
    if not path:
        return _written(value)
    parent = tree
    for key in path[:-1]:
        parent = parent[key]
    if how == "value":
        parent[path[-1]] = value
    elif how == "remove":
        del parent[path[-1]]
    elif isinstance(parent, list):
        parent.insert(path[-1], value)
    elif how == "rename":
        parent[draw(st.sampled_from(_WORDS))] = parent.pop(path[-1])
    else:
        parent[draw(st.sampled_from(_WORDS))] = value
    return _written(tree)


@st.composite
def damaged(draw: st.DrawFn, data: bytes) -> bytes:
    """Bytes with a part cut, doubled or replaced."""
    start = draw(st.integers(0, len(data)))
    end = draw(st.integers(start, min(len(data), start + 40)))
    new = draw(
        st.sampled_from([b"", b"\0", b"\xff", b"\xef\xbb\xbf", b"[" * 2000, b"{", b'"', b"1", b"e9", b"\n", b":"])
    )
    return draw(st.sampled_from([data[:start] + new + data[end:], data[:start], data[start:], b"\xef\xbb\xbf" + data]))


_YAML = (
    *(
        "- ",
        ": ",
        "? ",
        "[",
        "]",
        "{",
        "}",
        "&a ",
        "*a",
        "!x ",
        "!!python/name:os.system ",
        "!!set ",
        "|",
        ">",
        "#",
        "%",
    ),
    *("<<: *a", "---\n", "...\n", "1e-3", "off", "~", "0o17", "0x1F", ".nan", ".inf", "1e400", "9" * 400, "'", '"'),
    *("\t", "\n", "\0", "\ufeff", "\x85", "\ud7ff", "[" * 3000, "{a: " * 3000, "- " * 3000, "lr: 1\n", "x" * 2000),
)


@st.composite
def yaml_text(draw: st.DrawFn, text: str) -> bytes:
    """YAML with up to three parts of its text replaced by what means something in YAML, or lines doubled."""
    for _ in range(draw(st.integers(1, 3))):
        start = draw(st.integers(0, len(text)))
        end = draw(st.integers(start, min(len(text), start + 12)))
        text = text[:start] + draw(st.sampled_from(_YAML)) + text[end:]
    if draw(st.booleans()):
        lines = text.splitlines(keepends=True)
        lines.insert(draw(st.integers(0, len(lines))), draw(st.sampled_from(lines or [""])))
        text = "".join(lines)
    return text.encode("utf-8", "surrogatepass")


_CELLS: list[Any] = [
    None,
    -1,
    0,
    7,
    10**12,
    0.5,
    1e308,
    float("inf"),
    "",
    "x",
    "COMPLETE",
    "FAIL",
    "RUNNING",
    "WAITING",
]
_CELLS += ["PRUNED", "INF_POS", "NAN", "MAXIMIZE", b"\xff\x00", "2026-13-45", "0001-01-01 00:00:00.000000", "x" * 3000]
_SKIPPED = ("sqlite_sequence",)


@st.composite
def study_change(draw: st.DrawFn, database: Path) -> tuple[str, tuple]:
    """A statement that changes, doubles or removes one row of a study's database; JSON in it by one node."""
    with closing(sqlite3.connect(database)) as study:
        names = [name for (name,) in study.execute("SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY name")]
        tables = [n for n in names if n not in _SKIPPED and study.execute(f"SELECT count(*) FROM {n}").fetchone()[0]]
        # Attributes say the most, so that they are drawn the most.
        table = draw(st.sampled_from([*tables, *[n for n in tables if n.endswith("attributes")] * 3]))
        columns = [row[1] for row in study.execute(f"PRAGMA table_info({table})")]
        rows = study.execute(f"SELECT rowid, * FROM {table} ORDER BY rowid").fetchall()
    row = draw(st.sampled_from(rows))
    if draw(st.integers(0, 9)) == 0:
        return f"DELETE FROM {table} WHERE rowid = ?", (row[0],)
    index = draw(st.integers(0, len(columns) - 1))
    if "value_json" in columns and draw(st.booleans()):
        index = columns.index("value_json")
    column, value = columns[index], row[index + 1]
    if column.endswith("json") and draw(st.integers(0, 4)):
        new: Any = draw(json_bytes(value)).decode("utf-8", "replace")
    elif column == "key" and draw(st.booleans()):
        new = draw(st.sampled_from(["epoch_0", "epoch_7", "recipe", "number", "stopped", "sweep", "driver", "metrics"]))
    else:
        new = draw(st.sampled_from(_CELLS))
    return f'UPDATE {table} SET "{column}" = ? WHERE rowid = ?', (new, row[0])


def apply(database: Path, change: tuple[str, tuple]) -> bool:
    """Applies it; False where the database itself refuses."""
    try:
        with closing(sqlite3.connect(database)) as study:
            study.execute("PRAGMA synchronous = OFF")
            study.execute(*change)
            study.commit()
    except sqlite3.Error:
        return False
    return True


def tried(act: Callable[[Any, Path], object], strategy: st.SearchStrategy[Any], examples: int, folder: Path) -> None:
    """Acts on so many examples, the same ones at every run."""

    @settings(max_examples=examples, deadline=None, derandomize=True, database=None)
    @given(strategy)
    def run(drawn: Any) -> None:
        act(drawn, folder)

    run()
