"""What a sweep is, as sweep.json and its study say it: the one place that knows what each format has meant.

Format 1 is what version 0.1 wrote, without a number. Format 2 has the same keys, and the number. Format 3 has `methods`
where several are searched, each in a study of its own; without them the sweep goes on under the rules of version 0.1.
"""

from __future__ import annotations

import dataclasses
import datetime
import json
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from mollify_core.documents import json_of
from mollify_core.errors import ConfigError, DataError
from mollify_core.foreign import shown
from mollify_core.kinds import Flag, ListOf, MapOf, Maybe, Number, Record, Text, Whole, checked, fits
from mollify_core.recipe import Recipe

if TYPE_CHECKING:  # slow to import
    import optuna

    from mollify_sweeps.study.ledger import Ledger

FORMAT = 3
_IDENTITY = ("fingerprint", "objectives", "base_recipe", "space", "sampler", "pruner", "seed")
_KEY = "sweep"  # the study's attribute


@dataclass(frozen=True)
class Started:
    """How a sweep was started the last time; kept in sweep.json only.

    Attributes:
        program, command: "sweeps/search.py" or "sweeps/reproduce.py", and its arguments, without a password.
        cwd, host: the folder in which they were given, and the machine.
        trials: how many the sweep then had in all.
    """

    program: str = "sweeps/search.py"
    command: tuple[str, ...] | None = None
    cwd: str | None = None
    host: str | None = None
    trials: int | None = None


@dataclass(frozen=True)
class Description:
    """What a sweep is.

    Attributes:
        name: of the sweep, its folder and its study.
        fingerprint: of the data set.
        objectives: what is minimised on validation.
        base_recipe: the recipe that trials vary, as `Recipe.to_dict` gives it.
        space: searched setting -> {low, high, log} or {choices}; empty where recipes are given.
        sampler, pruner, seed: of the search.
        methods: method -> {"settings": what makes a recipe one of it, "space": names of what is searched in it}; empty
            where recipes are given.
        matters: of a confirmation, the smallest difference that matters, as a share of the best plain recipe's value.
        feed: how its images get to a training, "resident" or "stream": their order differs.
        groups: sha256 of which of its images belong together, see `mollify_core.datasets.groups`; "" where none do.
        classes, mean, std: of its images, as `DatasetSpec` says them; 0 and empty where an earlier version wrote it.
        dataset, verified, network: the data set's name, whether its files were checked, the network's name.
        versions, commit, created: where its numbers come from, and the time (ISO 8601) at which it was made.
        storage, study_url: where it is kept; without a password.
        started: see `Started`; None in the study.
    """

    name: str
    fingerprint: str
    objectives: tuple[str, ...]
    base_recipe: dict[str, Any]
    space: dict[str, dict[str, Any]]
    sampler: str
    pruner: str
    seed: int
    methods: dict[str, dict[str, Any]] = field(default_factory=dict)
    matters: float | None = None
    feed: str = "resident"
    groups: str = ""
    classes: int = 0
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    dataset: str = ""
    verified: bool = True
    network: str = ""
    versions: dict[str, str] = field(default_factory=dict)
    commit: str | None = None
    created: str | None = None
    storage: str = ""
    study_url: str = ""
    started: Started | None = None

    @property
    def identity(self) -> dict[str, Any]:
        """What makes two sweeps one: plain containers, equal where the sweeps are."""
        found = {key: _plain(getattr(self, key)) for key in _IDENTITY}
        found |= {"methods": self.methods} if self.methods else {}
        found |= {"groups": self.groups} if self.groups else {}
        return found | ({"feed": self.feed} if self.feed != "resident" else {})

    @property
    def units(self) -> str:
        """What is independent of its like among the images, in words, as intervals count it."""
        return "groups of images" if self.groups else "images"

    def to_dict(self) -> dict[str, Any]:
        """The content of sweep.json; without what is not known."""
        tree = {"format": FORMAT, **{f.name: _plain(getattr(self, f.name)) for f in dataclasses.fields(self)}}
        del tree["started"]
        for name in ("methods", "matters", "groups", "classes", "mean", "std"):
            if not tree[name]:
                del tree[name]
        if self.feed == "resident":
            del tree["feed"]
        return {**tree, **({} if self.started is None else {k: _plain(v) for k, v in vars(self.started).items()})}

    @classmethod
    def from_dict(cls, tree: Any) -> Description:
        """Reads what any version has written.

        Raises:
            DataError: it is no description of a sweep, or of a later version.
        """
        if not isinstance(tree, dict):
            raise DataError(f"Expected {_WHAT} to be a mapping, but got {type(tree).__name__}")
        written = tree.get("format", 1)
        if not fits(written, Whole(1, FORMAT)):
            raise DataError(f"Expected {_WHAT} of format 1 to {FORMAT}, but got {shown(written)}")
        checked(tree, _RECORD, _WHAT)
        known = {name: _frozen(tree[name]) for name in (*_REQUIRED, *_OPTIONAL) if name in tree}
        _check(known)
        started = {
            name: _frozen(tree[name]) for name in _STARTED if tree.get(name) is not None
        }  # a budget: no `trials`
        return cls(**known, started=Started(**started) if started else None)

    @classmethod
    def from_json(cls, text: bytes | str) -> Description:
        """The same of the text of sweep.json.

        Raises:
            DataError: see `from_dict`; or it is no JSON.
        """
        try:
            tree = json_of(text)
        except DataError as error:
            raise DataError(f"Expected {_WHAT} to be JSON: {error}") from None
        return cls.from_dict(tree)

    def to_json(self) -> bytes:
        """The text of sweep.json."""
        return (json.dumps(self.to_dict(), indent=2) + "\n").encode()


