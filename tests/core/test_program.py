"""Commands that a person is told to type run where they are typed, however the program was started."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from mollify_core.program import shell_command
from places import ROOT

BESIDE = Path(sys.executable).parent
HELP = {
    "sweeps/status.py": "usage: sweeps/status.py",
    "-m mollify_core.presets": "usage: python -m mollify_core.presets",
    "ruff": "Usage: ruff",
}


def typed(command: str, folder: Path, path: str) -> str:
    done = subprocess.run(command, shell=True, cwd=folder, env={**os.environ, "PATH": path}, capture_output=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.decode()


@pytest.mark.parametrize("program", HELP)
@pytest.mark.parametrize("known", [True, False], ids=["on the path", "not on the path"])
def test_commands_run_from_any_folder(
    program: str, known: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("UV_RUN_RECURSION_DEPTH", raising=False)
    path = f"{BESIDE}:/usr/bin:/bin" if known else "/usr/bin:/bin"
    monkeypatch.setenv("PATH", path)
    for folder in (ROOT, tmp_path):
        command = shell_command(program, ["--help"], folder)
        assert HELP[program] in typed(command, folder, path)
        assert str(BESIDE) not in command or not known, "as short as it can be"
    monkeypatch.chdir(tmp_path)
    assert shell_command(program, ["--help"]) == command
    monkeypatch.setenv("UV_RUN_RECURSION_DEPTH", "1")  # the path is then one that uv made
    assert HELP[program] in typed(shell_command(program, ["--help"]), tmp_path, "/usr/bin:/bin")


def test_in_the_project_they_are_those_of_the_readme(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(BESIDE))
    monkeypatch.delenv("UV_RUN_RECURSION_DEPTH", raising=False)
    name = Path(sys.executable).name
    assert shell_command("sweeps/search.py", ["--name", "a b"], ROOT) == f"{name} sweeps/search.py --name 'a b'"
    assert shell_command("-m mollify_core.train", ["r"], ROOT) == f"{name} -m mollify_core.train r"
    monkeypatch.setenv("UV_RUN_RECURSION_DEPTH", "1")
    assert shell_command("sweeps/search.py", [], ROOT) == f"uv run {name} sweeps/search.py"
    assert shell_command("tensorboard", [], ROOT) == "uv run tensorboard"
    assert "uv run" not in shell_command("tensorboard", [], "/"), "uv finds the project in its own folder only"


def test_a_reader_that_has_enough_is_no_error() -> None:
    printing = "[print('x' * 9999) for _ in range(99)]"
    code = f"import sys; from mollify_core.program import guarded; sys.exit(guarded(lambda: {printing}))"
    with subprocess.Popen(
        [sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as told:
        assert told.stdout is not None
        assert told.stderr is not None
        told.stdout.read(10)
        told.stdout.close()
        assert told.stderr.read() == b""
    assert told.returncode == 141
