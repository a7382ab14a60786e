"""What a user says of a sweep, as typed values: its data, on what it runs, where it is kept, what it searches."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from mollify_core.datasets.options import DataOptions
from mollify_core.hiding import hidden
from mollify_core.program import shell_command
from mollify_sweeps.cluster.workers import Workers


@dataclass(frozen=True)
class Resources:
    """On what trials run.

    Attributes:
        workers: processes per trial, or their range.
        cpus: of each, and torch threads.
        gpus: of each; None is 1 where there are GPUs, else 0.
        pack: measure how many trials share a device.
        at_most: trials at once; None sets no bound.
        address: of a Ray cluster; None starts Ray here.
    """

    workers: Workers = field(default_factory=lambda: Workers(1, 1))
    cpus: int = 1
    gpus: float | None = None
    pack: bool = False
    at_most: int | None = None
    address: str | None = None


@dataclass(frozen=True)
class Keeping:
    """Where a sweep is kept.

    Attributes:
        storage: a folder or s3://bucket/prefix.
        study_url: any Optuna storage URL; None is SQLite beside the results.
    """

    storage: str = "runs"
    study_url: str | None = None


@dataclass(frozen=True)
class Following:
    """Who follows a sweep.

    Attributes:
        wandb: "online", "offline" or "off".
        project: of wandb.
        dashboard: port of Optuna's dashboard, 0 takes a free one; None serves none.
        asked: whether wandb was named; nothing is said of what it keeps otherwise.
        folder: in which wandb keeps runs; None is the sweep's own.
        progress: is called with a `callback.Progress` whenever something has changed.
    """

    wandb: str = "offline"
    project: str = "mollify"
    dashboard: int | None = None
    asked: bool = False
    folder: str | None = None
    progress: Callable[[Any], Any] | None = None


@dataclass(frozen=True)
class Command:
    """The command line that was typed.

    Attributes:
        program: as in "sweeps/search.py".
        words: its arguments.
        environment: variables that said what they left open.
    """

    program: str
    words: tuple[str, ...]
    environment: tuple[str, ...] = ()

    @property
    def shown(self) -> Command:
        """The command without passwords."""
        return replace(self, words=tuple(map(hidden, self.words)))

    def with_trials(self, trials: int) -> Command:
        """The command with another number of trials."""
        words = list(self.words)
        for i, word in enumerate(words):
            if word == "--trials" or word.startswith("--trials="):
                del words[i : i + (2 if word == "--trials" else 1)]
                break
        return replace(self, words=(*words, "--trials", str(trials)))

    def __str__(self) -> str:
        """As it is typed into a shell."""
        return shell_command(self.program, self.words)


@dataclass(frozen=True)
class Running:
    """What every sweep is told, whatever it trains.

    Attributes:
        command: that says all this.
        max_failures: end the sweep after so many trials failed by a bug or by their device.
        dry_run: show the plan and stop.
    """

    command: Command = Command("sweeps/search.py", ())
    data: DataOptions = field(default_factory=DataOptions)
    resources: Resources = field(default_factory=Resources)
    keeping: Keeping = field(default_factory=Keeping)
    following: Following = field(default_factory=Following)
    max_failures: int = 5
    dry_run: bool = False


@dataclass(frozen=True)
class RecipeOptions:
    """What the trials of a sweep train, as far as the user says; what is None is left to recipe, preset or data set.

    Attributes:
        network: a name, or a network of one's own, FILE.py:FACTORY or MODULE:FACTORY.
        network_kwargs: "NAME=VALUE" of its further arguments.
        weights: "none", "default" or a file, from which it starts.
        image_size: of a folder's images.
        background: what shows where these are transparent.
        settings: "NAME=VALUE" of any other settings of the recipe.
    """

    network: str | None = None
    network_kwargs: tuple[str, ...] | None = None
    weights: str | None = None
    epochs: int | None = None
    batch_size: int | None = None
    train_fraction: float | None = None
    image_size: int | None = None
    settings: tuple[str, ...] = ()
    background: str | None = None

    def given(self, *names: str) -> dict[str, Any]:
        """Those of the named settings that the user has given."""
        return {name: getattr(self, name) for name in names if getattr(self, name) is not None}


@dataclass(frozen=True)
class Confirm:
    """`--confirm`: train the crossed cells, and the best recipes, with further seeds.

    Attributes:
        best: how many of the best of each method beside the crossed cells; None confirms nothing.
        seeds: of each; None lets the plan propose a number.
        parts: also train the cells that tell the parts of a method apart.
        matters: the smallest difference that matters, as a share of the best plain recipe's value.
    """

    best: int | None = None
    seeds: int | None = None
    parts: bool = False
    matters: float = 0.01


@dataclass(frozen=True)
class Search:
    """What `sweeps/search.py` is told.

    Attributes:
        dataset: a name, torchvision/NAME, or the path of a folder of images.
        seed: of everything; None is the recipe's.
        preset, recipe: a paper's set-up, or the file of a recipe, to start from.
        methods: that are held against each other; None is plain training and what the recipe says, or mollification.
        shares: weights of methods in the number of trials, where they differ from 1.
        trials: in all; None is by data set, or as many as the budget allows.
        budget: wall time in seconds; None sets no bound.
        objectives: what is minimised.
        space: file of the search space; None is the built-in one.
        earlier: another sweep, whose best recipes are tried first; None tries none.
        sampler, pruner, grid_points: how it is searched; a pruner of None is successive halving.
        name: of the sweep; None makes one out of its settings.
    """

    dataset: str
    training: RecipeOptions = field(default_factory=RecipeOptions)
    seed: int | None = None
    preset: str | None = None
    recipe: str | None = None
    methods: tuple[str, ...] | None = None
    shares: dict[str, float] = field(default_factory=dict)
    trials: int | None = None
    budget: float | None = None
    objectives: tuple[str, ...] = ("corrupted_nll",)
    space: str | None = None
    earlier: str | None = None
    sampler: str = "tpe"
    pruner: str | None = None
    grid_points: int = 3
    confirm: Confirm = field(default_factory=Confirm)
    name: str | None = None
    running: Running = field(default_factory=Running)