def described(study: Ledger | optuna.Study) -> Description | None:
    """What a study says of its sweep; None where it says nothing (yet).

    Raises:
        DataError: it says something else.
    """
    tree = study.user_attrs.get(_KEY)
    return None if tree is None else Description.from_dict(tree)


def describe(study: optuna.Study, description: Description) -> None:
    """Writes it into the study, unless it is there."""
    if _KEY not in study.user_attrs:
        study.set_user_attr(_KEY, dataclasses.replace(description, started=None).to_dict())
        study.set_metric_names(list(description.objectives))


def description_of(study: Ledger) -> Description:
    """What a study says of its sweep.

    Raises:
        ConfigError: it is not a sweep's.
        DataError: see `described`.
    """
    found = described(study)
    if found is None:
        raise ConfigError(f"Expected the study of a sweep, but {study.name!r} was not made by mollify")
    return found


_WHAT = "a sweep's description"
_RANGE = Record({}, {"low": Number(), "high": Number(), "log": Flag(), "choices": ListOf(None, 1, 1000)})
_METHOD = Record({"settings": MapOf(None, 1000), "space": ListOf(Text(200), most=1000)})
_REQUIRED: dict[str, Any] = {
    "name": Text(1000),
    "fingerprint": Text(1000),
    "objectives": ListOf(Text(1000), 1, 100),
    "base_recipe": MapOf(None, 1000),
    "space": MapOf(_RANGE, 1000),
    "sampler": Text(1000),
    "pruner": Text(1000),
    "seed": Whole(),
}
_OPTIONAL: dict[str, Any] = {
    "methods": MapOf(_METHOD, 100),
    "matters": Maybe(Number(0, 1e6)),
    "feed": Text(20),
    "groups": Text(64),
    "classes": Whole(0, 10**6),
    **dict.fromkeys(("mean", "std"), ListOf(Number(0, 1), most=100)),
    **dict.fromkeys(("dataset", "network"), Text(1000)),
    "verified": Flag(),
    "versions": MapOf(Text(1000), 1000),
    **dict.fromkeys(("commit", "created"), Maybe(Text(1000))),
    **dict.fromkeys(("storage", "study_url"), Text()),
}
_STARTED: dict[str, Any] = {
    "program": Text(200),
    "command": ListOf(Text(), most=10_000),
    "cwd": Text(),
    "host": Text(1000),
    "trials": Whole(1, 10**9),
}
_MEASURE = re.compile(r"(clean|corrupted)_\w{1,40}", re.ASCII)
_RECORD = Record(_REQUIRED, _OPTIONAL | {name: Maybe(kind) for name, kind in _STARTED.items()})


def _check(known: dict[str, Any]) -> None:
    """Raises a DataError for what has its kind but says nothing that can be: settings, names and times."""
    for name in known["objectives"]:
        if not _MEASURE.fullmatch(name):
            what = f"`objectives` of {_WHAT} to be measures, as 'corrupted_nll'"
            raise DataError(f"Expected {what}, but got {shown(name)}")
    try:
        Recipe.from_dict(known["base_recipe"])
    except ConfigError as error:
        raise DataError(f"{_WHAT[0].upper()}{_WHAT[1:]} is damaged: {error}") from None
    if known.get("created") is not None:
        try:
            fine = 1980 <= datetime.datetime.fromisoformat(known["created"]).year < 9000
        except ValueError:
            fine = False
        if not fine:
            raise DataError(f"Expected `created` of {_WHAT} to be a time, but got {shown(known['created'])}")


def _frozen(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value
