"""What the terminal shows, however narrow or simple it is: no digit is lost, nothing is silent."""

from __future__ import annotations

import io
import re
from typing import Any

import pytest
from rich.console import Console
from rich.table import Table

from mollify_core.foreign import clean
from mollify_sweeps.display.console import Terminal, styled, table
from mollify_sweeps.tracking.terminal import View

HEADER = ["validation", "best", "plain", "paper", "best - plain"]
ROWS = [["clean NLL", "2.177", "1.434", "2.177", "+0.7430"], ["corrupted top-5 error (%)", "25.98", "9.302", "26", "–"]]


@pytest.mark.parametrize("width", [16, 30, 40, 50, 60, 80, 200])
def test_a_table_loses_no_digit(width: int) -> None:
    file = io.StringIO()
    Console(file=file, width=width).print(table("Does it?", HEADER, ROWS))
    text = file.getvalue()
    lines = text.splitlines()
    assert max(map(len, lines)) <= width
    assert "…" not in text
    for row in ROWS:
        for name, number in zip(HEADER[1:], row[1:], strict=True):
            assert any(number in line for line in lines)
            assert width > 60 or any(name.partition(" - ")[0] in line for line in lines)


def test_a_terminal_that_cannot_move_gets_lines_as_a_pipe_does() -> None:
    status: dict[str, Any] = {
        "counts": {"COMPLETE": 1, "PRUNED": 0, "FAIL": 0},
        "trials": 5,
        "best": None,
        "live": [],
        "compared": {},
        "finished_seconds": [9.0],
    }
    written = []
    for terminal in (False, True):
        console = Console(file=io.StringIO(), width=80, force_terminal=terminal, _environ={"TERM": "dumb"})
        with View(console, name="s", objective="nll", concurrent=1, seconds_per_trial=None) as view:
            view.update(status)
        written.append(console.file.getvalue())  # type: ignore[attr-defined]
    assert written[0].startswith("1/5 trials, 0 pruned")
    assert written[1] == written[0]


@pytest.mark.parametrize(
    "hostile", ["\x1b[2J\x1b]0;title\x07", "[bold red]x[/]", "[/x]", "a:cat:b", "a\rb", "\u202etxt", "\x9b31m"]
)
def test_nothing_foreign_steers_the_terminal_or_is_markup(hostile: str) -> None:
    said = io.StringIO()
    console = Terminal(file=said, force_terminal=True, width=100)
    console.print(f"Sweep {hostile}")
    table = Table(title=hostile)
    table.add_column(hostile)
    table.add_row(hostile)
    console.print(table)
    console.print(styled("!", "yellow", hostile))
    out = re.sub(r"\x1b\[[\d;]*m", "", said.getvalue())  # rich's own colours
    assert out.count(clean(hostile)) >= 4
    assert out.replace("\n", "").isprintable()
