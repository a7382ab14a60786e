"""Proves that nothing of a sweep is lost, doubled or damaged, or says what is.

Two witnesses are held against each other: the study, and the folder of trials on storage. Nothing is written to
either, and a sweep may be checked while it runs.
"""

from __future__ import annotations

import json
import math
import re
import tempfile
import time
from collections import Counter
from collections.abc import Collection, Sequence
from pathlib import Path

from optuna.distributions import FloatDistribution
from optuna.exceptions import OptunaError
from optuna.trial import FrozenTrial
from pyarrow import fs
from sqlalchemy.exc import SQLAlchemyError

from mollify_core.errors import ConfigError, DataError, MollifyError, StorageError, first_line
from mollify_core.foreign import clean, shown
from mollify_core.program import say
from mollify_sweeps.inspection.check_trial import Files, Finding, TrialCheck, numbers
from mollify_sweeps.inspection.state import state_of
from mollify_sweeps.storage.store import STUDY, SWEEP, Store
from mollify_sweeps.study import claim
from mollify_sweeps.study.database import Location, differences, quiet_optuna, study_errors
from mollify_sweeps.study.description import Description, description_of
from mollify_sweeps.study.ledger import Ledger
from mollify_sweeps.study.reading import copy_study, locate, name_of
from mollify_sweeps.study.soundness import check_trial

_FOLDER = re.compile(r"trials/(\d{5,})(/|$)")
_DRAFT = re.compile(r".*\.tmp|\.probe-\d+")
_DRAFT_SECONDS = 60.0  # so long a living driver may take to write a small file


def check_all(sweeps: Sequence[str], study_url: str | None) -> int:
    """Checks sweeps and prints what is found; returns the exit code: 0 sound, 1 findings."""
    sound = True
    for sweep in sweeps:
        checked = Check(sweep, study_url)
        for finding in checked.findings:
            say(finding)
        count = sum(not finding.note for finding in checked.findings)
        sound &= not count
        verdict = f"{count} finding{'s' * (count > 1)}" if count else "sound"
        say(f"{sweep}: {verdict}; {checked.summary}")
    return 0 if sound else 1


