"""The recipe: everything that determines one trained model, as one immutable value.

Command-line flags, YAML files, Optuna suggestions and checkpoints all meet here. A recipe is validated when
it is built, goes to JSON and back unchanged, and has a stable hash.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import types
import typing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mollify_core import documents, old_words
from mollify_core.augment.names import with_method
from mollify_core.errors import ConfigError, DataError, MollifyError, nearest
from mollify_core.foreign import clean, shown
from mollify_core.kinds import Flag, ListOf, MapOf, Maybe, Number, Record, Text, Whole, checked, fits
from mollify_core.settings import LABELS, METHODS, Data, Matching, Model, Mollify, Optim, Soft, check

__all__ = [
    "SETTINGS",
    "Data",
    "Matching",
    "Model",
    "Mollify",
    "Optim",
    "Recipe",
    "Soft",
    "parse_setting",
    "section_of",
    "typed",
]

FORMAT = 2
_TUNING = ("network_sha256", "weights", "weights_sha256", "head_lr_factor", "frozen_epochs", "frozen_bn")
_LATER = ("judging_fraction", "background", "balance", "network_kwargs", *_TUNING, *Soft.__dataclass_fields__)
"""Kept recipes lack these settings, which are written where they differ from their defaults."""

_FITS = {int: Whole(-(2**63)), bool: Flag(), str: Text(1000)}
MOST_THREADS = 1024  # of a CPU, for one training
PROVENANCE = Record(
    {},
    {
        **dict.fromkeys(("sweep", "dataset", "fingerprint", "device", "precision", "feed"), Text(1000)),
        **dict.fromkeys(("trial", "seed"), Whole()),
        "threads": Maybe(Whole(1, MOST_THREADS)),
        "verified": Flag(),
        "classes": Whole(2, 10**6),
        **dict.fromkeys(("mean", "std"), ListOf(Number(0, 1), most=100)),
        "commit": Maybe(Text(1000)),
        "versions": MapOf(Text(1000)),
    },
)
"""Where a model comes from, as a report says it; `accumulate` is read by `Parts`."""
_BESIDE = Record({}, {"metrics": MapOf(Number(any=True)), "provenance": PROVENANCE})


@dataclass(frozen=True)
class Recipe:
    """Everything that determines one trained model (given the data set's files and the library versions).

    Fields of the sections have names that are unique over the whole recipe, so a setting is addressed by its
    own name: ``recipe.with_(lr=0.03, max_noise=0.7)``.

    Attributes:
        method: what degrades the images, beside their augmentations: "none"; "mollification" as `mollify` says;
            "matching", the distortions that `matching` says; or a soft augmentation as `soft` says, "soft-crop",
            "soft-erasing", "soft-noise" or "soft-trivialaugment", which joins those of `data.augment`.
        label: what softens a label: "hard", nothing; "fixed", the same `fixed_epsilon` each; "coupled", what its own
            image lost; "uncoupled", whatever its image lost, the mean of what the coupled labels of this recipe would
            get (see `mollify_core.amount`). Where no method and no soft augmentation takes anything, the last two
            soften nothing.
        seed: of all that is drawn in training, in [0, 2**63).
    """

    data: Data = field(default_factory=Data)
    model: Model = field(default_factory=Model)
    method: str = "mollification"
    label: str = "coupled"
    mollify: Mollify = field(default_factory=Mollify)
    matching: Matching = field(default_factory=Matching)
    soft: Soft = field(default_factory=Soft)
    optim: Optim = field(default_factory=Optim)
    seed: int = 0

    def __post_init__(self) -> None:
        for name, known in (("method", METHODS), ("label", LABELS)):
            if (word := getattr(self, name)) not in known:
                raise ConfigError(f"Unknown {name} {shown(word)}{nearest(word, known)}")
        check(0 <= self.seed < 2**63, "seed", "an integer in [0, 2**63)", self.seed)
        with_method(self.data.augment, self.method)  # raises where they do not go together

    @property
    def augmentations(self) -> tuple[str, ...]:
        """All augmentations, in the order of application, a method among them where it is one."""
        return with_method(self.data.augment, self.method)

    def with_(self, settings: dict[str, Any] | None = None, /, **more: Any) -> Recipe:
        """This recipe with some settings replaced, each addressed by its own name; of two for one the later counts.

        Raises:
            ConfigError: a setting does not exist, has the wrong type, or is out of range.
        """
        changes: dict[str, dict[str, Any]] = {}
        top: dict[str, Any] = {}
        for name, value in {**(settings or {}), **more}.items():
            section = section_of(name)
            value = typed(name, value)
            if name == old_words.ALIAS:
                top |= old_words.translated(value)
            elif section is None:
                top[name] = value
            else:
                changes.setdefault(section, {})[name] = value
        sections = {s: dataclasses.replace(getattr(self, s), **kw) for s, kw in changes.items()}
        return dataclasses.replace(self, **sections, **top)

    def get(self, name: str) -> Any:
        """The value of one setting, addressed by its own name."""
        if name == old_words.ALIAS:
            if self._arm is None:
                raise ConfigError(f"Expected a recipe that `arm` can say, but got {self.method!r} with {self.label!r}")
            return self._arm
        section = section_of(name)
        return getattr(self, name) if section is None else getattr(getattr(self, section), name)

    def changed(self) -> dict[str, Any]:
        """The settings that differ from their defaults, each by its own name."""
        default = Recipe()
        return {name: self.get(name) for name in SETTINGS if self.get(name) != default.get(name)}

    def to_dict(self) -> dict[str, Any]:
        """Plain containers, ready for JSON; without those of `_LATER` that have their defaults."""
        tree = {"format": FORMAT, **json.loads(json.dumps(dataclasses.asdict(self)))}
        for name in set(_LATER) - self.changed().keys():
            del tree[section_of(name)][name]
        return {key: value for key, value in tree.items() if value != {}}

    def to_json(self) -> str:
        return json.dumps(self.to_dict(), indent=2) + "\n"

    @classmethod
    def from_dict(cls, tree: Any) -> Recipe:
        """The recipe that `to_dict` of this or an earlier version wrote; settings left out keep their defaults.

        Raises:
            ConfigError: an unknown key (the nearest known one is named), a wrong type or range, or a newer format.
        """
        if not isinstance(tree, dict):
            raise ConfigError(f"Expected a recipe to be a mapping, but got {type(tree).__name__}")
        tree = dict(tree)
        version = tree.pop("format", None)
        if version is not None and not fits(version, Whole(1, FORMAT)):
            raise ConfigError(f"Expected a recipe of format 1 or {FORMAT}, but got format {shown(version)}")
        fields = _FIELDS if version == FORMAT else _NAMED
        flat: dict[str, Any] = {}
        for key, value in tree.items():
            if key not in _SECTIONS:
                if section_of(key) is not None:
                    raise ConfigError(f"Recipe key {shown(key)} belongs inside {section_of(key)!r}")
                flat[key] = value
                continue
            if not isinstance(value, dict):
                raise ConfigError(f"Expected recipe section {key!r} to be a mapping, but got {shown(value)}")
            for name, item in value.items():
                if name not in fields or fields[name][0] != key:
                    own = [n for n, (s, _) in _FIELDS.items() if s == key]
                    raise ConfigError(f"Unknown recipe key {clean(f'{key}.{name}', 60, '')}{nearest(name, own)}")
                flat[name] = item
        return cls().with_(old_words.read(flat) if version == 1 or old_words.ALIAS in flat else flat)

    @classmethod
    def from_json(cls, text: bytes | str) -> Recipe:
        """The recipe that `to_json` wrote; raises as `from_dict` does, and where the text is no JSON."""
        try:
            tree = documents.json_of(text)
        except DataError as error:
            raise ConfigError(f"Cannot read the recipe: {error}") from None
        return cls.from_dict(tree)

    @classmethod
    def from_file(cls, path: str | Path) -> Recipe:
        """A recipe from a .json or .yaml file; a report's best_recipe.json, with its provenance, is one too."""
        return cls.beside(path)[0]

    @classmethod
    def beside(cls, path: str | Path) -> tuple[Recipe, dict[str, Any]]:
        """The same, and what the file says beside its recipe: nothing, or what `_BESIDE` describes.

        Raises:
            ConfigError: it cannot be read, or says something else; the file is named.
        """
        try:
            tree = documents.load(path, "recipe ")
        except DataError as error:
            raise ConfigError(str(error)) from None
        try:
            if isinstance(tree, dict) and "recipe" in tree:
                return cls.from_dict(tree["recipe"]), checked(tree, _BESIDE, "it")
            return cls.from_dict(tree), {}
        except MollifyError as error:
            raise ConfigError(f"Recipe {shown(str(path), 200)}: {error}") from None

    @property
    def hash(self) -> str:
        """Twelve hexadecimal digits, equal for equal recipes in every process and version of Python.

        Only settings that differ from their defaults enter, so that a new setting leaves old hashes as they are, and in
        the words of format 1 where it had some. It said plain training in one way, as mollification with `p_clean` 1:
        that, and the method "none" with hard labels and `p_clean` 1, train the same bits and have one hash.
        """
        canonical = json.dumps(old_words.hashed(self.changed(), self._arm), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()[:12]

    @property
    def _arm(self) -> str | None:
        return old_words.arm_of(self.method, self.label, self.mollify.p_clean)


def _fields() -> tuple[dict[str, type], dict[str, tuple[str | None, Any]]]:
    sections: dict[str, type] = {}
    fields: dict[str, tuple[str | None, Any]] = {}
    for name, kind in typing.get_type_hints(Recipe).items():
        if not dataclasses.is_dataclass(kind):
            fields[name] = (None, kind)
            continue
        sections[name] = typing.cast("type", kind)
        for leaf, leaf_kind in typing.get_type_hints(kind).items():
            if leaf in fields:
                raise AssertionError(f"setting {leaf!r} stands in two sections of the recipe")
            fields[leaf] = (name, leaf_kind)
    return sections, fields


def section_of(name: str) -> str | None:
    """The section that a setting stands in, or stood in; None for the recipe's own (`method`, `label`, `seed`).

    Raises:
        ConfigError: there is no such setting; the nearest one is named.
    """
    if name not in _NAMED:
        raise ConfigError(f"Unknown recipe key {shown(name)}{nearest(name, _FIELDS)}")
    return _NAMED[name][0]


def parse_setting(name: str, text: str) -> Any:
    """The value of setting `name` from its text on a command line: numbers, true/false, none, a,b,c."""
    section_of(name)
    kind = _NAMED[name][1]
    if name == "confidence_table" and text.endswith(".json"):
        return Recipe.from_file(text).soft.confidence_table
    if typing.get_origin(kind) is tuple:
        return tuple(part for part in text.replace("none", "").split(",") if part)
    if kind is str:
        return text
    try:
        return typed(name, documents.json_of({"none": "null"}.get(text.lower(), text.lower())))
    except DataError:
        raise ConfigError(f"Expected `{name}` to be {_describe(kind)}, but got {shown(text)}") from None


def _describe(kind: Any) -> str:
    if isinstance(kind, types.UnionType):
        return " or ".join(_describe(k) for k in typing.get_args(kind))
    if typing.get_origin(kind) is tuple:
        return "a list of names"
    return {float: "a number", int: "an integer", bool: "true or false", str: "a name", type(None): "null"}[kind]


def typed(name: str, value: Any) -> Any:
    """`value` in the type of setting `name` (an int where a float is meant is fine, nothing looser).

    Raises:
        ConfigError: there is no such setting, or the value is of another type.
    """
    section_of(name)
    kind = _NAMED[name][1]
    kinds = typing.get_args(kind) if isinstance(kind, types.UnionType) else (kind,)
    if hasattr(value, "item") and not isinstance(value, (int, float, str)):  # a numpy scalar
        value = value.item()
    for k in kinds:
        if k is float and fits(value, Number()):
            return float(value)
        if k in _FITS and fits(value, _FITS[k]):
            return value
        if k is type(None) and value is None:
            return None
        if typing.get_origin(k) is tuple and fits(value, ListOf(Text(), most=1000)):
            return tuple(value)
    raise ConfigError(f"Expected `{name}` to be {_describe(kind)}, but got {shown(value)}")


_SECTIONS, _FIELDS = _fields()
_NAMED: dict[str, tuple[str | None, Any]] = {**_FIELDS, old_words.ALIAS: ("matching", str)}
SETTINGS: tuple[str, ...] = tuple(_FIELDS)
