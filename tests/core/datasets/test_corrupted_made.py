"""Corruption benchmarks made into the cache: right, made once, taken up again, mended, and never half there."""

import importlib.util
import json
import os
import pickle
import resource
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from corrupted import TYPES, N, images, made
from mollify_core.corruptions.benchmark import CORRUPTIONS, SEVERITIES
from mollify_core.corruptions.frost import PHOTOGRAPHS
from mollify_core.corruptions.suite import corrupt
from mollify_core.datasets.cache import locked
from mollify_core.datasets.load import ImageSet
from mollify_core.errors import ConfigError, DataError, StorageError


def folder(cache: Path) -> Path:
    (only,) = cache.glob("corruptions-*")
    return only


class Count(list[tuple[int, int]]):
    def __call__(self, done: int, total: int) -> None:
        self.append((done, total))


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("frost")
    rng = np.random.default_rng(0)
    for name in PHOTOGRAPHS:
        Image.fromarray(rng.integers(0, 256, (300, 300, 3), np.uint8)).save(place / name)
    return place


def test_the_set_is_what_the_suite_makes(tmp_path: Path, photographs: Path) -> None:
    clean = images()
    result = made(tmp_path, CORRUPTIONS, seed=7, frost_dir=photographs, threads=2)
    assert result.types == CORRUPTIONS
    assert (result.source, result.verified) == ("made", True)
    assert torch.equal(result.labels, clean.labels)
    for name in CORRUPTIONS:
        for severity in SEVERITIES:
            cell = result.cell(name, severity)
            assert torch.equal(cell, corrupt(clean.images, name, severity, seed=7, frost_dir=photographs))
    same = pickle.loads(pickle.dumps(result))
    assert torch.equal(same.cell("fog", 2), result.cell("fog", 2))
    with pytest.raises(ConfigError, match="severity"):
        result.cell("fog", 6)


def test_pytorch_has_its_threads_again_afterwards(tmp_path: Path) -> None:
    """It keeps one number for the process, which new threads and its linear algebra take up."""
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        made(tmp_path, threads=2)
        with ThreadPoolExecutor(1) as pool:
            assert (torch.get_num_threads(), pool.submit(torch.get_num_threads).result()) == (3, 3)
    finally:
        torch.set_num_threads(before)


def test_it_is_made_once(tmp_path: Path) -> None:
    count = Count()
    first = made(tmp_path, progress=count)
    assert count[-1] == (3 * 5 * N, 3 * 5 * N)
    assert [done for done, _ in count] == sorted({done for done, _ in count})
    assert first.types == ("gaussian_noise", "contrast", "speckle_noise")
    stamps = {path: path.stat().st_mtime_ns for path in folder(tmp_path).iterdir()}
    again = made(tmp_path, progress=count.clear)  # would fail: takes no numbers
    assert again.fingerprint == first.fingerprint
    assert {path: path.stat().st_mtime_ns for path in folder(tmp_path).iterdir()} == stamps
    unverified = made(tmp_path, verified=False)
    assert (unverified.verified, unverified.fingerprint) == (False, first.fingerprint)


def test_fingerprints_are_equal_where_the_images_are(tmp_path: Path) -> None:
    first = made(tmp_path / "a", threads=1)
    assert made(tmp_path / "b", threads=3).fingerprint == first.fingerprint
    others = [
        made(tmp_path / "a", seed=1),
        made(tmp_path / "a", fingerprint="another"),
        made(tmp_path / "a", images=images(N - 1)),
        made(tmp_path / "a", images=images().select(torch.arange(N).flip(0))),
    ]
    assert len(list((tmp_path / "a").glob("corruptions-*"))) == 5
    assert others[1].fingerprint == first.fingerprint  # other data would differ; the images are the same
    assert len({other.fingerprint for other in others}) == 4
    assert made(tmp_path / "a", TYPES[:2]).fingerprint != first.fingerprint


def test_a_larger_set_adds_what_is_missing(tmp_path: Path) -> None:
    count = Count()
    made(tmp_path, TYPES[:1])
    made(tmp_path, TYPES, progress=count)
    assert count[-1] == (2 * 5 * N, 2 * 5 * N)


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_an_interrupted_maker_leaves_whole_files_only(tmp_path: Path, error: type[BaseException]) -> None:
    def stop(done: int, total: int) -> None:
        if done > 5 * N:  # in the second corruption
            raise error

    with pytest.raises(error):
        made(tmp_path, progress=stop)
    assert sorted(path.name for path in folder(tmp_path).iterdir()) == ["gaussian_noise.npy", "manifest.json"]
    count = Count()
    result = made(tmp_path, progress=count)
    assert count[-1] == (2 * 5 * N, 2 * 5 * N)
    assert result.fingerprint == made(tmp_path / "other").fingerprint


def test_a_killed_maker_is_taken_up(tmp_path: Path) -> None:
    program = f"""
import os, signal
from corrupted import N, Path, made
made(Path({str(tmp_path)!r}), progress=lambda done, _: os.kill(os.getpid(), signal.SIGKILL) if done > 7 * N else None)
"""
    killed = subprocess.run(
        [sys.executable, "-c", program], env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    )
    assert killed.returncode == -signal.SIGKILL
    left = sorted(path.name for path in folder(tmp_path).iterdir())
    assert left == [".contrast.npy.draft", "gaussian_noise.npy", "manifest.json"]
    count = Count()
    result = made(tmp_path, progress=count)
    assert count[-1] == (2 * 5 * N, 2 * 5 * N)
    assert not list(folder(tmp_path).glob(".*"))
    assert result.fingerprint == made(tmp_path / "other").fingerprint


