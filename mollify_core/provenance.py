"""Where a number comes from: versions and git commit."""

from __future__ import annotations

import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from mollify_core import compiled

_PACKAGES = {"mollify": "mollify-sweeps", **{name: name for name in ("torch", "ray", "optuna", "numpy", "pyarrow")}}


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that matter, and what compiles kernels."""

    def of(package: str) -> str:
        try:
            return version(package)
        except PackageNotFoundError:  # run from a checkout that is not installed
            return "source"

    return {
        "python": platform.python_version(),
        **{name: of(package) for name, package in _PACKAGES.items()},
        "kernels": compiled.describe(),
    }


def commit() -> str | None:
    """The git commit of this code, with "+changes" when files differ from it; None outside a checkout."""

    root = Path(__file__).resolve().parents[1]
    if not (root / ".git").exists():  # installed inside somebody else's repository
        return None

    def git(*args: str) -> str:
        return subprocess.run(["git", *args], cwd=root, capture_output=True, text=True, check=True, timeout=10).stdout

    try:
        return git("rev-parse", "HEAD").strip() + ("+changes" if git("status", "--porcelain", "-uno").strip() else "")
    except (OSError, subprocess.SubprocessError):
        return None
