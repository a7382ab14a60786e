"""Every option that takes a path x every odd path: an exit code and at most one sentence; a kept sweep stays whole."""

from __future__ import annotations

import os
import shutil
import signal
import stat
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import check
import evaluate
import mollify_core.datasets.__main__ as datasets
import mollify_core.soften as soften
import mollify_core.train as train
import reproduce
import search
import status
from places import FIXTURES

TINY = ("--dataset", "digits", "--network", "resnet8", "--epochs", "1", "--trials", "2", "--dry-run", "--wandb", "off")
GRID = ("matching", "--dataset", "digits", "--network", "resnet8", "--epochs", "1", "--dry-run", "--wandb", "off")
KEPT = str(next(FIXTURES.glob("sweeps/*/sweep.json")).parent)
# Program, and its words with PATH where the path goes.
OPTIONS: dict[str, tuple[Callable[[list[str]], int], tuple[str, ...]]] = {
    "search --dataset": (search.main, ("--dataset", "PATH/.", "--image-size", "8", *TINY[2:])),
    "search --data-dir": (search.main, ("--dataset", "cifar10", "--data-dir", "PATH", *TINY[2:])),
    "search --cache-dir": (search.main, (*TINY, "--cache-dir", "PATH")),
    "search --storage": (search.main, (*TINY, "--storage", "PATH")),
    "search --recipe": (search.main, (*TINY, "--recipe", "PATH")),
    "search --space": (search.main, (*TINY, "--space", "PATH")),
    "reproduce --storage": (reproduce.main, (*GRID, "--storage", "PATH")),
    "reproduce --frost-dir": (reproduce.main, (*GRID, "--frost-dir", "PATH")),
    "evaluate": (evaluate.main, ("PATH", "--images", "20")),
    "evaluate --corruption-dir": (evaluate.main, (KEPT, "--images", "20", "--corruption-dir", "PATH", "--out", "OUT")),
    "status": (status.main, ("PATH",)),
    "status --report": (status.main, (KEPT, "--report", "PATH")),
    "check": (check.main, ("PATH",)),
    "train": (train.main, ("PATH",)),
    "soften": (soften.main, ("PATH", "--images", "20", "--out", "OUT")),
    "datasets prepare": (datasets.main, ("prepare", "PATH/.", "--image-size", "8")),
}


def _name(name: str | bytes) -> Callable[[Path], str]:
    def make(folder: Path) -> str:
        place = folder / os.fsdecode(name)
        place.mkdir()
        return str(place)

    return make


def _file(folder: Path) -> str:
    (folder / "file").write_bytes(b"\x00\xff not what was expected \x1b[2J")
    return str(folder / "file")


def _full(folder: Path) -> str:
    return _mounted(folder, "size=4k,nr_inodes=1")


def _read_only(folder: Path) -> str:
    return _mounted(folder, "ro")


def _mounted(folder: Path, options: str) -> str:
    place = folder / "mounted"
    place.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(place)], capture_output=True).returncode:
        pytest.skip("may not mount a small file system here")
    return str(place)


def _pipe(folder: Path) -> str:
    os.mkfifo(folder / "pipe")
    return str(folder / "pipe")


def _loop(folder: Path) -> str:
    (folder / "loop").symlink_to(folder / "loop")
    return str(folder / "loop")


PATHS: dict[str, Callable[[Path], str]] = {
    "missing": lambda folder: str(folder / "missing"),
    "an empty folder": _name("empty"),
    "a file": _file,
    "a full disk": _full,
    "a disk that is only read": _read_only,
    "a pipe": _pipe,
    "a loop of links": _loop,
    "too long": lambda folder: str(folder / ("x" * 300)),
    "NUL": lambda folder: f"{folder}/a\0b",
    "nothing": lambda folder: "",
    "a home that nobody has": lambda folder: "~nobody-of-this-name/x",
    "not UTF-8": _name(b"\xff\xfe"),
    **{f"named {name!r}": _name(name) for name in ("a b", "a'b\"c", "a\nb", "a?b", "a#b", "a%41", ":memory:", "[red]")},
    "named \x1b": _name("\x1b[2J"),
}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    (inside := tmp_path / "here").mkdir()
    monkeypatch.chdir(inside)
    before = signal.getsignal(signal.SIGTERM)
    yield tmp_path
    signal.signal(signal.SIGTERM, before)
    for place in tmp_path.rglob("mounted"):
        subprocess.run(["umount", "--lazy", str(place)], check=True)


@pytest.mark.slow
@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("option", OPTIONS)
@pytest.mark.timeout(60)
def test_every_path_ends_well(option: str, path: str, folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    main, words = OPTIONS[option]
    named = PATHS[path](folder)
    argv = [word.replace("PATH", named).replace("OUT", str(folder / "out")) for word in words]
    before = {p: stat.S_IFMT(p.lstat().st_mode) for p in Path(KEPT).rglob("*")}
    code = main(argv)
    said, wrong = capfd.readouterr()
    assert code in (0, 1, 2), (code, wrong)
    assert "Traceback" not in said + wrong
    assert "\x1b" not in said + wrong
    if code == 2:
        (sentence,) = (line for line in wrong.split("error: ")[1:])
        assert len(sentence) < 1200
    assert {p: stat.S_IFMT(p.lstat().st_mode) for p in Path(KEPT).rglob("*")} == before
    shutil.rmtree(folder / "out", ignore_errors=True)
