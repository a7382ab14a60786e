"""The published corruption archives, in miniature: the official layouts, checked, laid out once, and memory-mapped."""

from __future__ import annotations

import hashlib
import io
import os
import pickle
import random
import resource
import shutil
import tarfile
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from mollify_core.corruptions.benchmark import BENCHMARK, CORRUPTIONS, EXTRA, SEVERITIES, CorruptedSet
from mollify_core.datasets import corrupted_official
from mollify_core.datasets.__main__ import main
from mollify_core.datasets.corrupted_official import OFFICIAL, open_corrupted, prepare_corrupted
from mollify_core.datasets.files import TarFiles
from mollify_core.datasets.specs import CORRUPTED, DATASETS, CorruptedSpec, Download
from mollify_core.errors import ChecksumError, ConfigError, DataError, StorageError

N, HIGH, WIDE, CLASSES = 7, 4, 5, 3


def md5(path: Path) -> str:
    return hashlib.md5(path.read_bytes()).hexdigest()


def contents(types: tuple[str, ...] = CORRUPTIONS, n: int = N) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    arrays = {name: rng.integers(0, 256, (5 * n, HIGH, WIDE, 3), np.uint8) for name in types}
    return {**arrays, "labels": np.tile(rng.integers(0, CLASSES, n, np.uint8), 5)}


