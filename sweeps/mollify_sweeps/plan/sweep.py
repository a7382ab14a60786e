"""A sweep of which everything is settled."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from mollify_core.datasets import Prepared
from mollify_core.recipe import Recipe
from mollify_sweeps.plan import rehearsal
from mollify_sweeps.plan.options import Command, Following
from mollify_sweeps.plan.placement import Placement
from mollify_sweeps.storage.store import Store
from mollify_sweeps.study.setup import Setup


@dataclass(frozen=True)
class Sweep:
    """Everything about a sweep that is settled before Ray starts.

    Attributes:
        prepared: its data set.
        base: the recipe that trials vary.
        store: its folder on storage.
        local: its folder beside the driver: the live study, tracking files.
        setup: what the study's actor gets.
        placement: who runs where.
        seconds: estimated training time of one full trial, or None.
        checkpoint_bytes: what one trial keeps.
        new_layer: the layer that the weights from which training starts leave new; "" where there is none.
        fit, validation: number of images.
        command: that made it, without a password.
        data_flags: the words that tell another program where its data is.
        following: who follows it.
        address: of the Ray cluster; None starts Ray here.
    """

    prepared: Prepared
    base: Recipe
    store: Store
    local: Path
    setup: Setup
    placement: Placement
    seconds: float | None
    checkpoint_bytes: int
    new_layer: str
    fit: int
    validation: int
    command: Command
    data_flags: tuple[str, ...]
    following: Following
    address: str | None

    @property
    def name(self) -> str:
        """Of the sweep."""
        return self.setup.name

    @property
    def start_seconds(self) -> float:
        """From the plan to the first batch of a trial, at most."""
        return rehearsal.start_seconds(self.placement)
