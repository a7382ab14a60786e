"""The check of one trial: what the study says of it, held against its folder on storage."""

from __future__ import annotations

import contextlib
import itertools
import math
import re
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from optuna.trial import FrozenTrial
from pyarrow.fs import FileInfo

from mollify_core import checkpoint
from mollify_core.errors import CheckpointError, ConfigError, DataError, first_line
from mollify_core.foreign import clean, shown
from mollify_core.recipe import Recipe
from mollify_sweeps.storage.store import Store, trial_folder
from mollify_sweeps.study.database import FAILURES
from mollify_sweeps.study.description import Description
from mollify_sweeps.study.ledger import METHOD, STOPPED
from mollify_sweeps.study.soundness import images_of, metrics_of
from mollify_sweeps.study.space import varied

Files = dict[str, FileInfo]
"""Path below the sweep's folder -> the file."""

_ANSWER = re.compile(r"epoch_(\d+)")
_CHECKPOINT = re.compile(r"(trials/\d{5,}/checkpoints/(bad-)?epoch-\d{4,}(?:-step-\d{6,})?)/[^/]+")


@dataclass(frozen=True)
class Finding:
    """Something about a sweep that is not as it should be.

    Attributes:
        trial: its number; None when it concerns the whole sweep.
        message: one sentence.
        note: it is worth knowing, but nothing is wrong.
    """

    trial: int | None
    message: str
    note: bool = False

    def __str__(self) -> str:
        where = "sweep" if self.trial is None else f"trial {self.trial}"
        return f"{where}: {'note: ' if self.note else ''}{self.message}"


