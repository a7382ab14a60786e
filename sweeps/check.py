"""`python sweeps/check.py SWEEP`: proves that nothing of a sweep is lost, doubled or damaged, or says what is.

Two witnesses are held against each other: the study, and the folder of trials on storage. Nothing is written to
either, and a sweep may be checked while it runs.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import re
import sqlite3
import sys
import tempfile
import textwrap
import time
from collections import Counter
from collections.abc import Callable, Collection
from pathlib import Path
from typing import TYPE_CHECKING, Any

if __name__ == "__main__":  # run as a script: make the packages importable, and sweeps/ itself not
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from mollify_core.errors import ConfigError, MollifyError, StorageError, first_line
from sweeps.check_trial import Finding, TrialCheck, numbers

if TYPE_CHECKING:  # Optuna and torch are slow to import: --help answers at once
    import optuna
    from optuna.trial import FrozenTrial
    from pyarrow.fs import FileInfo

    from sweeps.store import Store

    Files = dict[str, FileInfo]
    Find = Callable[[str], None]

_EPILOG = """
what is proved:
  - every trial ran exactly once to its end: one final state, its epochs' values without gap or double, in order
  - each trial's recipe is the base recipe with its parameters, and the same in the study, its folder and checkpoints
  - metrics.jsonl and validation.npz agree with the study
  - a pruned trial was told to stop by the stored answer of the pruner, and no other one was
  - no trial is left running, unless a driver on this machine holds the sweep
  - every checkpoint is whole: the sha256 of each of its files
  - the snapshot in object storage of a study in SQLite opens and is not behind

examples:
  python sweeps/check.py runs/cifar100-presnet18-1a2b3c
  python sweeps/check.py s3://bucket/sweeps/first s3://bucket/sweeps/second
  python sweeps/check.py runs/first --study-url postgresql://user:password@host/studies

