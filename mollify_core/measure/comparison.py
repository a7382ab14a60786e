"""A fair comparison: what a method does, what the other settings do, which part of the method does it; and the words.

Two searches of equal budget find two recipes whose other settings (all that both searched) differ, a without the method
and b with it. Best against best therefore compares two things at once. Four cells take them apart: off and on at a, and
off and on at b. Both recipes are fixed before; the images of the comparison have chosen nothing.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np

from mollify_core.errors import DataError
from mollify_core.measure.contrast import CROSSED, Cells, Contrast, as_cells, contrast
from mollify_core.measure.power import Needed, needed
from mollify_core.measure.statistics import LEVEL, holm

Word = Literal["better", "worse", "no difference that matters", "cannot be told", "depends on the other settings"]


@dataclass(frozen=True)
class Crossed:
    """What the cells off and on at the other settings a and b say. diagonal = method + settings.

    Attributes:
        diagonal: on b less off a, best against best: which recipe to use, and no proof that the method is the reason.
        method: the mean of the rows: what the method does.
        settings: b less a, the mean of both columns: what the other settings do; None where a is b.
        rows: on less off at a and at b; one where a is b.
    """

    diagonal: Contrast
    method: Contrast
    settings: Contrast | None
    rows: tuple[Contrast, ...]

    @property
    def depends(self) -> bool:
        """Whether the rows' intervals lie on different sides of 0: helpful at one of a and b, harmful at the other."""
        return any(row.high < 0 for row in self.rows) and any(row.low > 0 for row in self.rows)


def crossed(values: np.ndarray | Cells) -> Crossed:
    """The crossed comparison of two searches.

    Args:
        values: (4, seeds, images) float of the cells off a, on a, off b, on b, as `contrast` takes them; or
            (2, seeds, images) of off and on where the searches share no setting, or found the same ones.

    Raises:
        DataError: the values are no two or four cells.
    """
    cells = as_cells(values)
    if len(cells.means) == 2:
        only = contrast(cells, (-1, 1))
        return Crossed(only, only, None, (only,))
    if len(cells.means) != 4:
        raise DataError(f"Expected the cells off a, on a, off b, on b, or off and on, but got {len(cells.means)}")
    return Crossed(
        contrast(cells, (-1, 0, 0, 1)),
        contrast(cells, CROSSED),
        contrast(cells, (-0.5, -0.5, 0.5, 0.5)),
        (contrast(cells, (-1, 1, 0, 0)), contrast(cells, (0, 0, -1, 1))),
    )


@dataclass(frozen=True)
class Parts:
    """Which part of a method does it, at its own other settings.

    Attributes:
        image: the degraded image with its hard label, less neither.
        label: the clean image with its label smoothed by the method's mean strength, less neither.
        uncoupled: both, the label smoothed by that mean whatever the image got, less neither.
        coupling: both coupled less both uncoupled: what it does that the label knows of the image.
        whole: both coupled, less neither.
    """

    image: Contrast
    label: Contrast
    uncoupled: Contrast
    coupling: Contrast
    whole: Contrast


def parts(values: np.ndarray | Cells) -> Parts:
    """The parts of a method.

    Args:
        values: (5, seeds, images) float of the cells neither, image, label, both uncoupled, both coupled.

    Raises:
        DataError: the values are no five cells.
    """
    cells = as_cells(values)
    if len(cells.means) != 5:
        raise DataError(
            f"Expected the cells neither, image, label, both uncoupled, both coupled, but got {len(cells.means)}"
        )
    return Parts(
        contrast(cells, (-1, 1, 0, 0, 0)),
        contrast(cells, (-1, 0, 1, 0, 0)),
        contrast(cells, (-1, 0, 0, 1, 0)),
        contrast(cells, (0, 0, 0, -1, 1)),
        contrast(cells, (-1, 0, 0, 0, 1)),
    )


@dataclass(frozen=True)
class Claim:
    """What may be said of a contrast of errors or losses, less being better.

    Attributes:
        contrast: what is claimed of; its interval is not corrected.
        word: "better" or "worse": the interval lies on one side of 0, and the corrected p is below 5 %. "depends on the
            other settings": see `Crossed.depends`. "no difference that matters": the interval lies within the margin.
            "cannot be told" otherwise.
        corrected: p after Holm's correction for all claims made together; NaN where seeds do not vary.
        needed: seeds and images that would tell, where it cannot be told and at most 20 seeds would.
    """

    contrast: Contrast
    word: Word
    corrected: float
    needed: Needed | None


def words(claims: Mapping[str, Contrast | Crossed], margins: Mapping[str, float]) -> dict[str, Claim]:
    """The words for all claims that are made together.

    Args:
        claims: name -> a contrast; of a crossed comparison, what the method does is claimed.
        margins: name -> the smallest difference that matters, in the unit of the contrast.
    """
    contrasts = {name: claim.method if isinstance(claim, Crossed) else claim for name, claim in claims.items()}
    corrected = holm({name: found.p for name, found in contrasts.items()})
    together, result = sum(not math.isnan(p) for p in corrected.values()), {}
    for name, found in contrasts.items():
        claim = claims[name]
        depends = isinstance(claim, Crossed) and claim.depends
        word = "depends on the other settings" if depends else _word(found, corrected[name], margins[name])
        more = needed(found, margins[name], together) if word == "cannot be told" else None
        result[name] = Claim(found, word, corrected[name], more)
    return result


def _word(found: Contrast, corrected: float, margin: float) -> Word:
    if corrected < LEVEL and found.high < 0:
        return "better"
    if corrected < LEVEL and found.low > 0:
        return "worse"
    inside = -margin <= found.low and found.high <= margin  # False of NaN
    return "no difference that matters" if inside else "cannot be told"