class TrialCheck:
    """The check of one trial."""

    def __init__(
        self, store: Store, sweep: Description, trial: FrozenTrial, files: Files, findings: list[Finding]
    ) -> None:
        self._store, self._sweep, self._trial, self._files, self._all = store, sweep, trial, files, findings
        self._folder = trial_folder(trial.number)
        self._attrs, self._state = trial.user_attrs, trial.state.name
        self._answers = {int(m.group(1)): v for k, v in self._attrs.items() if (m := _ANSWER.fullmatch(k))}
        self._epochs = len(self._answers)
        self._ended = self._state in ("COMPLETE", "PRUNED")
        self._recipe: Recipe | None = None
        self.verified = 0

    def check(self, *, driven: bool) -> None:
        """Adds what is wrong to the findings.

        Args:
            driven: whether a driver holds the sweep.
        """
        if self._state == "WAITING":
            self._note("has not been started")
        elif self._state == "RUNNING" and driven:
            self._note(f"is running, {self._epochs} epochs so far")
        else:
            if self._state == "RUNNING" and self._attrs.get(STOPPED):
                self._note(f"was stopped after {self._epochs} epochs; the sweep's command goes on with it")
            elif self._state == "RUNNING":
                self._find("is left running, and no driver on this machine holds the sweep")
            self._check_recipe()
            self._check_values()
            self._check_end()
            self._check_metrics()
            self._check_images()
            self._check_checkpoints()

    def _find(self, message: str) -> None:
        self._all.append(Finding(self._trial.number, message))

    def _note(self, message: str) -> None:
        self._all.append(Finding(self._trial.number, message, note=True))

    def _expect(self, ok: Any, message: str) -> None:
        if not ok:
            self._find(message)

    def _read(self, name: str) -> bytes | None:
        return self._store.read(f"{self._folder}/{name}")

    def _check_recipe(self) -> None:
        if "recipe" not in self._attrs:
            none = self._state == "RUNNING" or self._attrs.get("failure") == "settings"
            self._expect(none, "has no recipe in the study")
            return
        try:
            self._recipe = Recipe.from_dict(self._attrs["recipe"])
            method = self._sweep.methods.get(self._attrs.get(METHOD, ""), {})
            names = method.get("space", self._sweep.space)
            own = {**method.get("settings", {}), **self._trial.params, **self._attrs.get("settings", {})}
            expected = varied(Recipe.from_dict(self._sweep.base_recipe), names).with_(own)
        except ConfigError as error:
            self._find(f"has a damaged recipe in the study: {error}")
            return
        self._expect(self._recipe.hash == expected.hash, "has another recipe than its parameters say")
        self._expect(set(self._trial.params) == set(names), "has other parameters than the search space")
        text = self._read("recipe.json")
        if text is None:
            self._expect(not self._epochs, "recipe.json is missing")
            return
        try:
            same = Recipe.from_json(text).hash == self._recipe.hash
            self._expect(same, "recipe.json is of another recipe than the study's")
        except ConfigError as error:
            self._find(f"recipe.json is damaged: {error}")

    def _check_values(self) -> None:
        missing = set(range(self._epochs)) - set(self._answers)
        self._expect(not missing, f"has no value of epoch {numbers(missing)} in the study, but of later ones")
        if len(self._sweep.objectives) > 1:  # Optuna keeps no values of epochs then
            return
        values = self._trial.intermediate_values
        surplus = set(values) - set(self._answers)
        if self._state == "RUNNING":  # killed between a value and the pruner's answer to it: it is reported again
            surplus.discard(self._epochs)
        self._expect(not surplus, f"has a value, but no answer of the pruner, of epoch {numbers(surplus)}")
        unvalued = set(self._answers) - set(values)
        self._expect(not unvalued, f"has an answer of the pruner, but no value, of epoch {numbers(unvalued)}")
        both = set(values) & set(self._answers)
        different = {epoch for epoch in both if not _equal(values[epoch], self._answers[epoch]["values"][0])}
        self._expect(not different, f"has two different values of epoch {numbers(different)} in the study")

    def _check_end(self) -> None:
        if self._state == "RUNNING":
            return
        stopped = [epoch for epoch, answer in sorted(self._answers.items()) if not answer["go_on"]]
        last, done = self._epochs - 1, self._attrs.get("epochs_done")
        self._expect(
            all(epoch >= last for epoch in stopped),
            f"trained on after the pruner had stopped it at epoch {numbers(stopped[:1])}",
        )
        self._expect(done == self._epochs, f"says {done} epochs were done, but the study has {self._epochs}")
        if self._state == "PRUNED":
            self._expect(last in stopped, "is pruned, but the pruner's stored answer to its last epoch is to go on")
        elif self._state == "COMPLETE":
            self._expect(
                not stopped, f"is complete, but the pruner's stored answer to epoch {numbers(stopped)} is to stop"
            )
            epochs = self._recipe.optim.epochs if self._recipe else self._epochs
            self._expect(self._epochs == epochs, f"is complete with {self._epochs} of {epochs} epochs")
        else:
            failure = self._attrs.get("failure")
            self._expect(failure in FAILURES, f"failed without a known reason: {shown(failure)}")

    def _check_metrics(self) -> None:
        text = self._read("metrics.jsonl")
        if text is None:
            self._expect(not self._ended, "metrics.jsonl is missing")
            return
        found: list[int] = []
        damaged = 0
        for number, line in enumerate(text.splitlines(), 1):
            try:
                entry = metrics_of(line, self._sweep.objectives)
            except DataError as error:
                if damaged < 10:
                    self._find(f"line {number} of metrics.jsonl is damaged: {error}")
                damaged += 1
                continue
            epoch, values = entry["epoch"], [entry[name] for name in self._sweep.objectives]
            found.append(epoch)
            known = self._answers[epoch]["values"] if epoch in self._answers else values
            self._expect(all(map(_equal, values, known)), f"metrics.jsonl and the study differ in epoch {epoch}")
        # A killed trial's file may be behind the study or ahead of it; an ended one's must be whole.
        missing = set(range(max([*found, self._epochs - 1 if self._ended else -1]) + 1)) - set(found)
        self._expect(not missing, f"epoch {numbers(missing)} is missing in metrics.jsonl")
        doubled = [epoch for epoch, count in Counter(found).items() if count > 1]
        self._expect(not doubled, f"epoch {numbers(doubled)} is doubled in metrics.jsonl")
        self._expect(all(a <= b for a, b in itertools.pairwise(found)), "the epochs in metrics.jsonl are out of order")
        surplus = [epoch for epoch in found if epoch >= self._epochs and self._ended]
        self._expect(not surplus, f"metrics.jsonl has epoch {numbers(surplus)}, which the study does not know")

    def _check_images(self) -> None:
        """The validation values per image of a completed trial."""
        if self._state != "COMPLETE":
            return
        data = self._read("validation.npz")
        if data is None:
            self._find("validation.npz is missing")
            return
        try:
            means = {name: float(values.mean()) for name, values in images_of(data).items() if values.size}
        except DataError as error:
            self._find(f"validation.npz is damaged: {error}")
            return
        if self._recipe is not None and self._recipe.data.judging_fraction:
            return  # they are of images that only judge, and the study's values are of those that choose
        values = dict(zip(self._sweep.objectives, self._trial.values, strict=False)) | self._attrs.get("metrics", {})
        for name in sorted(means.keys() & values.keys()):
            same = math.isclose(means[name], values[name], rel_tol=1e-4, abs_tol=1e-6)
            self._expect(same, f"validation.npz and the study differ in {name}")

    def _check_checkpoints(self) -> None:
        named = f"{self._folder}/checkpoints/{checkpoint.name(self._epochs)}" if self._ended else None
        matches = (_CHECKPOINT.fullmatch(p) for p in self._files if p.startswith(f"{self._folder}/"))
        folders = {m.group(1): m.group(2) is not None for m in matches if m}
        if named is not None:
            path = str(self._attrs.get("checkpoint"))
            right = path.endswith(f"/{named}")
            if "://" in path:  # with options, behind which 0.1 wrote the folder
                before, _, options = path.partition("?")
                right = named in (before[-len(named) :], f"{before[-len(self._folder) :]}/{options.partition('/')[2]}")
            self._expect(right, f"names the checkpoint {clean(path, 300)}, but has {self._epochs} epochs")
            self._expect(named in folders, f"its checkpoint {Path(named).name} is missing")
        for folder, set_aside in sorted(folders.items()):
            name = Path(folder).name
            if set_aside:
                self._check_set_aside(folder, name)
            elif f"{folder}/{checkpoint.MANIFEST}" not in self._files and folder != named:
                self._note(f"the checkpoint {name} is unfinished: a killed process left it")
            else:
                self._check_checkpoint(folder, name)

    def _check_set_aside(self, folder: str, name: str) -> None:
        """A damaged one is no more than that; a whole one of another recipe was written by somebody else."""
        own = self._recipe.hash if self._recipe else None
        found = own
        with contextlib.suppress(CheckpointError, ConfigError, KeyError):
            state = checkpoint.load(self._store.fs, f"{self._store.root}/{folder}")
            found = Recipe.from_dict(state.meta["recipe"]).hash
        if None is not own != found:
            self._find(f"{name} is of another recipe: two drivers have trained it, or its study was lost")
        else:
            self._note(f"the damaged checkpoint {name} was set aside")

    def _check_checkpoint(self, folder: str, name: str) -> None:
        try:
            state = checkpoint.load(self._store.fs, f"{self._store.root}/{folder}")
            recipe = Recipe.from_dict(state.meta["recipe"])
        except (CheckpointError, ConfigError, KeyError) as error:
            self._find(f"its checkpoint {name} is damaged: {clean(first_line(error), 300)}")
            return
        self.verified += 1
        own = checkpoint.name(state.epoch, state.step)
        self._expect(own == name, f"its checkpoint {name} is that of {own}")
        same = self._recipe is None or self._recipe.hash == recipe.hash
        self._expect(same, f"its checkpoint {name} is of another recipe")
        same = state.meta.get("fingerprint") == self._sweep.fingerprint
        self._expect(same, f"its checkpoint {name} is of another data set")


def _equal(a: float | None, b: float | None) -> bool:
    """Whether two values are the same; NaN is the same as NaN, which a database may keep as nothing."""
    a, b = (math.nan if v is None else v for v in (a, b))
    return a == b or (math.isnan(a) and math.isnan(b))


def numbers(found: Collection[int]) -> str:
    """Trial or epoch numbers, in order, for a sentence; of many the first."""
    told = sorted(set(found))
    rest = f" and {len(told) - 20} more" if len(told) > 20 else ""
    return ", ".join(str(n) for n in told[:20]) + rest