One line for each finding. A note, such as a damaged checkpoint that was set aside and replaced, is no finding.
Exit code: 0 sound, 1 findings, 2 bad input. A trial left running is continued by the command that started the sweep.
"""
_SQLITE = "sqlite:///"
_STUDY = "study.sqlite"
_FOLDER = re.compile(r"trials/(\d{5,})(/|$)")
_DRAFT = re.compile(r".*\.tmp|\.probe-\d+")
_DRAFT_SECONDS = 60.0  # so long a living driver may take to write a small file


def check(sweep: str, study_url: str | None = None) -> list[Finding]:
    """Checks the sweep in a local folder or at an s3:// URI.

    Args:
        sweep: the sweep's folder, <storage>/<name>.
        study_url: Optuna storage URL of its study, when that is not SQLite beside the results.

    Raises:
        ConfigError: there is no sweep, or its study lives elsewhere.
        StorageError: the storage or the study cannot be reached; nothing is known about the sweep.
    """
    return Check(sweep, study_url).findings


class Check:
    """One check of one sweep, made when it is built; see `check`.

    Attributes:
        findings: of the sweep, then by trial.
        summary: what was looked at, in words.
    """

    def __init__(self, sweep: str, study_url: str | None = None) -> None:
        from sweeps.store import Store
        from sweeps.study_storage import quiet_optuna

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
        from sweeps import claim
        from sweeps.study_storage import study_errors

        text = self._store.read("sweep.json")
        try:
            description: dict[str, Any] = {**json.loads(text or b"{}")}
        except (ValueError, TypeError):
            description = {}
        if not description:
            self._find("sweep.json is " + ("missing" if text is None else "damaged"))
        live = self._live(description.get("storage"), description.get("study_url", ""))
        driver = claim.driver_of(self._store.local or live.parent)
        with tempfile.TemporaryDirectory(prefix="mollify-check-") as scratch, study_errors():
            # The study first: whatever it names is on storage already, also when a driver is at work.
            study = self._study(Path(scratch), description, url, live, driven=driver is not None)
            files = _files(self._store)
            if text is None and study is None and _STUDY not in files:
                raise ConfigError(f"Expected a sweep, but {self._store.uri!r} holds neither sweep.json nor {_STUDY}")
            if study is None:
                return
            driver = driver or claim.signer(study)[0]
            trials = study.get_trials(deepcopy=False)
            told: dict[str, Any] = study.user_attrs["sweep"]
        if driver is not None:
            self._note(f"process {driver[0]} on {driver[1]} is running it now")
        self._sweep(told, description, trials, files, driven=driver is not None)
        verified = 0
        for trial in trials:
            checked = TrialCheck(self._store, told, trial, files, self.findings)
            try:
                checked.check(driven=driver is not None)
            except (KeyError, TypeError, ValueError, AttributeError) as error:
                self.findings.append(Finding(trial.number, f"cannot be read, the study is damaged: {error!r}"))
            verified += checked.verified
        states = Counter(trial.state.name.lower() for trial in trials)
        counts = ", ".join(f"{count} {state}" for state, count in states.items())
        self.summary = f"{len(trials)} trials ({counts}), {verified} checkpoints verified"

    def _find(self, message: str) -> None:
        self.findings.append(Finding(None, message))

    def _note(self, message: str) -> None:
        self.findings.append(Finding(None, message, note=True))

    # ---- the study

    def _live(self, storage: str | None, url: str) -> Path:
        """Where the live study is, or would be, as SQLite: a sweep's own, also when its folder was moved."""
        known = Path(url.removeprefix(_SQLITE))
        if self._store.local and (not url.startswith(_SQLITE) or str(known.parent) == storage):
            return self._store.local / _STUDY
        return known

    def _study(
        self, scratch: Path, description: dict[str, Any], url: str | None, live: Path, *, driven: bool
    ) -> optuna.Study | None:
        """The study, as a copy where it is SQLite; None, and a finding, when it cannot be had."""
        from sweeps.study_storage import hide_password

        name, known = description.get("name") or Path(self._store.root).name, description.get("study_url", _SQLITE)
        if url is None and not known.startswith(_SQLITE):
            raise ConfigError(f"The study of this sweep is at {known}; give its address by --study-url")
        if url is not None and not url.startswith(_SQLITE):
            return self._load(url, name, hide_password(url))
        path = live if url is None else Path(url.removeprefix(_SQLITE))
        exists = path.is_file()
        if url is not None and not exists:
            raise ConfigError(f"Expected the study of --study-url in {str(path)!r}, but there is no such file")
        study = self._copied(scratch / "live", name, path) if exists else None
        if self._store.local is not None:
            if not exists and description:
                self._find(f"{_STUDY} is missing")
            return study
        data = self._store.read(_STUDY)
        if data is None:
            self._find(f"no snapshot of the study is on storage: {_STUDY} is missing")
            return study
        (scratch / "snapshot.sqlite").write_bytes(data)
        snapshot = self._copied(scratch / "snapshot", name, scratch / "snapshot.sqlite")
        if not exists:
            return snapshot
        if study is not None and snapshot is not None and not driven:
            behind = _finished(study) - _finished(snapshot)
            if behind:
                self._find(f"the snapshot of the study on storage is behind: it lacks the end of {_trials(behind)}")
        return study

    def _copied(self, copy: Path, name: str, path: Path) -> optuna.Study | None:
        """The study in a copy of an SQLite file: opening one may write, and a driver may be writing now."""
        try:
            with contextlib.closing(sqlite3.connect(path, timeout=60)) as source:
                with contextlib.closing(sqlite3.connect(copy)) as target:
                    source.backup(target)
                    (verdict,) = target.execute("PRAGMA integrity_check(1)").fetchone()
        except (sqlite3.DatabaseError, UnicodeDecodeError) as error:
            verdict = str(error)
        if verdict == "ok":
            return self._load(f"{_SQLITE}{copy}", name, path.name)
        self._find(f"{path.name} is damaged: {verdict.splitlines()[-1]}")
        return None

    def _load(self, url: str, name: str, shown: str) -> optuna.Study | None:
        import sqlalchemy.exc
        from optuna.exceptions import OptunaError

        from sweeps.study_storage import load_study

        try:
            study = load_study(url, name)
            if study is None:
                self._find(f"{shown} holds no study named {name!r}")
                return None
            study.get_trials(deepcopy=False)
        except (sqlalchemy.exc.SQLAlchemyError, OptunaError, ValueError, KeyError, TypeError) as error:
            self._find(f"{shown} is damaged: {first_line(error)}")
            return None
        if "sweep" not in study.user_attrs:
            raise ConfigError(f"Expected the study of a sweep, but {name!r} was not made by mollify")
        return study

    # ---- the sweep as a whole

    def _sweep(
        self,
        told: dict[str, Any],
        description: dict[str, Any],
        trials: list[FrozenTrial],
        files: Files,
        *,
        driven: bool,
    ) -> None:
        from sweeps.study_storage import IDENTITY

        different = [key for key in IDENTITY if description and description.get(key) != told.get(key)]
        if different:
            self._find(f"sweep.json and the study differ in {', '.join(different)}")
        numbers = {t.number for t in trials}
        missing = set(range(len(trials))) - numbers
        if missing:
            self._find(f"the study lacks {_trials(missing)}")
        for reference, count in Counter(t.user_attrs.get("reference") for t in trials).items():
            if reference is not None and count > 1:
                self._find(f"the reference {reference!r} stands in the study {count} times")
        self._twice(told, trials)
        unknown = {int(m.group(1)) for path in files if (m := _FOLDER.match(path))} - numbers
        if unknown:
            self._find(f"there is a folder, but nothing in the study, of {_trials(unknown)}")
        for path, info in files.items():
            age = time.time() - info.mtime.timestamp() if info.mtime else math.inf
            if _DRAFT.fullmatch(Path(path).name) and (age > _DRAFT_SECONDS or not driven):
                self._note(f"{path} is a draft that a killed process left")

    def _twice(self, told: dict[str, Any], trials: list[FrozenTrial]) -> None:
        """Equal recipes: of draws from ranges and of the points of a grid, only a trial that ran twice has them."""
        from optuna.distributions import FloatDistribution

        first: dict[str, FrozenTrial] = {}
        for trial in trials:
            if not trial.state.is_finished() or "recipe" not in trial.user_attrs:
                continue
            other = first.setdefault(json.dumps(trial.user_attrs["recipe"], sort_keys=True), trial)
            if other is trial:
                continue
            ranges = any(isinstance(d, FloatDistribution) for d in trial.distributions.values())
            # The others may come back to a corner of the space.
            drawn = told["sampler"] == "grid" or (told["sampler"] in ("tpe", "random") and ranges)
            drawn &= "reference" not in {**trial.user_attrs, **other.user_attrs}
            how = "ran" if drawn else "was suggested"
            message = f"has the recipe and seed of trial {other.number}: it {how} twice"
            self.findings.append(Finding(trial.number, message, note=not drawn))