@pytest.mark.parametrize("damage", ["truncated", "gone", "manifest", "manifest of another kind"])
def test_what_is_damaged_is_made_again(tmp_path: Path, damage: str) -> None:
    first = made(tmp_path)
    place = folder(tmp_path)
    if damage == "truncated":
        os.truncate(place / "contrast.npy", 5000)
    elif damage == "gone":
        (place / "contrast.npy").unlink()
    else:
        (place / "manifest.json").write_text('{"files": [' if damage == "manifest" else '{"files": {"contrast": 1}}')
    count = Count()
    again = made(tmp_path, progress=count)
    assert count[-1][1] == (1 if damage in ("truncated", "gone") else 3) * 5 * N
    assert again.fingerprint == first.fingerprint
    assert torch.equal(again.cell("contrast", 5), corrupt(images().images, "contrast", 5))


def test_checksums_are_those_of_the_files(tmp_path: Path) -> None:
    made(tmp_path)
    files = json.loads((folder(tmp_path) / "manifest.json").read_text())["files"]
    for name in TYPES:
        path = folder(tmp_path) / f"{name}.npy"
        printed = subprocess.run(["sha256sum", path], capture_output=True, text=True, check=True).stdout
        assert printed.split()[0] == files[name]["sha256"]
        assert np.load(path).shape == (5, N, 3, 8, 8)


def test_one_maker_at_a_time(tmp_path: Path) -> None:
    made(tmp_path)
    place = folder(tmp_path)
    shutil.move(place, tmp_path / "away")
    count, results = Count(), []
    with locked(tmp_path / f".{place.name}.lock"):
        maker = threading.Thread(target=lambda: results.append(made(tmp_path, progress=count)))
        maker.start()
        maker.join(0.5)
        assert maker.is_alive()  # it waits for the other maker, which is this test
        shutil.rmtree(place)
        shutil.move(tmp_path / "away", place)
    maker.join(30)
    assert results[0].types
    assert count == []  # and takes what the other has made


@pytest.fixture
def small_files() -> Iterator[None]:
    """No file can grow beyond 200 kB: the kernel refuses as it does on a full disk."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, limits[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_a_full_disk_is_one_sentence_and_leaves_no_draft(tmp_path: Path, small_files: None) -> None:
    with pytest.raises(StorageError, match=r"^Cannot write the data cache '.*corruptions-.*': File too large$"):
        made(tmp_path)
    assert list(folder(tmp_path).iterdir()) == []
    few = images(100)  # 96 kB a corruption
    assert made(tmp_path / "few", images=few).types


def test_a_cache_that_cannot_be_written_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match=r"^Cannot write the data cache .*Not a directory$"):
        made(tmp_path / "file")


def test_a_cell_that_is_gone_is_one_sentence(tmp_path: Path) -> None:
    result = made(tmp_path)
    (folder(tmp_path) / "contrast.npy").unlink()
    with pytest.raises(DataError, match=r"^Cannot read '.*contrast\.npy'; delete it to have it made again: .*No such"):
        result.cell("contrast", 1)
    (folder(tmp_path) / "contrast.npy").write_bytes(b"\x93NUMPY")
    with pytest.raises(DataError, match=r"^Cannot read"):
        result.cell("contrast", 1)
    with pytest.raises(ConfigError, match="Expected one of the corruptions gaussian_noise, contrast, speckle_noise"):
        result.cell("fog", 1)


def test_frost_is_left_out_without_photographs(
    tmp_path: Path, photographs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MOLLIFY_FROST_DIR", raising=False)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)  # as where the package is not installed
    warnings: list[str] = []
    result = made(tmp_path, ("frost", "contrast"), warn=warnings.append)
    assert result.types == ("contrast",)
    (warning,) = warnings
    assert warning.startswith("Frost is left out. Expected photographs")
    assert "MOLLIFY_FROST_DIR" in warning
    with pytest.raises(ConfigError, match="one corruption or more"):
        made(tmp_path, ("frost",))
    with pytest.raises(ConfigError, match=r"to hold the photographs frost1\.png"):
        made(tmp_path, ("frost", "contrast"), frost_dir=tmp_path)
    monkeypatch.setenv("MOLLIFY_FROST_DIR", str(photographs))
    frosted = made(tmp_path, ("frost", "contrast"))
    assert frosted.types == ("frost", "contrast")
    monkeypatch.delenv("MOLLIFY_FROST_DIR")
    kept = made(tmp_path, ("frost", "contrast"), warn=warnings.append)  # it was made before
    assert (kept.fingerprint, len(warnings)) == (frosted.fingerprint, 1)


def test_other_photographs_make_another_frost(tmp_path: Path, photographs: Path) -> None:
    types = ("frost", "contrast")
    first = made(tmp_path, types, frost_dir=photographs)
    others = tmp_path / "others"
    shutil.copytree(photographs, others)
    Image.new("RGB", (300, 300), "white").save(others / PHOTOGRAPHS[0])
    count = Count()
    second = made(tmp_path, types, frost_dir=others, progress=count)
    assert second.fingerprint != first.fingerprint
    assert count[-1][1] == 5 * N


def test_errors(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="did you mean 'contrast'"):
        made(tmp_path, ("contrasts",))
    with pytest.raises(DataError, match="at least 8 pixels a side"):
        made(tmp_path, images=ImageSet(torch.zeros(2, 3, 8, 7, dtype=torch.uint8), torch.zeros(2, dtype=torch.int64)))
    with pytest.raises(ConfigError, match="one corruption or more"):
        made(tmp_path, ())
    assert not list(tmp_path.iterdir())
