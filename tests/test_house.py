"""The law of the house: rooms import downwards only, and only what a room's face names; the core knows no room."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

from places import ROOT

SERVICE = ROOT / "sweeps" / "mollify_sweeps"
BELOW = {
    "programs": "driver comparison report evaluation plan inspection tracking trial study cli display storage cluster",
    "driver": "comparison report evaluation plan tracking trial study display storage cluster",
    "comparison": "plan report study display",
    "report": "evaluation study display",
    "evaluation": "study storage cluster display",
    "plan": "study storage cluster display",
    "inspection": "study storage display",
    "tracking": "study cluster display",
    "trial": "study storage cluster",
    "study": "storage cluster",
    "cli": "plan study cluster",
    **dict.fromkeys(("display", "storage", "cluster"), ""),
}
FOREIGN = {"ray", "optuna", "wandb", "mollify_sweeps", "search", "evaluate", "reproduce", "status", "check"}
PARSERS = {  # where argparse may be known, beside cli/ and the programs
    "mollify_core/program.py",
    "mollify_core/datasets/options.py",
    "sweeps/mollify_sweeps/cluster/workers.py",
}


def imports(path: Path) -> Iterator[str]:
    """Every module that a file imports anywhere, in full; of `from a import b` both a and a.b."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}: imports say their whole name"
            yield from (node.module or "", *(f"{node.module}.{alias.name}" for alias in node.names))


def modules(folder: Path) -> dict[str, Path]:
    """Name -> file of every module below a package's folder."""
    names = {p: ".".join(p.relative_to(folder.parent).with_suffix("").parts) for p in folder.rglob("*.py")}
    return {name.removesuffix(".__init__"): path for path, name in names.items()}


def face(room: str) -> set[str]:
    """The modules of a room that others may import, as its docstring names them."""
    tree = ast.parse((SERVICE / room / "__init__.py").read_text(encoding="utf-8"))
    assert len(tree.body) == 1, f"{room}/__init__.py is a docstring, and imports nothing"
    found = re.search(r"Others may import: ([^.]*)\.", ast.get_docstring(tree) or "")
    return set(re.split(r"[,\s]+", found[1])) if found else set()


def test_rooms_import_downwards_and_only_faces() -> None:
    faces = {room: face(room) for room in BELOW}
    assert set(faces) == {path.name for path in SERVICE.iterdir() if (path / "__init__.py").exists()}
    for name, path in modules(SERVICE).items():
        room = name.split(".")[1] if "." in name else ""
        room = "programs" if room in ("", "__main__") else room  # they call one
        for _, other, *inside in (i.split(".") for i in imports(path) if i.startswith("mollify_sweeps.")):
            if other != room:
                assert other in BELOW[room].split(), f"{path}: {room} must not import {other}"
                assert not inside or inside[0] in faces[other], f"{path}: {other}/__init__.py names no {inside[0]}"


def test_no_module_imports_itself_in_a_circle() -> None:
    known = modules(SERVICE) | modules(ROOT / "mollify_core")
    graph = {name: {i for i in imports(path) if i in known and i != name} for name, path in known.items()}
    packages = {name for name, path in known.items() if path.name == "__init__.py"}
    TopologicalSorter({name: found - packages for name, found in graph.items() if name not in packages}).prepare()


def test_the_core_knows_no_service_and_argparse_stays_with_the_programs() -> None:
    for path in (ROOT / "mollify_core").rglob("*.py"):
        assert not FOREIGN & {name.split(".")[0] for name in imports(path)}, path
    for folder in ("mollify_core", "sweeps/mollify_sweeps"):
        for path in (ROOT / folder).rglob("*.py"):
            place = path.relative_to(ROOT).as_posix()
            assert "argparse" not in imports(path) or place in PARSERS or path.parent.name in ("cli", "programs"), place


def test_no_module_is_long_and_no_test_imports_a_test() -> None:
    for path in [*(ROOT / "sweeps").rglob("*.py"), *(ROOT / "mollify_core").rglob("*.py")]:
        assert len(path.read_text(encoding="utf-8").splitlines()) <= 400, path
    for path in (ROOT / "tests").rglob("test_*.py"):
        assert not any(re.match(r"(tests\.|test_|conftest)", name) for name in imports(path)), path