def _files(store: Store) -> Files:
    """Every file of a sweep but the trackers', by its path below the sweep's folder."""
    from pyarrow import fs

    found = store.fs.get_file_info(fs.FileSelector(store.root, allow_not_found=True, recursive=True))
    paths = {info.path.removeprefix(store.root).lstrip("/"): info for info in found}
    return {p: i for p, i in sorted(paths.items()) if p.split("/")[0] not in ("tensorboard", "wandb")}


def _finished(study: optuna.Study) -> set[int]:
    return {t.number for t in study.get_trials(deepcopy=False) if t.state.is_finished()}


def _trials(found: Collection[int]) -> str:
    return f"trial{'s' * (len(found) > 1)} {numbers(found)}"


def _parser() -> argparse.ArgumentParser:
    from sweeps.arguments import Parser

    p = Parser(
        prog="sweeps/check.py",
        description="Prove that nothing of a sweep is lost, doubled or damaged, or say what is.",
        epilog=textwrap.dedent(_EPILOG),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    p.add_argument("sweep", nargs="+", metavar="SWEEP", help="a sweep's folder, or its s3://bucket/prefix/name")
    p.add_argument("--study-url", metavar="URL", help="where the study lives, if not in SQLite beside the results")
    return p


def main(argv: list[str] | None = None) -> int:
    """Checks sweeps; returns the exit code: 0 sound, 1 findings, 2 bad input."""
    try:
        args = _parser().parse_args(argv)
        sound = True
        for sweep in args.sweep:
            checked = Check(sweep, args.study_url)
            for finding in checked.findings:
                print(finding)
            count = sum(not finding.note for finding in checked.findings)
            sound &= not count
            verdict = f"{count} finding{'s' * (count > 1)}" if count else "sound"
            print(f"{sweep}: {verdict}; {checked.summary}")
        return 0 if sound else 1
    except MollifyError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
