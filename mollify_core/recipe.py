"""The recipe: everything that determines one trained model, as one immutable value.

Command-line flags, YAML files, Optuna suggestions and checkpoints all meet here. A recipe is validated when
it is built, goes to JSON and back unchanged, and has a stable hash. The defaults are the AISTATS paper's
(Heinonen et al. 2025; the released code's option defaults).
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import types
import typing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mollify_core.errors import ConfigError, nearest

FORMAT = 1
AUGMENTATIONS = ("flip", "crop")
LABEL_MODES = ("ls",)
LOSSES = ("ce",)
SCALINGS = ("normal", "uniform")
PRECISIONS = ("float32", "bf16")


def _check(ok: bool, name: str, expected: str, got: object) -> None:
    if not ok:
        raise ConfigError(f"Expected `{name}` to be {expected}, but got {got!r}")


@dataclass(frozen=True)
class Data:
    """Which images are trained on, and how they are scaled.

    Attributes:
        dataset: name in `mollify_core.datasets`.
        validation_fraction: share of the official training images held out for validation, in (0, 0.5].
        split_seed: seed of the stratified fit/validation split.
        train_fraction: share of the fit images that are used, stratified, in (0, 1].
        scaling: "normal" subtracts the data set's mean and divides by its standard deviation; "uniform"
            maps [0, 1] to [-1, 1].
        augment: image augmentations, applied to uint8 images in the fixed order flip, crop.
    """

    dataset: str = "cifar10"
    validation_fraction: float = 0.1
    split_seed: int = 0
    train_fraction: float = 1.0
    scaling: str = "normal"
    augment: tuple[str, ...] = ("flip", "crop")

    def __post_init__(self) -> None:
        _check(0 < self.validation_fraction <= 0.5, "validation_fraction", "in (0, 0.5]", self.validation_fraction)
        _check(0 < self.train_fraction <= 1, "train_fraction", "in (0, 1]", self.train_fraction)
        _check(self.split_seed >= 0, "split_seed", "a non-negative integer", self.split_seed)
        _check(self.scaling in SCALINGS, "scaling", f"one of {SCALINGS}", self.scaling)
        for name in self.augment:
            if name not in AUGMENTATIONS:
                raise ConfigError(f"Unknown augmentation {name!r}{nearest(name, AUGMENTATIONS)}")
        _check(len(set(self.augment)) == len(self.augment), "augment", "a list without repetition", self.augment)
        object.__setattr__(self, "augment", tuple(a for a in AUGMENTATIONS if a in self.augment))


@dataclass(frozen=True)
class Model:
    """The network.

    Attributes:
        network: name in `mollify_core.networks`.
    """

    network: str = "presnet50"


@dataclass(frozen=True)
class Mollify:
    """The mollification schedule: how an image is degraded at time t in [0, 1] and its label with it.

    Attributes:
        p_clean: share of training images left clean, in [0, 1]; 1 is plain training.
        noise_share: share of noise among the degraded images (the rest is blurred), in [0, 1].
        beta_a, beta_b: t ~ Beta(beta_a, beta_b), both positive.
        max_noise: noise level sigma at t = 1, in (0, 1].
        min_blur: blur scale at t = 0 in pixels, positive.
        max_blur: blur scale at t = 1 in pixels, at least `min_blur`; None is the image side.
        noise_power, blur_power: k_n, k_b: how fast the label follows the degradation, positive.
        smoothing: factor in [0, 1] on every label strength; 0 keeps hard labels.
        label_mode: "ls", smoothing towards the uniform distribution.
        loss: "ce", cross-entropy with soft targets.
    """

    p_clean: float = 1 / 3
    noise_share: float = 0.5
    beta_a: float = 1.0
    beta_b: float = 2.0
    max_noise: float = 1.0
    min_blur: float = 0.3
    max_blur: float | None = None
    noise_power: float = 1.0
    blur_power: float = 1.0
    smoothing: float = 1.0
    label_mode: str = "ls"
    loss: str = "ce"

    def __post_init__(self) -> None:
        for name in ("p_clean", "noise_share", "smoothing"):
            _check(0 <= getattr(self, name) <= 1, name, "in [0, 1]", getattr(self, name))
        for name in ("beta_a", "beta_b", "min_blur", "noise_power", "blur_power"):
            _check(getattr(self, name) > 0, name, "positive", getattr(self, name))
        _check(0 < self.max_noise <= 1, "max_noise", "in (0, 1]", self.max_noise)
        if self.max_blur is not None:
            _check(self.max_blur >= self.min_blur, "max_blur", f"at least min_blur = {self.min_blur}", self.max_blur)
        _check(self.label_mode in LABEL_MODES, "label_mode", f"one of {LABEL_MODES}", self.label_mode)
        _check(self.loss in LOSSES, "loss", f"one of {LOSSES}", self.loss)


@dataclass(frozen=True)
class Optim:
    """Optimisation: SGD with momentum, cosine decay per epoch to zero.

    Attributes:
        epochs: passes over the fit images, at least 1.
        batch_size: images per step over all workers together, at least 1.
        lr: learning rate of the first epoch, positive.
        momentum: in [0, 1).
        nesterov: Nesterov momentum.
        weight_decay: L2 factor on all parameters, at least 0.
        precision: "float32", or "bf16" autocast of the network (degradation is always float32).
    """

    epochs: int = 200
    batch_size: int = 128
    lr: float = 0.01
    momentum: float = 0.9
    nesterov: bool = False
    weight_decay: float = 5e-4
    precision: str = "bf16"

    def __post_init__(self) -> None:
        _check(self.epochs >= 1, "epochs", "a positive integer", self.epochs)
        _check(self.batch_size >= 1, "batch_size", "a positive integer", self.batch_size)
        _check(self.lr > 0, "lr", "positive", self.lr)
        _check(0 <= self.momentum < 1, "momentum", "in [0, 1)", self.momentum)
        _check(not self.nesterov or self.momentum > 0, "nesterov", "false when momentum is 0", self.nesterov)
        _check(self.weight_decay >= 0, "weight_decay", "at least 0", self.weight_decay)
        _check(self.precision in PRECISIONS, "precision", f"one of {PRECISIONS}", self.precision)


@dataclass(frozen=True)
class Recipe:
    """Everything that determines one trained model (given the data set's files and the library versions).

    Fields of the sections have names that are unique over the whole recipe, so a setting is addressed by its
    own name: ``recipe.with_(lr=0.03, max_noise=0.7)``.
    """

    data: Data = field(default_factory=Data)
    model: Model = field(default_factory=Model)
    mollify: Mollify = field(default_factory=Mollify)
    optim: Optim = field(default_factory=Optim)
    seed: int = 0

    def __post_init__(self) -> None:
        _check(0 <= self.seed < 2**63, "seed", "an integer in [0, 2**63)", self.seed)

    def with_(self, settings: dict[str, Any] | None = None, /, **more: Any) -> Recipe:
        """This recipe with some settings replaced, each addressed by its own name.

        Raises:
            ConfigError: a setting does not exist, has the wrong type, or is out of range.
        """
        changes: dict[str, dict[str, Any]] = {}
        top: dict[str, Any] = {}
        for name, value in {**(settings or {}), **more}.items():
            section = section_of(name)
            value = _coerce(name, value)
            if section is None:
                top[name] = value
            else:
                changes.setdefault(section, {})[name] = value
        sections = {s: dataclasses.replace(getattr(self, s), **kw) for s, kw in changes.items()}
        return dataclasses.replace(self, **sections, **top)

    def get(self, name: str) -> Any:
        """The value of one setting, addressed by its own name."""
        section = section_of(name)
        return getattr(self, name) if section is None else getattr(getattr(self, section), name)

    def to_dict(self) -> dict[str, Any]:
        """Plain containers, ready for JSON."""
        return {"format": FORMAT, **json.loads(json.dumps(dataclasses.asdict(self)))}

    def to_json(self) -> str:
        return json.dumps(self.to_dict(), indent=2) + "\n"

    @classmethod
    def from_dict(cls, tree: Any) -> Recipe:
        """The recipe that `to_dict` wrote; settings left out keep their defaults.

        Raises:
            ConfigError: an unknown key (the nearest known one is named), a wrong type or range, or a newer format.
        """
        if not isinstance(tree, dict):
            raise ConfigError(f"Expected a recipe to be a mapping, but got {type(tree).__name__}")
        tree = dict(tree)
        version = tree.pop("format", FORMAT)
        if version != FORMAT:
            raise ConfigError(f"Expected a recipe of format {FORMAT}, but got format {version!r}")
        flat: dict[str, Any] = {}
        for key, value in tree.items():
            if key not in _SECTIONS:
                if section_of(key) is not None:
                    raise ConfigError(f"Recipe key {key!r} belongs inside {section_of(key)!r}")
                flat[key] = value
                continue
            if not isinstance(value, dict):
                raise ConfigError(f"Expected recipe section {key!r} to be a mapping, but got {value!r}")
            for name, item in value.items():
                if name not in _FIELDS or _FIELDS[name][0] != key:
                    own = [n for n, (s, _) in _FIELDS.items() if s == key]
                    raise ConfigError(f"Unknown recipe key {key}.{name}{nearest(name, own)}")
                flat[name] = item
        return cls().with_(flat)

    @classmethod
    def from_json(cls, text: str) -> Recipe:
        try:
            tree = json.loads(text)
        except json.JSONDecodeError as error:
            raise ConfigError(f"The recipe is not valid JSON: {error}") from None
        return cls.from_dict(tree)

    @classmethod
    def from_file(cls, path: str | Path) -> Recipe:
        """A recipe from a .json or .yaml file; a report's best_recipe.json, with its provenance, is one too."""
        import yaml

        try:
            text = Path(path).read_text(encoding="utf-8")
            tree = yaml.safe_load(text) if str(path).endswith((".yaml", ".yml")) else json.loads(text)
        except (OSError, UnicodeDecodeError, ValueError, yaml.YAMLError) as error:
            raise ConfigError(f"Cannot read recipe {str(path)!r}: {' '.join(str(error).split())}") from None
        if isinstance(tree, dict) and "recipe" in tree:
            tree = tree["recipe"]
        return cls.from_dict(tree)

    @property
    def hash(self) -> str:
        """Twelve hexadecimal digits, equal for equal recipes in every process and version of Python.

        Only settings that differ from their defaults enter, so that a new setting leaves old hashes as they are.
        """
        default, own = _flatten(Recipe()), _flatten(self)
        changed = {name: value for name, value in own.items() if value != default[name]}
        canonical = json.dumps([FORMAT, changed], sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()[:12]


def _flatten(recipe: Recipe) -> dict[str, Any]:
    return {name: recipe.get(name) for name in SETTINGS}


def _fields() -> tuple[dict[str, type], dict[str, tuple[str | None, Any]]]:
    sections: dict[str, type] = {}
    fields: dict[str, tuple[str | None, Any]] = {}
    for name, kind in typing.get_type_hints(Recipe).items():
        if not dataclasses.is_dataclass(kind):
            fields[name] = (None, kind)
            continue
        sections[name] = typing.cast(type, kind)
        for leaf, leaf_kind in typing.get_type_hints(kind).items():
            if leaf in fields:
                raise AssertionError(f"setting {leaf!r} stands in two sections of the recipe")
            fields[leaf] = (name, leaf_kind)
    return sections, fields


def section_of(name: str) -> str | None:
    """The section that a setting stands in; None for the recipe's own (`seed`).

    Raises:
        ConfigError: there is no such setting; the nearest one is named.
    """
    if name not in _FIELDS:
        raise ConfigError(f"Unknown recipe key {name!r}{nearest(name, _FIELDS)}")
    return _FIELDS[name][0]


def parse_setting(name: str, text: str) -> Any:
    """The value of setting `name` from its text on a command line: numbers, true/false, none, a,b,c."""
    section_of(name)
    kind = _FIELDS[name][1]
    if typing.get_origin(kind) is tuple:
        return tuple(part for part in text.replace("none", "").split(",") if part)
    if kind is str:
        return text
    try:
        return _coerce(name, json.loads({"none": "null", "true": "true", "false": "false"}.get(text.lower(), text)))
    except json.JSONDecodeError:
        raise ConfigError(f"Expected `{name}` to be {_describe(kind)}, but got {text!r}") from None


def _describe(kind: Any) -> str:
    if isinstance(kind, types.UnionType):
        return " or ".join(_describe(k) for k in typing.get_args(kind))
    if typing.get_origin(kind) is tuple:
        return "a list of names"
    return {float: "a number", int: "an integer", bool: "true or false", str: "a name", type(None): "null"}[kind]


def _coerce(name: str, value: Any) -> Any:
    """`value` in the type of setting `name` (an int where a float is meant is fine, nothing looser)."""
    kind = _FIELDS[name][1]
    kinds = typing.get_args(kind) if isinstance(kind, types.UnionType) else (kind,)
    if hasattr(value, "item") and not isinstance(value, (int, float, str)):  # a numpy scalar
        value = value.item()
    for k in kinds:
        if k is float and isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value):
            return float(value)
        if k is int and isinstance(value, int) and not isinstance(value, bool):
            return value
        if k in (bool, str) and isinstance(value, k):
            return value
        if k is type(None) and value is None:
            return None
        if (
            typing.get_origin(k) is tuple
            and isinstance(value, (list, tuple))
            and all(isinstance(v, str) for v in value)
        ):
            return tuple(value)
    raise ConfigError(f"Expected `{name}` to be {_describe(kind)}, but got {value!r}")


_SECTIONS, _FIELDS = _fields()
SETTINGS: tuple[str, ...] = tuple(_FIELDS)
