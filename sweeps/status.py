"""`python sweeps/status.py [SWEEP | STORAGE]`: how sweeps are, while their drivers run and after these are gone."""

import sys
from pathlib import Path

if __name__ == "__main__":  # from a checkout that is not installed: the core is beside this folder
    sys.path.append(str(Path(__file__).resolve().parents[1]))

from mollify_sweeps.programs.status import main, parser

__all__ = ["main", "parser"]

if __name__ == "__main__":
    sys.exit(main())
