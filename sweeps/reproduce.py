"""`python sweeps/reproduce.py mollification|matching|soft`: the papers' experiments, one command each."""

import sys
from pathlib import Path

if __name__ == "__main__":  # from a checkout that is not installed: the core is beside this folder
    sys.path.append(str(Path(__file__).resolve().parents[1]))

from mollify_sweeps.programs.reproduce import main, parser

__all__ = ["main", "parser"]

if __name__ == "__main__":
    sys.exit(main())
