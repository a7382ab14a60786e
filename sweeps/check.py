"""`python sweeps/check.py SWEEP`: proves that nothing of a sweep is lost, doubled or damaged, or says what is."""

import sys
from pathlib import Path

if __name__ == "__main__":  # from a checkout that is not installed: the core is beside this folder
    sys.path.append(str(Path(__file__).resolve().parents[1]))

from mollify_sweeps.programs.check import main, parser

__all__ = ["main", "parser"]

if __name__ == "__main__":
    sys.exit(main())
