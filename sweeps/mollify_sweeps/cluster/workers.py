"""How many processes train one trial together."""

from __future__ import annotations

import argparse
import re
from typing import NamedTuple


class Workers(NamedTuple):
    """A number of workers, or a range of it: Ray Train then takes as many as the cluster has, and others as it changes.

    Attributes:
        least: a trial waits until it can have so many.
        most: it never has more.
    """

    least: int
    most: int

    @classmethod
    def parse(cls, text: str) -> Workers:
        """From `N` or `MIN:MAX`; raises argparse's error, which the parser puts into a sentence."""
        match = re.fullmatch(r"(\d+)(?::(\d+))?", text)
        found = cls(int(match[1]), int(match[2] or match[1])) if match else cls(0, 0)
        if not 1 <= found.least <= found.most:
            raise argparse.ArgumentTypeError(f"expected N or MIN:MAX with 1 <= MIN <= MAX, but got {text!r}")
        return found

    @property
    def elastic(self) -> bool:
        return self.least < self.most

    @property
    def alone(self) -> bool:
        """Whether a trial is one process, which needs no worker group."""
        return self.most == 1

    def __str__(self) -> str:
        number = f"{self.least} to {self.most}" if self.elastic else f"{self.most}"
        return f"{number} worker{'s' * (self.most > 1)}"
