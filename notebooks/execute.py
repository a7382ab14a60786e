"""Executes the notebooks and writes each with its output beside its source.

    uv run --group notebooks python notebooks/execute.py               # all, about ten minutes on two CPUs
    uv run --group notebooks python notebooks/execute.py 1_method      # one

Sweeps and trained models go to `notebooks/runs`. Nothing of the machine on which they ran stays in what is written.
"""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

import jupytext
import nbformat
from nbclient import NotebookClient

HERE = Path(__file__).resolve().parent
_PROJECT = HERE.parent


def main(names: list[str]) -> None:
    """Executes the notebooks of these names; all where none is given."""
    os.environ.pop("MPLBACKEND", None)  # a kernel has its own
    for source in sorted(HERE.glob("[0-9]_*.py")):
        if names and source.stem not in names:
            continue
        notebook = jupytext.read(source)
        NotebookClient(notebook, timeout=1200, resources={"metadata": {"path": str(HERE)}}).execute()
        for cell in notebook.cells:
            cell.metadata.pop("execution", None)  # when it ran
            kept = [output for output in cell.get("outputs", []) if output.get("name") != "stderr"]  # warnings
            if cell.cell_type == "code":
                cell.outputs = kept
            for output in kept:
                _clean(output)
        notebook.metadata.pop("language_info", None)
        target = source.with_suffix(".ipynb")
        nbformat.write(notebook, target)
        print(f"{target.relative_to(_PROJECT)}: {target.stat().st_size / 1024:,.0f} kB")


def _clean(output: dict) -> None:
    """Takes this machine's paths out of what was printed."""
    for place, key in ((output, "text"), *((output.get("data", {}), kind) for kind in output.get("data", {}))):
        if isinstance(place.get(key), str) and not key.startswith("image/"):
            text = place[key].replace(f"{Path(sys.executable).parent}/", "").replace(f"{HERE}/", "")
            text = re.sub(r"-P -m mollify_core", "-m mollify_core", text.replace(f"{_PROJECT}/", ""))
            place[key] = text.replace(str(Path.home()), "~")


if __name__ == "__main__":
    main(sys.argv[1:])
