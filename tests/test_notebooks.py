"""The notebooks: every name that they import exists, and each runs from top to bottom without an error."""

from __future__ import annotations

import ast
import importlib
from pathlib import Path

import jupytext
import nbformat
import pytest

from places import ROOT

NOTEBOOKS = sorted((ROOT / "notebooks").glob("[0-9]_*.py"))
BY_NAME = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where all notebooks run: the third finds the second one's sweep."""
    return tmp_path_factory.mktemp("notebooks")


def test_there_are_four() -> None:
    assert [path.stem[0] for path in NOTEBOOKS] == ["1", "2", "3", "4"]


@BY_NAME
def test_reads_as_a_notebook_whose_imports_exist(path: Path) -> None:
    notebook = jupytext.read(path)
    nbformat.validate(notebook)
    assert notebook.metadata.kernelspec.name == "python3"
    assert notebook.cells[0].cell_type == "markdown"
    assert notebook.cells[0].source.startswith(f"# {path.stem[0]}. ")
    imports = 0
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module.partition(".")[0] in ("mollify_core", "mollify_sweeps"):
            module = importlib.import_module(node.module)
            for alias in node.names:
                if not hasattr(module, alias.name):
                    importlib.import_module(f"{node.module}.{alias.name}")
                imports += 1
    assert imports > 0


@BY_NAME
def test_its_output_is_that_of_its_source(path: Path) -> None:
    """`notebooks/execute.py` writes them; of the sources alone, what they print differs from machine to machine."""
    executed = nbformat.read(path.with_suffix(".ipynb"), as_version=4)
    nbformat.validate(executed)

    def sources(notebook: nbformat.NotebookNode) -> list[tuple[str, str]]:
        return [(cell.cell_type, cell.source) for cell in notebook.cells]

    assert sources(executed) == sources(jupytext.read(path))
    code = [cell for cell in executed.cells if cell.cell_type == "code"]
    assert all(cell.execution_count for cell in code)
    assert any("image/png" in output.get("data", {}) for cell in code for output in cell.outputs)
    assert not any(output.output_type == "error" for cell in code for output in cell.outputs)


@pytest.mark.slow
@BY_NAME
def test_runs(path: Path, workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from nbclient import NotebookClient

    monkeypatch.delenv("MPLBACKEND", raising=False)  # of our programs, which draw into files; a kernel has its own
    notebook = jupytext.read(path)
    NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(workplace)}}).execute()
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    assert any("image/png" in output.get("data", {}) for output in outputs)
