"""What the environment says where the command line says nothing: wandb's and Ray's own variables."""

from __future__ import annotations

import argparse
import os

from mollify_core.errors import ConfigError
from mollify_core.foreign import expanded, shown
from mollify_sweeps.plan.options import Following

_MODES = {"online": "online", "offline": "offline", "dryrun": "offline", "run": "online", "shared": "online"}
_MODES |= {"disabled": "off"}
_FORBIDDEN = "/\\#?%:"  # in the name of a wandb project; and no more than this many characters
_LONGEST = 128


def take_address(args: argparse.Namespace) -> None:
    """$RAY_ADDRESS in the place of --address; that of a dashboard (http://…) is for --submit alone."""
    found = os.environ.get("RAY_ADDRESS", "")
    if args.address is None and args.submit is None and found and not found.startswith(("http://", "https://")):
        args.address = found
        args.environment = (*args.environment, "RAY_ADDRESS")


def following(args: argparse.Namespace) -> Following:
    """Who follows the sweep, as the options say, then $WANDB_MODE, $WANDB_PROJECT and $WANDB_DIR.

    Raises:
        ConfigError: wandb would not take it.
    """

    def taken(name: str) -> str | None:
        value = os.environ.get(name)
        if value:
            args.environment = (*args.environment, name)
        return value or None

    mode, folder = args.wandb, None
    if mode is None and (said := taken("WANDB_MODE")) is not None:
        if said.lower() not in _MODES:
            raise ConfigError(f"Expected $WANDB_MODE to be online, offline or disabled, but got {shown(said)}")
        mode = _MODES[said.lower()]
    if mode is None and os.environ.get("WANDB_DISABLED", "").lower() in ("1", "true", "yes"):
        taken("WANDB_DISABLED")
        mode = "off"
    project = args.wandb_project
    if mode != "off":
        project = project or taken("WANDB_PROJECT")
        folder = taken("WANDB_DIR")
    _check_project(project or "mollify")
    return Following(
        wandb=mode or "offline",
        project=project or "mollify",
        dashboard=args.dashboard,
        asked=mode is not None,
        folder=None if folder is None else str(expanded(folder).absolute()),
    )


def _check_project(name: str) -> None:
    if len(name) > _LONGEST:
        raise ConfigError(f"Expected a wandb project of at most {_LONGEST} characters, but got {len(name)}")
    wrong = sorted({c for c in name if c in _FORBIDDEN or not c.isprintable()})
    if wrong or not name.strip():
        raise ConfigError(f"Expected a wandb project's name without any of {_FORBIDDEN}, but got {shown(name)}")
