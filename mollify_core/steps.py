"""How an epoch's images become steps, a step's images the shares of workers, and a share the parts that a network sees.

A share may be cut into parts that the network sees one after the other, for less memory (`Parts`, `split`).
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from mollify_core import networks
from mollify_core.batch import Batch
from mollify_core.classifier import build_network
from mollify_core.errors import ConfigError
from mollify_core.foreign import shown
from mollify_core.recipe import Recipe
from mollify_core.settings import Model


@dataclass(frozen=True)
class Steps:
    """The steps of an epoch. What is left for the last of them may join the step before.

    Where the last step has fewer images than there are workers, each of them takes all of it: a share of none would
    have to be filled with an image that counts for nothing, but that batch norm sees.

    Attributes:
        images: in an epoch.
        size: different images of a full step, over all workers.
        workers: that share them.
        joined: whether the step before the last takes the images of the last, too.
    """

    images: int
    size: int
    workers: int
    joined: bool = False

    @classmethod
    def of(cls, recipe: Recipe, images: int, workers: int, classes: int, image_shape: tuple[int, int, int]) -> Steps:
        """Those in which a recipe takes so many images.

        What is left for the last joins the step before where it would leave a worker one image that its network cannot
        learn from: no part of one image under batch norm, the same rule for one worker and for several. Batch norm
        cannot where maps have shrunk to one pixel: the variance of one value is unknown. Other networks take their
        steps as they always did.

        Args:
            recipe: what is trained.
            images: that it fits.
            workers: that share a step.
            classes, image_shape: of the data set.

        Raises:
            ConfigError: a full step leaves a worker one image that is too few; no other batch has one to spare.
        """
        steps = cls(images, recipe.optim.batch_size // recipe.mollify.repeat, workers)
        if steps.smallest * recipe.mollify.repeat > 1 or _learns_from_one(recipe.model, classes, image_shape):
            return steps
        steps = dataclasses.replace(steps, joined=len(steps) > 1 and images % steps.size > 0)
        if steps.smallest > 1:
            return steps
        who = "a step" if workers == 1 else f"one of {workers} workers"
        raise ConfigError(
            f"Expected at least two images for {who}, since {recipe.model.network} normalises over the batch, but "
            f"{images} images in batches of {recipe.optim.batch_size} leave one: choose another `batch_size`"
        )

    def __len__(self) -> int:
        return math.ceil(self.images / self.size) - self.joined

    def among(self, step: int) -> int:
        """Number of images of a step, over all workers."""
        end = self.images if step == len(self) - 1 else (step + 1) * self.size
        return end - step * self.size

    def whole(self, step: int) -> bool:
        """Whether every worker takes all images of a step; one worker always does."""
        return self.workers == 1 or self.among(step) < self.workers

    def drawing(self, step: int, rank: int) -> int:
        """The rank by which a worker draws at a step: 0 where all of them train on the same."""
        return 0 if self.whole(step) else rank

    def share(self, step: int, rank: int) -> range:
        """Where a worker's images of a step stand in the epoch's order: every so-many-th of the step's, or all."""
        start, end = step * self.size, step * self.size + self.among(step)
        if self.whole(step):
            return range(start, end)
        return range(start + (rank - start) % self.workers, end, self.workers)

    @property
    def smallest(self) -> int:
        """Number of images of the smallest share of a step that is shared out evenly, at least 1."""
        return max(1, min(self.among(0), self.among(len(self) - 1)) // self.workers)


def check_steps(
    recipe: Recipe, images: int, workers: Sequence[int], classes: int, image_shape: tuple[int, int, int]
) -> None:
    """Checks that every worker gets images of every full step, and no network a single one that it cannot learn from.

    Args:
        recipe: what is trained.
        images: that it fits.
        workers: numbers of workers that may train it.
        classes, image_shape: of the data set.

    Raises:
        ConfigError: the batch is too small, no multiple of `repeat`, or leaves a worker one image that is too few.
    """
    size, repeat = recipe.optim.batch_size, recipe.mollify.repeat
    if size % repeat:
        raise ConfigError(f"Expected `batch_size` to be a multiple of repeat {repeat}, but got {size}")
    for number in workers:
        if size < number * repeat:
            each = f"{number} worker{'s' * (number > 1)}" + (f" times repeat {repeat}" if repeat > 1 else "")
            raise ConfigError(f"Expected `batch_size` to be at least an image for each of {each}, but got {size}")
        Steps.of(recipe, images, number, classes, image_shape)


def joining(
    recipe: Recipe, images: int, workers: Sequence[int], classes: int, image_shape: tuple[int, int, int]
) -> str:
    """What `Steps.of` does about a last step that is too small, in words; empty where nothing; raises as that does."""
    steps = [Steps.of(recipe, images, number, classes, image_shape) for number in workers]
    joined = [step for step in steps if step.joined]
    if not joined:
        return ""
    who = "" if joined[0].workers == 1 else f"with {joined[0].workers} workers "
    return (
        f"{who}the last {images % joined[0].size} of {images} images join the step before: {recipe.model.network} "
        "normalises over the batch and cannot learn from one image alone"
    )


@functools.lru_cache(maxsize=64)  # a search asks of hundreds of recipes, which share a model
def _learns_from_one(model: Model, classes: int, image_shape: tuple[int, int, int]) -> bool:
    network = build_network(Recipe(model=model), classes, image_shape, networks.outline).train()
    with torch.device("meta"):
        try:
            network(torch.empty(1, *image_shape))
        except ValueError:  # "Expected more than 1 value per channel when training"
            return False
    return True


@dataclass(frozen=True)
class Parts:
    """Into how many parts a worker's share of each step is cut: more after memory ended under way.

    Attributes:
        since: (epoch, step, parts): so many from this step on, ascending; the first from epoch 0, step 0.
    """

    since: tuple[tuple[int, int, int], ...] = ((0, 0, 1),)

    @classmethod
    def read(cls, written: Any) -> Parts:
        """What `written` says.

        Raises:
            ConfigError: it says nothing of the kind.
        """
        rows = [[0, 0, written]] if isinstance(written, int) else written
        try:
            since = tuple((epoch, step, parts) for epoch, step, parts in rows)
            ok = all(type(number) is int for row in since for number in row) and list(since) == sorted(since)
        except (TypeError, ValueError):
            ok = False
        if not ok or not since or since[0][:2] != (0, 0) or min(parts for *_, parts in since) < 1:
            raise ConfigError(
                "Expected `accumulate` to be at least 1, or [[epoch, step, parts], …] from [0, 0, …] on, but got "
                f"{shown(written)}"
            )
        return cls(since)

    @property
    def written(self) -> int | list[list[int]]:
        """One number where it never changed, else all of `since`; ready for JSON."""
        return self.since[0][2] if len(self.since) == 1 else [list(row) for row in self.since]

    @property
    def most(self) -> int:
        """The largest number of parts."""
        return max(parts for *_, parts in self.since)

    def at(self, epoch: int, step: int) -> int:
        """The number of parts at a step."""
        return [parts for *start, parts in self.since if tuple(start) <= (epoch, step)][-1]

    def then(self, epoch: int, step: int, parts: int) -> Parts:
        """These, but so many parts from a step on."""
        before = tuple(row for row in self.since if row[:2] < (epoch, step))
        return self if before and before[-1][2] == parts else Parts.read([*before, (epoch, step, parts)])


def split(batch: Batch, size: int, generator: torch.Generator) -> list[Batch]:
    """A batch in parts of at most `size` rows, but of two where it has two; their sizes differ by one at most.

    Rows are ordered by their roles, so they are shuffled: each part is in law what a batch of its size is, and batch
    norm sees the population that it would see on as many workers.

    Args:
        batch: rows of it; at least one.
        size: at least 1.
        generator: a CPU generator.
    """
    rows = len(batch.x)
    parts = min(math.ceil(rows / size), max(1, rows // 2))
    if parts == 1:
        return [batch]
    order = torch.randperm(rows, generator=generator).to(batch.x.device, non_blocking=True)
    held = {field.name: getattr(batch, field.name) for field in dataclasses.fields(batch)}
    columns: dict[str, Any] = {name: column for name, column in held.items() if column is not None}
    return [
        dataclasses.replace(batch, **{name: column[rows] for name, column in columns.items()})
        for rows in (order[part::parts] for part in range(parts))
    ]
