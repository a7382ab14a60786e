"""What the terminal shows of work under way and of its outcome, by rich."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from rich import box
from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

from mollify_core.foreign import clean


class Terminal(Console):
    """A console on which nothing that comes from elsewhere, as the name of a class, steers the terminal, or is taken
    for markup.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(markup=False, emoji=False, **options)

    def render_str(self, text: str, **options: Any) -> Text:
        return super().render_str(clean(text), **options)  # before it is laid out, since it gets longer

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        for segment in super().render(renderable, options):
            plain = segment.control or segment.text.isprintable()
            yield segment if plain else Segment(clean(segment.text), segment.style)


def progress(console: Console) -> Progress:
    """Bars that count what is done, and leave nothing behind."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    return Progress(*columns, console=console, transient=True)


def styled(text: str, style: str, more: str = "") -> Text:
    """A text of which the beginning has a style."""
    return Text.assemble((text, style), more)


def moves(console: Console) -> bool:
    """Whether what is shown can be overwritten: a terminal, and one that knows how."""
    return console.is_terminal and not console.is_dumb_terminal


def table(title: str, header: Sequence[str], rows: Iterable[Sequence[str]]) -> RenderableType:
    """A table of plain texts; the first column is words, the others numbers.

    Where the terminal is too narrow for it, every number has a line of its own: none is ever cut.
    """
    return _Whole(title, header, rows)


class _Whole:
    def __init__(self, title: str, header: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
        self._title, self._header, self._rows = title, list(header), [list(row) for row in rows]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        made = Table(box=box.SIMPLE_HEAD, show_edge=False, padding=(0, 1, 0, 0))
        for index, name in enumerate(self._header):
            made.add_column(Text(name), justify="right" if index else "left", no_wrap=not index)
        for row in self._rows:
            made.add_row(*map(Text, row))
        yield Text(f"\n{self._title}", style="bold")
        lines = console.render_lines(made, options, pad=False)
        written = ["".join(segment.text for segment in line) for line in lines]
        whole = all(any(cell in line for line in written) for row in self._rows for cell in row)
        if whole and not any("…" in line for line in written):  # of a header
            yield made
            return
        for first, *numbers in self._rows:
            yield Text(f"{self._header[0]} {first}".strip(), overflow="fold")
            for name, number in zip(self._header[1:], numbers, strict=True):
                yield Text(f"  {name}: {number}", overflow="fold")
