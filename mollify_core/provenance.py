"""Where a number comes from: versions and git commit."""

from __future__ import annotations

import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import mollify_core
from mollify_core import compiled

_PACKAGES = ("torch", "ray", "optuna", "numpy", "pyarrow")


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that matter, and what compiles kernels."""

    def of(package: str) -> str:
        try:
            return version(package)
        except PackageNotFoundError:
            return "none"

    return {
        "python": platform.python_version(),
        "mollify": mollify_core.__version__,
        **{name: of(name) for name in _PACKAGES},
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
