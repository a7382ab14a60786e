"""Fair timing of two ways to do the same work on a shared machine: interleaved runs, CPU time, medians, spread."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Comparison:
    """CPU seconds per call of both sides, and how many times faster ours is.

    Attributes:
        ours, reference: medians.
        ratio: median over rounds of reference / ours.
        low, high: the smallest and largest ratio of a round.
    """

    ours: float
    reference: float
    ratio: float
    low: float
    high: float

    def __str__(self) -> str:
        return (
            f"{self.ours * 1e3:10.3f} ms against {self.reference * 1e3:10.3f} ms: "
            f"{self.ratio:7.1f}x ({self.low:.1f} to {self.high:.1f})"
        )


def compare(
    ours: Callable[[], object], reference: Callable[[], object], rounds: int = 7, shortest: float = 0.02
) -> Comparison:
    """Times both sides in turn, after one warm-up each; each timing repeats the call for `shortest` seconds or more.

    CPU time is that of the whole process: set the number of threads to 1 first, or it counts all of them.
    """
    calls = []
    for side in (ours, reference):
        side()
        calls.append(max(1, math.ceil(shortest / max(_seconds(side, 1), 1e-6))))
    pairs = [(_seconds(ours, calls[0]), _seconds(reference, calls[1])) for _ in range(rounds)]
    ratios = [b / a for a, b in pairs]
    fast, slow = (statistics.median(side) for side in zip(*pairs, strict=True))
    return Comparison(fast, slow, statistics.median(ratios), min(ratios), max(ratios))


def _seconds(call: Callable[[], object], calls: int) -> float:
    start = time.process_time()
    for _ in range(calls):
        call()
    return (time.process_time() - start) / calls
