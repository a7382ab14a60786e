"""What recipes of format 1 said: one setting, `arm`, where `method` and `label` are now.

Kept sweeps still say it in their commands, space files, parameters and files, and are found by hashes of it.
"""

from __future__ import annotations

from typing import Any

from mollify_core.errors import ConfigError
from mollify_core.settings import check

ALIAS = "arm"
_ARMS = {
    "off": ("mollification", "coupled"),
    "hard": ("matching", "hard"),
    "smoothing": ("matching", "fixed"),
    "matching": ("matching", "coupled"),
}
_PLAIN = ("none", "hard")


def translated(arm: str) -> dict[str, str]:
    """The settings that an arm stands for.

    Raises:
        ConfigError: there was no such arm.
    """
    check(arm in tuple(_ARMS), ALIAS, f"one of {tuple(_ARMS)}", arm)
    method, label = _ARMS[arm]
    return {"method": method, "label": label}


def arm_of(method: str, label: str, p_clean: float) -> str | None:
    """The arm that said the same, None where none did. Plain training was mollification of no image."""
    if (method, label) == _PLAIN and p_clean == 1:
        return "off"
    return next((arm for arm, words in _ARMS.items() if words == (method, label)), None)


def read(settings: dict[str, Any]) -> dict[str, Any]:
    """The settings of a recipe of format 1, each by its own name, in the words of now; their numbers are the same.

    Raises:
        ConfigError: there was no such arm, or `method` or `label`, which format 1 has not, are given too.
    """
    for name in ("method", "label"):
        if name in settings:
            raise ConfigError(f"Expected `{name}` in a recipe of format 2 without `arm`, but got it in one of format 1")
    rest = {name: value for name, value in settings.items() if name != ALIAS}
    arm = settings.get(ALIAS, "off")
    if arm == "off" and rest.get("p_clean") == 1:
        return {**rest, "method": "none", "label": "hard"}
    return {**rest, **translated(arm)}


def hashed(changed: dict[str, Any], arm: str | None) -> list[Any]:
    """What the hash of a recipe is taken of: its changed settings, as format 1 said them where it could.

    Args:
        changed: settings that differ from their defaults, each by its own name.
        arm: what `arm_of` says of the recipe.
    """
    if arm is not None:
        changed = {name: value for name, value in changed.items() if name not in ("method", "label")}
        changed |= {} if arm == "off" else {ALIAS: arm}
    return [1, changed]
