"""Pictures look the same under any matplotlib set-up, and one that cannot be drawn costs nothing but itself."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import matplotlib as mpl
import pytest
from matplotlib.figure import Figure

from mollify_sweeps.display.figures import RED, figure, pngs, styled
from places import ROOT

FOREIGN = {"text.usetex": True, "figure.dpi": 7, "savefig.dpi": 9, "font.family": "no such font", "axes.grid": False}


@styled
def draw() -> dict[str, Figure]:
    made, axes = figure({"dataset": "digits_$5", "verified": True}, "how it went", (3, 2))
    axes[0, 0].plot([1, 2], [3, 4], color=RED)
    return {"curve": made}


def test_a_foreign_set_up_changes_no_pixel(capfd: pytest.CaptureFixture[str]) -> None:
    told: list[str] = []
    ours = dict(pngs(draw, told.append))
    with mpl.rc_context(FOREIGN):
        assert dict(pngs(draw, told.append)) == ours
    assert ours["curve"].startswith(b"\x89PNG")
    assert not told
    assert "findfont" not in capfd.readouterr().err


def test_pictures_that_cannot_be_drawn_are_one_sentence_and_the_others_are_there() -> None:
    if not subprocess.run(["sh", "-c", "command -v latex"], capture_output=True).returncode:
        pytest.skip("LaTeX is here: what needs it can be drawn")

    def broken() -> dict[str, Figure]:
        with_latex: dict[str, Any] = {name: Figure((2, 2)) for name in ("one", "two")}
        for made in with_latex.values():
            made.text(0.5, 0.5, "x", usetex=True)
        return {"one": with_latex["one"], **draw(), "two": with_latex["two"]}

    told: list[str] = []
    assert [name for name, _ in pngs(broken, told.append)] == ["curve"]
    assert len(told) == 1
    assert told[0].startswith("the picture one, two could not be drawn, all else is there (")
    assert "latex" in told[0]
    assert "\n" not in told[0]

    def nothing() -> dict[str, Figure]:
        raise ValueError("no\nfont")

    assert not dict(pngs(nothing, told.append))
    assert told[1] == "the pictures could not be drawn, all else is there (ValueError: no font)"


def test_a_program_that_draws_needs_no_backend_for_a_screen(tmp_path: Path) -> None:
    code = "import status; status.main(['nowhere']); import matplotlib; print(matplotlib.rcParams['backend'])"
    env = {**os.environ, "MPLBACKEND": "nonsense", "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'sweeps'}"}
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=env, capture_output=True, text=True)
    assert done.stdout == "agg\n", done.stderr