class Check:
    """One check of one sweep, made when it is built.

    Args:
        sweep: the sweep's folder, <storage>/<name>, or its URI.
        study_url: Optuna storage URL of its study, when its sweep.json does not say it.

    Attributes:
        findings: of the sweep, then by trial.
        summary: what was looked at, in words.

    Raises:
        ConfigError: there is no sweep, or its study lives elsewhere.
        StorageError: the storage or the study cannot be reached; nothing is known about the sweep.
    """

    def __init__(self, sweep: str, study_url: str | None = None) -> None:
        quiet_optuna()
        self.findings: list[Finding] = []
        self.summary = "nothing else could be checked"
        self._store = Store(sweep)
        try:
            self._check(study_url)
        except OSError as error:
            if isinstance(error, MollifyError):
                raise
            raise StorageError(f"Cannot read {self._store.uri!r}: {first_line(error)}") from None

    def _check(self, url: str | None) -> None:
        text = self._store.read(SWEEP)
        description = None
        try:
            description = None if text is None else Description.from_json(text)
        except DataError as error:
            self._find(f"{SWEEP} is damaged: {error}")
        if text is None:
            self._find(f"{SWEEP} is missing")
        location = locate(self._store, description, url)
        if url is not None and location.file is not None and not location.file.is_file():
            raise ConfigError(f"Expected the study of --study-url in {str(location.file)!r}, but there is no such file")
        beside = self._store.local or (location.file.parent if location.file else None)
        driver = claim.driver_of(beside) if beside else None
        with tempfile.TemporaryDirectory(prefix="mollify-check-") as scratch, study_errors():
            # The study first: whatever it names is on storage already, also when a driver is at work.
            study = self._study(Path(scratch), description, location, driven=driver is not None)
            files = _files(self._store)
            if text is None and study is None and STUDY not in files:
                raise ConfigError(f"Expected a sweep, but {self._store.uri!r} holds neither {SWEEP} nor {STUDY}")
            if study is None:
                return
            served = study if location.file is None else None
            driver = driver or claim.signer(claim.boards(self._store, served))[0]
            trials = study.get_trials()
            told = description_of(study)
        if driver is not None:
            self._note(f"process {driver[0]} on {driver[1]} is running it now")
        sound = [trial for trial in trials if self._sound(trial, told)]
        self._sweep(told, description, trials, sound, files, driven=driver is not None)
        verified = 0
        for trial in sound:
            checked = TrialCheck(self._store, told, trial, files, self.findings)
            try:
                checked.check(driven=driver is not None)
            except (KeyError, TypeError, ValueError, AttributeError) as error:
                self.findings.append(Finding(trial.number, f"cannot be read, the study is damaged: {error!r}"))
            verified += checked.verified
        states = Counter(state_of(trial, driven=driver is not None) for trial in trials)
        counts = ", ".join(f"{count} {state}" for state, count in states.items())
        self.summary = f"{len(trials)} trials ({counts}), {verified} checkpoints verified"

    def _sound(self, trial: FrozenTrial, told: Description) -> bool:
        """Whether what the study says of a trial can be read; else a finding."""
        try:
            check_trial(trial, told, whole=False)
        except DataError as error:
            self.findings.append(Finding(trial.number, f"is damaged in the study: {error}"))
            return False
        return True

    def _find(self, message: str) -> None:
        self.findings.append(Finding(None, message))

    def _note(self, message: str) -> None:
        self.findings.append(Finding(None, message, note=True))

    # ---- the study

    def _study(
        self, scratch: Path, description: Description | None, location: Location, *, driven: bool
    ) -> Ledger | None:
        """The study, as a copy where it is SQLite; None, and a finding, when it cannot be had."""
        name = name_of(self._store, description)
        if location.file is None:
            return self._load(location, name, location.shown)
        exists = location.file.is_file()
        study = self._copied(location.file, scratch / "live", name) if exists else None
        if self._store.local is not None:
            if not exists and description:
                self._find(f"{STUDY} is missing")
            return study
        data = self._store.read(STUDY)
        if data is None:
            self._find(f"no snapshot of the study is on storage: {STUDY} is missing")
            return study
        kept = scratch / "snapshot.sqlite"
        kept.write_bytes(data)
        snapshot = self._copied(kept, scratch / "snapshot", name)
        if not exists:
            return snapshot
        if study is not None and snapshot is not None and not driven:
            both = [{t.number: t.user_attrs.get("recipe") for t in of.get_trials()} for of in (study, snapshot)]
            two = {n for n in both[0].keys() & both[1].keys() if None is not both[0][n] != both[1][n] is not None}
            if two:
                self._find(f"the study and its snapshot on storage have two recipes of {_trials(two)}: two drivers ran")
            behind = _finished(study) - _finished(snapshot)
            if behind:
                self._find(f"the snapshot of the study on storage is behind: it lacks the end of {_trials(behind)}")
        return study

    def _copied(self, path: Path, copy: Path, name: str) -> Ledger | None:
        """The study in a copy of an SQLite file: opening one may write, and a driver may be writing now."""
        wrong = copy_study(path, copy, thorough=True)
        if wrong is None:
            return self._load(Location.of_file(copy), name, path.name)
        self._find(f"{path.name} is damaged: {wrong}")
        return None

    def _load(self, location: Location, name: str, where: str) -> Ledger | None:
        try:
            study = location.load(name, strict=False)
            if study is None:
                self._find(f"{where} holds no study named {name!r}")
                return None
            study.get_trials()
            description_of(study)
        except ConfigError:  # it is another one's
            raise
        except (SQLAlchemyError, OptunaError, ValueError, KeyError, TypeError) as error:
            self._find(f"{where} is damaged: {clean(first_line(error), 300)}")
            return None
        return study

    # ---- the sweep as a whole

    def _sweep(
        self,
        told: Description,
        description: Description | None,
        trials: list[FrozenTrial],
        sound: list[FrozenTrial],
        files: Files,
        *,
        driven: bool,
    ) -> None:
        different = differences(told, description) if description else []
        if different:
            self._find(f"{SWEEP} and the study differ in {', '.join(different)}")
        numbers = {t.number for t in trials}
        missing = set(range(len(trials))) - numbers
        if missing:
            self._find(f"the study lacks {_trials(missing)}")
        for reference, count in Counter(t.user_attrs.get("reference") for t in sound).items():
            if reference is not None and count > 1:
                self._find(f"the reference {shown(reference)} stands in the study {count} times")
        self._twice(told, sound)
        folders = {m.group(1) for path in files if (m := _FOLDER.match(path))}
        unknown = {int(folder) for folder in folders if len(folder) < 10} - numbers
        if unknown:
            self._find(f"there is a folder, but nothing in the study, of {_trials(unknown)}")
        for path, info in files.items():
            age = time.time() - info.mtime.timestamp() if info.mtime else math.inf
            if _DRAFT.fullmatch(Path(path).name) and (age > _DRAFT_SECONDS or not driven):
                self._note(f"{path} is a draft that a killed process left")

    def _twice(self, told: Description, trials: list[FrozenTrial]) -> None:
        """Equal recipes: of draws from ranges and of the points of a grid, only a trial that ran twice has them."""
        first: dict[str, FrozenTrial] = {}
        for trial in trials:
            if not trial.state.is_finished() or "recipe" not in trial.user_attrs:
                continue
            other = first.setdefault(json.dumps(trial.user_attrs["recipe"], sort_keys=True), trial)
            if other is trial:
                continue
            ranges = any(isinstance(d, FloatDistribution) for d in trial.distributions.values())
            # The others may come back to a corner of the space.
            drawn = told.sampler == "grid" or (told.sampler in ("tpe", "random") and ranges)
            drawn &= "reference" not in {**trial.user_attrs, **other.user_attrs}
            how = "ran" if drawn else "was suggested"
            message = f"has the recipe and seed of trial {other.number}: it {how} twice"
            self.findings.append(Finding(trial.number, message, note=not drawn))


def _files(store: Store) -> Files:
    """Every file of a sweep but the trackers', by its path below the sweep's folder."""
    found = store.fs.get_file_info(fs.FileSelector(store.root, allow_not_found=True, recursive=True))
    paths = {info.path.removeprefix(store.root).lstrip("/"): info for info in found}
    return {p: i for p, i in sorted(paths.items()) if p.split("/")[0] not in ("tensorboard", "wandb")}


def _finished(study: Ledger) -> set[int]:
    return {t.number for t in study.get_trials() if t.state.is_finished()}


def _trials(found: Collection[int]) -> str:
    return f"trial{'s' * (len(found) > 1)} {numbers(found)}"
