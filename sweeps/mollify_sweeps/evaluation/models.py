"""Finds trained models: a checkpoint, a folder of checkpoints, a trial, or the trials of a sweep that are compared."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from mollify_core import checkpoint
from mollify_core.errors import CheckpointError, ConfigError, StorageError, first_line
from mollify_core.recipe import Recipe
from mollify_sweeps.storage.store import SWEEP, Store, trial_folder
from mollify_sweeps.study.reading import kept
from mollify_sweeps.study.results import Results


@dataclass(frozen=True)
class Model:
    """A trained model.

    Attributes:
        label: what it is called in tables and plots.
        uri: of its checkpoint.
        recipe: what it was trained by.
        state: the checkpoint.
        digest: sha256 of the checkpoint's manifest, which holds those of all its files.
    """

    label: str
    uri: str
    recipe: Recipe
    state: checkpoint.Checkpoint
    digest: str


def find(names: Sequence[str], warn: Callable[[str], None], study_url: str | None = None) -> list[Model]:
    """The models that `names` name, with different labels, in that order.

    Args:
        names: each a path or URI, or LABEL=PATH: of a checkpoint, of a folder with checkpoints (what
            `mollify_core.train` and a trial leave), or of a sweep, which gives the trials of `Results.compared`.
        warn: told when a damaged checkpoint is passed over.
        study_url: of a sweep's study, when its sweep.json does not say it.

    Raises:
        ConfigError: nothing to be evaluated is there, or a label stands for two models.
        CheckpointError: no checkpoint there is good.
        StorageError: the storage cannot be read.
    """
    models: list[Model] = []
    for name in names:
        label, path = _label(name)
        try:
            store = Store(path)
            models += _at(store, label, warn, study_url)
        except OSError as error:
            raise StorageError(f"Cannot read {path!r}: {first_line(error)}") from None
    labels = [model.label for model in models]
    twice = next((label for label in labels if labels.count(label) > 1), None)
    if twice is not None:
        raise ConfigError(f"Expected every model to have its own label, but got {twice!r} twice; give LABEL=PATH")
    return models


def _label(name: str) -> tuple[str | None, str]:
    label, equals, path = name.partition("=")
    if equals and "/" not in label and not Path(name).exists():
        if not label or not path:
            raise ConfigError(f"Expected LABEL=PATH, but got {name!r}")
        return label, path
    return None, name


def _at(store: Store, label: str | None, warn: Callable[[str], None], study_url: str | None) -> Iterator[Model]:
    own = Path(store.root).name
    if store.read(checkpoint.MANIFEST) is not None:
        yield _model(store, label or f"{_parent(store.root)}-{own}")
        return
    if store.read(SWEEP) is None:
        for folder in (store / "checkpoints", store):
            epochs = checkpoint.epochs(folder.fs, folder.root)
            if epochs:
                yield _newest(folder, epochs, label or own, warn)
                return
        raise ConfigError(f"Expected a checkpoint, a folder with checkpoints or a sweep, but {store.uri!r} is none")
    found = _compared(store, study_url)
    if not found:
        raise ConfigError(f"Expected a sweep with a completed trial, but {store.uri!r} has none yet")
    for name, number in found:
        yield of_trial(store, number, f"{label}: {name}" if label else name, warn)


def of_trial(sweep: Store, number: int, label: str, warn: Callable[[str], None]) -> Model:
    """The newest good checkpoint of a sweep's trial.

    Raises:
        CheckpointError: there is none.
    """
    folder = sweep / trial_folder(number) / "checkpoints"
    epochs = checkpoint.epochs(folder.fs, folder.root)
    if not epochs:
        raise CheckpointError(f"Expected a checkpoint of trial {number} in {folder.uri!r}, but there is none")
    return _newest(folder, epochs, label, warn)


def _parent(root: str) -> str:
    """The folder that a checkpoint belongs to, by name: that of the trial or of the training run."""
    parents = [part for part in Path(root).parent.parts if part != "checkpoints"]
    return parents[-1] if parents else ""


def _newest(folder: Store, epochs: Sequence[int], label: str, warn: Callable[[str], None]) -> Model:
    """The newest good checkpoint of a folder; damaged ones are passed over and left as they are."""
    for epoch in reversed(epochs):
        try:
            return _model(folder / checkpoint.name(epoch), label)
        except CheckpointError as error:
            warn(f"{label}: passed over epoch {epoch}: {error}")
    raise CheckpointError(f"Expected a good checkpoint in {folder.uri!r}, but all {len(epochs)} are damaged")


def _model(store: Store, label: str) -> Model:
    state = checkpoint.load(store.fs, store.root)
    manifest = store.read(checkpoint.MANIFEST) or b""
    if "recipe" not in state.meta or "fingerprint" not in state.meta:
        raise CheckpointError(f"Expected a checkpoint of a recipe, but {store.uri!r} names none")
    recipe = Recipe.from_dict(state.meta["recipe"])
    return Model(label, store.uri, recipe, state, hashlib.sha256(manifest).hexdigest())


def _compared(store: Store, study_url: str | None) -> list[tuple[str, int]]:
    """(label, trial number) of the sweep's best trial and its references; one that is both keeps the reference's."""
    with kept(store, study_url) as (_, reading):
        if reading.study is None:
            raise StorageError(f"Expected the study of sweep {store.uri!r}, but there is none")
        results = Results(reading.study)
    if not results.sweep.space:  # it searches nothing: every run is what it was made for
        return [(t.user_attrs["reference"], t.number) for t in sorted(results.completed, key=lambda t: t.number)]
    compared = results.compared
    found = {name: trial.number for name, trial in compared.items()}
    best = found.pop("best", None)
    if best is not None and best not in found.values():
        return [(f"best (trial {best})", best), *found.items()]
    return list(found.items())
