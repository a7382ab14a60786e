"""What the terminal shows of work under way and of its outcome, by rich."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rich import box
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text


def progress(console: Console) -> Progress:
    """Bars that count what is done, and leave nothing behind."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    return Progress(*columns, console=console, transient=True)


def table(title: str, header: Sequence[str], rows: Iterable[Sequence[str]]) -> Table:
    """A table of plain texts; the first column is words, the others numbers."""
    made = Table(title=f"\n{title}", title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, show_edge=False)
    made.padding = (0, 1, 0, 0)
    for index, name in enumerate(header):
        made.add_column(Text(name), justify="right" if index else "left", no_wrap=not index)
    for row in rows:
        made.add_row(*map(Text, row))
    return made