def write(folder: Path, arrays: dict[str, np.ndarray]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, array in arrays.items():
        np.save(folder / f"{name}.npy", array)
    return folder


def pack(path: Path, folder: Path, name: str = "Tiny-C") -> Path:
    with tarfile.open(path, "w") as tar:
        tar.add(folder, name)
    return path


def spec_of(archive: Path | None = None, folder: Path | None = None, url: str = "http://127.0.0.1:9") -> CorruptedSpec:
    """A specification of which this archive, and the .npy files in this folder, are the official ones."""
    return CorruptedSpec(
        name="tiny-c",
        classes=CLASSES,
        image_shape=(3, HIGH, WIDE),
        archive=Download(url=f"{url}/Tiny-C.tar", md5=md5(archive) if archive else "0" * 32, folder="Tiny-C"),
        checksums={path.name: md5(path) for path in folder.iterdir()} if folder else {},
    )


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """A cache of this test's own."""
    return tmp_path / "cache"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write(tmp_path / "data" / "Tiny-C", contents())


def check(found: CorruptedSet | None, arrays: dict[str, np.ndarray]) -> None:
    assert found is not None
    assert found.types == tuple(name for name in CORRUPTIONS if name in arrays)
    assert found.labels.dtype == torch.int64
    np.testing.assert_array_equal(found.labels, arrays["labels"][: len(found.labels)])
    n = len(found.labels)
    for name in found.types:
        for severity in SEVERITIES:
            cell = found.cell(name, severity)
            assert cell.dtype == torch.uint8
            expected = arrays[name][(severity - 1) * n : severity * n].transpose(0, 3, 1, 2)
            np.testing.assert_array_equal(cell, expected)


def mapped_file(address: int) -> Path | None:
    """The file that the kernel has mapped at an address of this process."""
    for line in Path("/proc/self/maps").read_text().splitlines():
        span, *_, path = line.split(maxsplit=5)
        start, end = (int(part, 16) for part in span.split("-"))
        if start <= address < end:
            return Path(path)
    return None


# --- specifications -----------------------------------------------------------------------------------------------


def test_the_three_benchmarks() -> None:
    assert OFFICIAL == ("cifar10", "cifar100", "tin")
    for dataset, spec in CORRUPTED.items():
        clean = DATASETS[dataset]
        assert (spec.name, spec.classes, spec.image_shape) == (f"{dataset}-c", clean.classes, clean.image_shape)
        if spec.checksums:
            assert set(spec.checksums) == {f"{name}.npy" for name in ("labels", *CORRUPTIONS)}
            assert len(set(spec.checksums.values())) == 20
    with pytest.raises(ConfigError, match="no published corruptions of data set 'cifar1000'; did you mean 'cifar100'"):
        open_corrupted("cifar1000")


# --- arrays -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("place", ["folder", "parent", "archive", "folder of the archive"])
def test_arrays_in_each_form(tmp_path: Path, own: Path, folder: Path, place: str) -> None:
    tar = pack(tmp_path / "Tiny-C.tar", folder)
    spec = spec_of(tar, folder)
    places = {"folder": folder, "parent": folder.parent, "archive": tar, "folder of the archive": tmp_path}
    before = sorted(p for p in tmp_path.rglob("*"))
    found = open_corrupted(spec, data_dir=places[place], cache_dir=own)
    check(found, contents())
    assert found.verified
    assert found.source == "official"
    assert [p for p in sorted(tmp_path.rglob("*")) if own not in (p, *p.parents)] == before
    copied = list(own.rglob("*.npy"))
    assert len(copied) == (0 if place in ("folder", "parent") else 20)  # a folder's arrays stay where they are
    assert found.fingerprint == open_corrupted(spec, data_dir=folder, cache_dir=own).fingerprint


def test_the_four_extra_corruptions_may_be_absent(tmp_path: Path, own: Path, folder: Path) -> None:
    arrays = {name: array for name, array in contents().items() if name not in EXTRA}
    some = write(tmp_path / "some", arrays)
    found = open_corrupted(spec_of(folder=folder), data_dir=some, cache_dir=own)
    check(found, arrays)
    assert found.verified
    whole = open_corrupted(spec_of(folder=folder), data_dir=folder, cache_dir=own)
    assert found.fingerprint != whole.fingerprint
    with pytest.raises(ConfigError, match="Expected one of the corruptions"):
        found.cell("spatter", 1)


def test_a_cell_is_a_view_of_the_file_and_writing_to_it_reaches_no_disk(own: Path, folder: Path) -> None:
    found = open_corrupted(spec_of(folder=folder), data_dir=folder, cache_dir=own)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # PyTorch warns of read-only arrays
        cell = found.cell("fog", 2)
    assert mapped_file(cell.data_ptr()) == folder / "fog.npy"
    cell.zero_()
    check(found, contents())
    found = pickle.loads(pickle.dumps(found))  # to another process
    check(found, contents())


def test_every_read_opens_the_file_and_closes_it(own: Path, folder: Path) -> None:
    found = open_corrupted(spec_of(folder=folder), data_dir=folder, cache_dir=own)
    count = len(os.listdir("/proc/self/fd"))
    for _ in range(20):
        found.cell("fog", 1)
    assert len(os.listdir("/proc/self/fd")) == count
    (folder / "fog.npy").unlink()
    with pytest.raises(DataError, match=r"fog\.npy in '.*' to be a whole .npy file of numbers, .*No such file"):
        found.cell("fog", 1)


def test_unverified_arrays_need_permission_and_stay_marked(tmp_path: Path, own: Path, folder: Path) -> None:
    spec = spec_of(pack(tmp_path / "Tiny-C.tar", folder), folder)
    changed = write(tmp_path / "changed", contents(n=4))  # another number of images
    tar = pack(tmp_path / "other" / "Tiny-C.tar", changed) if (tmp_path / "other").mkdir() is None else None
    for place, named in ((changed, "labels.npy"), (tar, "Tiny-C.tar")):
        take = partial(open_corrupted, spec, data_dir=place, cache_dir=own)
        with pytest.raises(ChecksumError, match=f"{named}.* official md5 .* but got .*--allow-unverified"):
            take()
        found = take(allow_unverified=True)
        check(found, contents(n=4))
        assert not found.verified
        with pytest.raises(ChecksumError, match="official md5"):  # what is in the cache does not excuse it later
            take()
    with pytest.raises(ChecksumError, match=r"Expected Tiny-C\.tar, whose md5 can be checked, but got \.npy files"):
        open_corrupted(replace(spec, checksums={}), data_dir=folder, cache_dir=own)


def test_checked_once_until_a_file_changes(own: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[Path] = []

    whole = corrupted_official.file_md5
    monkeypatch.setattr(corrupted_official, "file_md5", lambda path: (read.append(path), whole(path))[1])
    take = partial(open_corrupted, spec_of(folder=folder), data_dir=folder, cache_dir=own)
    first = take()
    assert len(read) == 20
    assert take().fingerprint == first.fingerprint
    assert len(read) == 20
    arrays = contents()
    arrays["fog"][3, 2, 1, 0] ^= 1
    write(folder, {"fog": arrays["fog"]})
    with pytest.raises(ChecksumError, match=r"'fog\.npy'"):
        take()
    changed = take(allow_unverified=True)
    assert changed.fingerprint != first.fingerprint
    check(changed, arrays)


def put(name: str, array: Callable[[np.ndarray], np.ndarray]) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        path = folder / f"{name}.npy"
        np.save(path, array(np.load(path)))

    return change


def cut(folder: Path) -> None:
    with open(folder / "fog.npy", "r+b") as file:
        file.truncate(500)


def pickled(folder: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple:
            return os.mkdir, (str(folder / "ran"),)

    np.save(folder / "fog.npy", np.array([Evil()], object), allow_pickle=True)


def npz(folder: Path) -> None:
    file = io.BytesIO()
    np.savez(file, fog=np.zeros(3))
    (folder / "fog.npy").write_bytes(file.getvalue())


def one_severity_relabelled(labels: np.ndarray) -> np.ndarray:
    labels[-1] = (labels[-1] + 1) % CLASSES
    return labels


BROKEN = {
    "one of the fifteen missing": (lambda f: (f / "frost.npy").unlink(), r"to hold frost\.npy, but it does not"),
    "type": (put("fog", lambda a: a.astype(np.int16)), r"fog\.npy .* uint8 of shape \(35, 4, 5, 3\), but got int16"),
    "rank": (put("fog", lambda a: a[..., 0]), r"but got uint8 of shape \(35, 4, 5\)"),
    "size": (put("fog", lambda a: a[:, :3]), r"but got uint8 of shape \(35, 3, 5, 3\)"),
    "channels first": (put("fog", lambda a: a.transpose(0, 3, 1, 2)), r"but got uint8 of shape \(35, 3, 4, 5\)"),
    "length": (put("fog", lambda a: a[:-1]), r"fog\.npy .* \(35, 4, 5, 3\), but got uint8 of shape \(34, 4, 5, 3\)"),
    "an extra one's length": (
        put("spatter", lambda a: a[:7]),
        r"spatter\.npy .* but got uint8 of shape \(7, 4, 5, 3\)",
    ),
    "labels too long": (put("labels", lambda a: np.tile(a[:N], 10)), r"\(70, 4, 5, 3\), but got .*\(35, 4, 5, 3\)"),
    "labels not five-fold": (put("labels", lambda a: a[:34]), r"5 n integers, but got uint8 of shape \(34,\)"),
    "labels empty": (put("labels", lambda a: a[:0]), r"5 n integers, but got uint8 of shape \(0,\)"),
    "labels of a matrix": (put("labels", lambda a: a[:, None]), r"5 n integers, but got uint8 of shape \(35, 1\)"),
    "labels fractional": (put("labels", lambda a: a / 2), "5 n integers, but got float64"),
    "label too large": (put("labels", lambda a: a + 1), r"in \[0, 3\), but got 3"),
    "label negative": (put("labels", lambda a: np.where(a == a[0], -1, a.astype(int))), r"in \[0, 3\), but got -1"),
    "labels by severity": (put("labels", one_severity_relabelled), "equal for every severity, but they are not"),
    "truncated": (cut, r"fog\.npy .* whole \.npy file of numbers, but reading it failed: its header says shape"),
    "text": (lambda f: (f / "fog.npy").write_text("a login page"), r"fog\.npy .* reading it failed"),
    "empty": (lambda f: (f / "fog.npy").write_bytes(b""), r"fog\.npy .* reading it failed: EOF"),
    "pickle": (pickled, r"fog\.npy .* reading it failed: .*Python objects"),
    "bare pickle": (lambda f: (f / "fog.npy").write_bytes(pickle.dumps([1])), r"fog\.npy .* reading it failed"),
    "npz": (npz, r"fog\.npy .* \.npy file of numbers, but reading it failed: it is a \.npz archive"),
}


@pytest.mark.parametrize("packed", [False, True], ids=["folder", "archive"])
@pytest.mark.parametrize(("change", "message"), BROKEN.values(), ids=BROKEN)
def test_arrays_of_another_form(
    tmp_path: Path, own: Path, folder: Path, change: Callable[[Path], object], message: str, packed: bool
) -> None:
    change(folder)
    place = pack(tmp_path / "Tiny-C.tar", folder) if packed else folder
    with pytest.raises(DataError, match=message) as caught:
        open_corrupted(spec_of(), data_dir=place, cache_dir=own, allow_unverified=True)
    assert "\n" not in str(caught.value)
    assert ".draft" not in str(caught.value)
    assert not own.exists() or not [p for p in own.iterdir() if p.is_dir()]
    assert not (folder / "ran").exists()


# --- archives -----------------------------------------------------------------------------------------------------


def test_what_is_no_archive(tmp_path: Path, own: Path, folder: Path) -> None:
    tar = pack(tmp_path / "Tiny-C.tar", folder)
    take = partial(open_corrupted, spec_of(tar), cache_dir=own)
    with pytest.raises(DataError, match=r"existing folder or archive, but got '.*gone'"):
        take(data_dir=tmp_path / "gone")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"to hold Tiny-C or Tiny-C\.tar, but it has neither"):
        take(data_dir=tmp_path / "empty")
    whole = tar.read_bytes()
    tar.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ChecksumError, match=r"Tiny-C\.tar' to have the official md5"):
        take(data_dir=tar)
    for content in (whole[: len(whole) // 2], whole[:10_000], b"a login page" * 99, b""):
        tar.write_bytes(content)
        with pytest.raises(DataError, match=r"whole uncompressed tar|to be whole|to hold|there are none") as caught:
            take(data_dir=tar, allow_unverified=True)
        assert "\n" not in str(caught.value)
    with tarfile.open(tar, "w:gz") as packed:
        packed.add(folder, "Tiny-C")
    with pytest.raises(DataError, match="whole uncompressed tar archive"):
        take(data_dir=tar, allow_unverified=True)
    assert not [p for p in own.iterdir() if p.is_dir()]


@pytest.mark.parametrize("name", ["../escaped.npy", "/tmp/escaped.npy", "Tiny-C/../../escaped.npy"])
def test_names_that_leave_the_archive_are_refused(tmp_path: Path, own: Path, folder: Path, name: str) -> None:
    tar = pack(tmp_path / "Tiny-C.tar", folder)
    with tarfile.open(tar, "a") as more:
        more.addfile(tarfile.TarInfo(name))
    with pytest.raises(DataError, match=r"only files below itself, but got '.*escaped\.npy'"):
        open_corrupted(spec_of(tar), data_dir=tar, cache_dir=own)


def test_links_in_an_archive_are_not_followed(tmp_path: Path, own: Path, folder: Path) -> None:
    (folder / "fog.npy").rename(tmp_path / "fog.npy")
    (folder / "fog.npy").symlink_to(tmp_path / "fog.npy")
    tar = pack(tmp_path / "Tiny-C.tar", folder)
    with pytest.raises(DataError, match=r"to hold fog\.npy, but it does not"):
        open_corrupted(spec_of(tar), data_dir=tar, cache_dir=own)


@contextmanager
def serve(folder: Path) -> Iterator[tuple[str, list[str]]]:
    asked: list[str] = []

    class Handler(SimpleHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            super().do_GET()

        def log_message(self, *_: object) -> None:
            pass

    http = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=folder))
    threading.Thread(target=http.serve_forever, args=(0.01,), daemon=True).start()
    try:
        yield f"http://127.0.0.1:{http.server_port}", asked
    finally:
        http.shutdown()
        http.server_close()


def test_download_lay_out_and_never_again(tmp_path: Path, own: Path, folder: Path, monkeypatch) -> None:
    monkeypatch.setenv("no_proxy", "*")
    (tmp_path / "www").mkdir()
    tar = pack(tmp_path / "www" / "Tiny-C.tar", folder)
    with serve(tmp_path / "www") as (url, asked):
        spec = spec_of(tar, url=url)
        assert open_corrupted(spec, cache_dir=own, download=False) is None
        assert asked == []
        steps: list[tuple[int, int | None]] = []
        found = open_corrupted(spec, cache_dir=own, progress=lambda *step: steps.append(step))
        check(found, contents())
        assert found.verified
        size = tar.stat().st_size
        assert (size, size) in steps
        assert steps[-1] == (steps[-1][1], sum(p.stat().st_size for p in folder.iterdir()))
        assert not (own / "Tiny-C.tar").exists()  # the archive is not kept
        check(open_corrupted(spec, cache_dir=own, download=False), contents())
        check(open_corrupted(spec, cache_dir=own, data_dir=tar), contents())  # the same archive from elsewhere
        assert asked == ["/Tiny-C.tar"]
        assert len([p for p in own.iterdir() if p.is_dir()]) == 1


def test_a_mirror_is_tried_first(tmp_path: Path, own: Path, folder: Path, monkeypatch) -> None:
    monkeypatch.setenv("no_proxy", "*")
    tar = pack(tmp_path / "Tiny-C.tar", folder)
    with serve(tmp_path) as (url, asked):
        assert open_corrupted(spec_of(tar), cache_dir=own, mirrors=[url]).verified
        assert asked == ["/Tiny-C.tar"]
    with pytest.raises(ConfigError, match="http"):
        open_corrupted(spec_of(tar), cache_dir=own, mirrors=["ftp://example.org"])


@pytest.mark.parametrize("limit", [1500, 3000], ids=["in an array", "in the manifest"])
def test_a_full_disk_is_one_sentence_and_leaves_nothing(tmp_path: Path, own: Path, folder: Path, limit: int) -> None:
    tar = pack(tmp_path / "Tiny-C.tar", folder)
    take = partial(open_corrupted, spec_of(tar), data_dir=tar, cache_dir=own)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        with pytest.raises(StorageError, match="Cannot write the data cache") as caught:
            take()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "\n" not in str(caught.value)
    assert not [p for p in own.iterdir() if p.is_dir()]
    check(take(), contents())


def test_what_a_killed_process_left_is_not_taken(tmp_path: Path, own: Path, folder: Path) -> None:
    tar = pack(tmp_path / "Tiny-C.tar", folder)
    first = prepare_corrupted(spec_of(tar), data_dir=tar, cache_dir=own)
    draft = first.folder.with_name(f".{first.folder.name}.draft")
    first.folder.rename(draft)
    (draft / "manifest.json").unlink()
    check(open_corrupted(spec_of(tar), data_dir=tar, cache_dir=own), contents())
    assert not draft.exists()
    with open(first.folder / "snow.npy", "r+b") as file:
        file.truncate(100)
    check(open_corrupted(spec_of(tar), data_dir=tar, cache_dir=own), contents())


# --- image files --------------------------------------------------------------------------------------------------

COUNTS = {"n03": 3, "n01": 2, "n01-b": 4}


def write_images(folder: Path, types: tuple[str, ...] = BENCHMARK) -> dict[str, np.ndarray]:
    """TinyImageNet-C's layout, lossless; what must come of it."""
    rng = np.random.default_rng(1)
    arrays = {}
    for name in types:
        rows = []
        for severity in SEVERITIES:
            for wnid in sorted(COUNTS):
                files = sorted(f"test_{i}.png" for i in rng.choice(2000, COUNTS[wnid], replace=False))
                for i, file in enumerate(files):
                    image = rng.integers(0, 256, (HIGH, WIDE, 3), np.uint8)
                    path = folder / name / str(severity) / wnid / file
                    path.parent.mkdir(parents=True, exist_ok=True)
                    if i == 0 and severity == 2:
                        image[:] = image[..., :1]
                        Image.fromarray(image[..., 0]).save(path)  # grey
                    else:
                        Image.fromarray(image).save(path)
                    rows.append(image)
        arrays[name] = np.stack(rows)
    return {**arrays, "labels": np.tile(np.repeat([0, 1, 2], [2, 4, 3]), 5)}


def pack_shuffled(path: Path, folder: Path, name: str) -> Path:
    files = sorted(p for p in folder.rglob("*") if p.is_file())
    random.Random(0).shuffle(files)
    with tarfile.open(path, "w") as tar:
        for file in files:
            tar.add(file, f"{name}{file.relative_to(folder)}")
    return path


def test_image_files_are_converted_in_sorted_order(tmp_path: Path, own: Path) -> None:
    arrays = write_images(tmp_path / "images")
    tar = pack_shuffled(tmp_path / "Tiny-C.tar", tmp_path / "images", "Tiny-C/")
    steps: list[tuple[int, int | None]] = []
    found = open_corrupted(spec_of(tar), data_dir=tar, cache_dir=own, progress=lambda *step: steps.append(step))
    check(found, arrays)
    assert found.verified
    assert steps[-1] == (15 * 5 * 9, 15 * 5 * 9)
    assert steps == sorted(steps)


def test_unpacked_images_cannot_be_verified(tmp_path: Path, own: Path) -> None:
    arrays = write_images(tmp_path / "Tiny-C", CORRUPTIONS)
    for place in (tmp_path, tmp_path / "Tiny-C"):
        with pytest.raises(ChecksumError, match=r"Tiny-C\.tar, whose md5 can be checked, but got its unpacked files"):
            open_corrupted(spec_of(), data_dir=place, cache_dir=own)
        found = open_corrupted(spec_of(), data_dir=place, cache_dir=own, allow_unverified=True)
        check(found, arrays)
        assert not found.verified


def test_a_second_archive_beside_the_first_brings_the_extra_corruptions(tmp_path: Path, own: Path) -> None:
    arrays = write_images(tmp_path / "images")
    first = pack_shuffled(tmp_path / "Tiny-C.tar", tmp_path / "images", "Tiny-C/")
    more = write_images(tmp_path / "more", ("saturate", "spatter"))
    second = pack_shuffled(tmp_path / "Tiny-C-extra.tar", tmp_path / "more", "")
    extra = Download(url="http://127.0.0.1:9/Tiny-C-extra.tar", md5=md5(second), folder="Tiny-C")
    spec = replace(spec_of(first), extra=extra)
    found = open_corrupted(spec, data_dir=tmp_path, cache_dir=own)
    check(found, {**arrays, **more})
    assert found.verified
    shutil.copy(first, second)
    with pytest.raises(ChecksumError, match=r"Tiny-C-extra\.tar' to have the official md5"):
        open_corrupted(spec, data_dir=tmp_path, cache_dir=own)
    second.unlink()
    check(open_corrupted(spec, data_dir=first, cache_dir=own), arrays)


def move(old: str, new: str) -> Callable[[Path], object]:
    return lambda folder: (folder / old).rename(folder / new)


def resize(folder: Path) -> None:
    path = sorted((folder / "fog" / "3" / "n01-b").iterdir())[0]
    Image.new("RGB", (5, 9)).save(path)


def damage(folder: Path) -> None:
    path = sorted((folder / "fog" / "3" / "n01-b").iterdir())[0]
    path.write_bytes(path.read_bytes()[:60])


BROKEN_IMAGES = {
    "corruption missing": (move("fog", "mist"), "images of 'fog' at severity 1 of tiny-c, but there are none"),
    "severity missing": (move("fog/4", "fog/six"), "images of 'fog' at severity 4 of tiny-c, but there are none"),
    "class missing": (
        lambda f: shutil.rmtree(f / "fog/2/n01"),
        "3 classes in 'fog' at severity 2 of tiny-c, but got 2",
    ),
    "class too many": (lambda f: shutil.copytree(f / "fog/2/n01", f / "fog/2/n04"), "3 classes .* but got 4"),
    "another class": (move("fog/2/n01", "fog/2/n00"), "the same classes and numbers of images in 'fog' at severity 2"),
    "image missing": (
        lambda f: sorted((f / "fog/2/n01").iterdir())[0].unlink(),
        "the same classes and numbers of images in 'fog' at severity 2",
    ),
    "image size": (resize, r"'.*fog/3/n01-b/test_.*\.png' to be 5x4 pixels, but got 5x9"),
    "image damaged": (damage, r"Cannot read image '.*fog/3/n01-b/test_.*\.png'"),
}


@pytest.mark.parametrize("packed", [False, True], ids=["folder", "archive"])
@pytest.mark.parametrize(("change", "message"), BROKEN_IMAGES.values(), ids=BROKEN_IMAGES)
def test_image_files_of_another_form(
    tmp_path: Path, own: Path, change: Callable[[Path], object], message: str, packed: bool
) -> None:
    write_images(tmp_path / "Tiny-C")
    change(tmp_path / "Tiny-C")
    place = pack(tmp_path / "Tiny-C.tar", tmp_path / "Tiny-C") if packed else tmp_path / "Tiny-C"
    with pytest.raises(DataError, match=message) as caught:
        open_corrupted(spec_of(), data_dir=place, cache_dir=own, allow_unverified=True)
    assert "\n" not in str(caught.value)
    assert not own.exists() or not [p for p in own.iterdir() if p.is_dir()]


def test_long_and_sparse_members(tmp_path: Path) -> None:
    name = "Tiny-C/" + "x" * 150 + "/a.png"  # longer than a plain header holds
    with tarfile.open(tmp_path / "t.tar", "w", format=tarfile.PAX_FORMAT) as tar:
        member = tarfile.TarInfo(name)
        member.size = 3
        tar.addfile(member, io.BytesIO(b"abc"))
    files = TarFiles(tmp_path / "t.tar")
    assert files.names == [name]
    assert files.read(name) == b"abc"
    with pytest.raises(DataError, match="to hold 'other', but it does not"):
        files.read("other")


# --- the command line ---------------------------------------------------------------------------------------------


def test_command_line(tmp_path: Path, own: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rng = np.random.default_rng(0)
    arrays = {name: rng.integers(0, 256, (20, 32, 32, 3), np.uint8) for name in BENCHMARK}
    place = write(tmp_path / "CIFAR-10-C", {**arrays, "labels": np.tile([3, 1, 9, 0], 5)})
    argv = ["prepare", "cifar10-c", "--data-dir", str(tmp_path), "--cache-dir", str(own)]
    assert main(argv) == 2
    refused = capsys.readouterr().err
    assert CORRUPTED["cifar10"].checksums["labels.npy"] in refused
    assert refused.count("\n") == 1
    assert main([*argv, "--allow-unverified"]) == 0
    said = capsys.readouterr().out
    for text in ("cifar10-c (unverified)", "4 under 15 corruptions at 5 severities, 3x32x32", str(place)):
        assert text in said
    assert main([*argv, "--image-size", "32"]) == 2
    assert "Expected no image size for cifar10-c" in capsys.readouterr().err
