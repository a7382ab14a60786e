"""Figures as PNG, drawn headless with matplotlib in colours that colour-blind readers can tell apart."""

from __future__ import annotations

import io
import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib import style
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

# Okabe & Ito (2008), Color Universal Design
BLUE, GREEN, RED, GREY = "#0072B2", "#009E73", "#D55E00", "#9A9A9A"
STYLE: Any = {
    "axes.grid": True,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlelocation": "left",
    "axes.titlesize": 12,
    "axes.axisbelow": True,
    "figure.dpi": 150,
    "figure.constrained_layout.use": True,
    "font.size": 10,
    "grid.color": "#E6E6E6",
    "grid.linewidth": 0.8,
    "legend.frameon": False,
    "savefig.dpi": 150,
}
PALETTE = (BLUE, RED, GREEN, "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#8C8C8C")
MARKERS = "os^DvPX*"
# Over matplotlib's own defaults: somebody's matplotlibrc may ask for LaTeX. A label may have a $.
styled = style.context(["default", {**STYLE, "text.parse_math": False}])


def pngs(
    draw: Callable[[], Mapping[str, Figure]], notice: Callable[[str], None], dpi: int = 150
) -> Iterator[tuple[str, bytes]]:
    """Pictures as PNG files: name and bytes each. Those that cannot be drawn are left out, and told in one sentence.

    Args:
        draw: makes the figures.
        notice: takes the sentence.
        dpi: pixels per inch.
    """
    failed: dict[str, Exception] = {}
    try:
        figures = draw()
    except Exception as error:  # whatever a picture runs into, numbers and words are worth more
        figures, failed = {}, {"s": error}
    for name, figure in figures.items():
        try:
            png = _png(figure, dpi)
        except Exception as error:
            failed[f" {name}"] = error
            continue
        yield name, png
    for first in list(failed.values())[:1]:
        why = " ".join(f"{type(first).__name__}: {first}".split())[:200]
        notice(f"the picture{','.join(failed)} could not be drawn, all else is there ({why})")


@styled
def _png(figure: Figure, dpi: int) -> bytes:
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=dpi)
    return file.getvalue()


def figure(
    metadata: Mapping[str, Any], title: str, size: tuple[float, float], grid: tuple[int, int] = (1, 1), **options: Any
) -> tuple[Figure, Any]:
    """A figure and its axes as an array of the shape `grid`; the title says when the data is not verified."""
    made = Figure(figsize=size)
    axes = made.subplots(*grid, squeeze=False, **options)
    warning, color = ("", "black") if metadata["verified"] else ("UNVERIFIED DATA\n", RED)
    text = textwrap.fill(f"{metadata['dataset']}: {title}", int(12 * size[0]))
    made.suptitle(warning + text, x=0.01, ha="left", fontsize=11, color=color)
    return made, axes


def legend(made: Figure, handles: Sequence[Any]) -> None:
    """A legend below the axes, in as many columns as fit."""
    texts = [textwrap.fill(handle.get_label(), 40) for handle in handles]
    widest = max(len(line) for text in texts for line in text.splitlines())
    columns = max(1, min(len(texts), int(made.get_figwidth() / (0.5 + 0.075 * widest))))
    made.legend(handles, texts, loc="outside lower center", ncols=columns, fontsize=8.5)


def line_style(index: int) -> dict[str, Any]:
    """Colour, marker and dashes of the index-th line."""
    which, turn = index % len(PALETTE), index // len(PALETTE)
    return {"color": PALETTE[which], "marker": MARKERS[(which + 3 * turn) % len(MARKERS)], "ls": "--" if turn else "-"}


def bars(axes: Axes, index: int, count: int, heights: Sequence[float] | np.ndarray, label: str) -> Any:
    """The index-th of `count` bars in each of several groups at x = 0, 1, ..; the bars."""
    width = 0.84 / count
    at = np.arange(len(heights)) + (index - (count - 1) / 2) * width
    hatch = "////" if index >= len(PALETTE) else None
    return axes.bar(at, heights, 0.92 * width, color=line_style(index)["color"], hatch=hatch, label=label)


def heat_map(
    made: Figure, axes: Axes, values: np.ndarray, colors: str, norm: Normalize, text: str, sign: str = ""
) -> None:
    """Values as colours and, unless there are very many, as numbers; NaN is hatched."""
    image = axes.imshow(np.ma.masked_invalid(values), cmap=colors, norm=norm, aspect="auto")
    axes.patch.set(facecolor="white", hatch="////", edgecolor=GREY)
    axes.grid(visible=False)
    axes.tick_params(length=0)
    made.colorbar(image, ax=axes, pad=0.02, aspect=30).outline.set_visible(False)
    axes.set_title(text + (", hatched: not measured" if np.isnan(values).any() else ""), fontsize=10)
    if values.shape[1] > 12:
        return
    for (i, j), value in np.ndenumerate(values):
        if np.isfinite(value):
            red, green, blue, _ = image.cmap(norm(value))
            ink = "white" if 0.3 * red + 0.59 * green + 0.11 * blue < 0.5 else "black"
            axes.text(j, i, f"{value:{sign}z.1f}", ha="center", va="center", fontsize=8, color=ink)
