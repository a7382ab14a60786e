"""Data sets: reading official files safely, preparing them once, splitting them for ever the same way."""

import dataclasses
import hashlib
import io
import json
import os
import pickle
import re
import resource
import shutil
import subprocess
import sys
import tarfile
import threading
import zipfile
import zlib
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image

from mollify_core.datasets import (
    DATASETS,
    DatasetSpec,
    ImageSet,
    Prepared,
    prepare,
    spec,
    stratified_split,
    stratified_subset,
)
from mollify_core.datasets.__main__ import main
from mollify_core.datasets.specs import ImageArchive, PickleArchive
from mollify_core.datasets.split import judging_rows
from mollify_core.datasets.unpickle import load_pickle
from mollify_core.errors import ChecksumError, ConfigError, DataError, StorageError

SHAPE = (3, 4, 5)
TRAIN = ("batch_1", "batch_2")
FILES = (*TRAIN, "test_batch", "batches.meta")


# --- official files in miniature ---------------------------------------------------------------------------------


class Python2Pickler(pickle._Pickler):
    """Writes bytes as Python 2 wrote its strings, which is what the official files hold."""

    dispatch = pickle._Pickler.dispatch.copy()

    def save_bytes(self, value: bytes) -> None:
        short = len(value) < 256
        self.write(b"U" + bytes([len(value)]) if short else b"T" + len(value).to_bytes(4, "little"))
        self.write(value)
        self.memoize(value)

    dispatch[bytes] = save_bytes


def python2(tree: object) -> bytes:
    file = io.BytesIO()
    Python2Pickler(file, 2).dump(tree)
    return file.getvalue().replace(b"cnumpy._core.multiarray\n", b"cnumpy.core.multiarray\n")


def python3(tree: object) -> bytes:
    return pickle.dumps(tree, 4)


def trees(seed: int = 0) -> dict[str, dict]:
    """The contents of the official files of a data set with 5 classes."""
    rng = np.random.default_rng(seed)
    out: dict[str, dict] = {}
    for file, n in (("batch_1", 40), ("batch_2", 30), ("test_batch", 20)):
        data = rng.integers(0, 256, (n, 60), np.uint8)
        out[file] = {b"batch_label": file.encode(), b"labels": rng.integers(0, 5, n).tolist(), b"data": data}
    out["batches.meta"] = {b"label_names": [b"ant", b"bee", b"cat", b"dog", b"eel"], b"num_vis": 60}
    return out


def write_folder(folder: Path, contents: dict[str, dict], dump=python2) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for file, tree in contents.items():
        (folder / file).write_bytes(dump(tree))
    return folder


def write_tar(path: Path, folder: Path, name: str = "tiny-py") -> Path:
    with tarfile.open(path, "w:gz") as tar:
        tar.add(folder, name)
    return path


def md5(path: Path) -> str:
    return hashlib.md5(path.read_bytes()).hexdigest()


def tiny(folder: Path, archive: Path | None = None, url: str = "http://127.0.0.1:9/tiny.tar.gz") -> DatasetSpec:
    """The specification of which the files in `folder` are the official ones."""
    return DatasetSpec(
        name="tiny",
        classes=5,
        image_shape=SHAPE,
        mean=(0.5, 0.5, 0.5),
        std=(0.25, 0.25, 0.25),
        augment=("flip",),
        validation_fraction=0.1,
        checksums={file: md5(folder / file) for file in FILES},
        source=PickleArchive(
            url=url,
            md5=md5(archive) if archive else "0" * 32,
            folder="tiny-py",
            train=TRAIN,
            test=("test_batch",),
            meta="batches.meta",
            labels_key="labels",
            names_key="label_names",
        ),
    )


@pytest.fixture
def official(tmp_path: Path) -> Path:
    return write_folder(tmp_path / "data" / "tiny-py", trees())


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


def check_content(prepared: Prepared, contents: dict[str, dict]) -> None:
    for split, files in (("train", TRAIN), ("test", ("test_batch",))):
        images = np.concatenate([contents[f][b"data"] for f in files]).reshape(-1, *SHAPE)
        labels = np.concatenate([contents[f][b"labels"] for f in files])
        table = prepared.table(split)
        assert table.schema.field("image").type == pa.fixed_shape_tensor(pa.uint8(), SHAPE)
        np.testing.assert_array_equal(table["image"].combine_chunks().to_numpy_ndarray(), images)
        np.testing.assert_array_equal(table["label"], labels)
        np.testing.assert_array_equal(table["index"], np.arange(len(labels)))
        tensors = prepared.tensors(split)
        np.testing.assert_array_equal(tensors.images, images)
        np.testing.assert_array_equal(tensors.labels, labels)
        assert (tensors.images.dtype, tensors.labels.dtype) == (torch.uint8, torch.int64)


# --- specifications -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "reference"), [("cifar10", "CIFAR10"), ("cifar100", "CIFAR100")])
def test_checksums_equal_those_of_torchvision(name: str, reference: str) -> None:
    import torchvision.datasets

    theirs = getattr(torchvision.datasets, reference)
    archive = DATASETS[name].source
    assert isinstance(archive, PickleArchive)
    assert (archive.url, archive.md5, archive.folder) == (theirs.url, theirs.tgz_md5, theirs.base_folder)
    assert (archive.meta, archive.names_key) == (theirs.meta["filename"], theirs.meta["key"])
    assert (archive.train, archive.test) == tuple(tuple(f for f, _ in x) for x in (theirs.train_list, theirs.test_list))
    assert DATASETS[name].checksums == dict(
        [*theirs.train_list, *theirs.test_list, (theirs.meta["filename"], theirs.meta["md5"])]
    )


def test_unknown_names_are_told_the_nearest() -> None:
    with pytest.raises(ConfigError, match="did you mean 'cifar100'"):
        spec("cifar1000")
    assert {name: spec(name).name for name in DATASETS} == {name: name for name in DATASETS}


def test_tinyimagenet_is_the_papers() -> None:
    tin = DATASETS["tin"]
    assert (tin.classes, tin.image_shape) == (200, (3, 64, 64))
    assert (tin.mean, tin.std) == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    assert isinstance(tin.source, ImageArchive)
    assert tin.checksums == {tin.source.filename: tin.source.md5}


# --- digits -------------------------------------------------------------------------------------------------------


def test_digits_are_the_bilinear_enlargement(cache: Path) -> None:
    from sklearn.datasets import load_digits

    prepared = prepare("digits", cache_dir=cache)
    assert prepared.verified
    assert prepared.fingerprint == "f50455bba1e948c7"  # the split and the pixels are fixed for ever
    train, test = prepared.tensors("train"), prepared.tensors("test")
    assert (len(train), len(test)) == (1438, 359)
    small = torch.from_numpy(load_digits().images)[:, None] / 16
    large = torch.nn.functional.interpolate(small, size=32, mode="bilinear", align_corners=False) * 255
    ours = torch.cat([train.images, test.images]).double()
    assert torch.equal(ours[:, :1].expand(-1, 3, -1, -1), ours)
    distance = torch.cdist(ours[::50, 0].flatten(1), large.flatten(1))  # rows moved: compare with the nearest
    nearest = distance.argmin(1)
    assert (ours[::50, 0] - large[nearest, 0]).abs().max() <= 0.5 + 1e-9
    labels = torch.cat([train.labels, test.labels])
    np.testing.assert_array_equal(labels[::50], load_digits().target[nearest])
    np.testing.assert_array_equal(torch.bincount(labels), np.bincount(load_digits().target))
    np.testing.assert_allclose(torch.bincount(test.labels) / torch.bincount(labels), 0.2, atol=0.003)


def test_measured_scaling_is_that_of_the_training_images(cache: Path) -> None:
    prepared = prepare("digits", cache_dir=cache)
    images = prepared.tensors("train").images.double() / 255
    np.testing.assert_allclose(prepared.manifest["measured_mean"], images.mean((0, 2, 3)), atol=1e-6)
    np.testing.assert_allclose(prepared.manifest["measured_std"], images.std((0, 2, 3), correction=0), atol=1e-6)
    np.testing.assert_allclose(prepared.spec.mean, prepared.manifest["measured_mean"], atol=5e-4)
    np.testing.assert_allclose(prepared.spec.std, prepared.manifest["measured_std"], atol=5e-4)


def test_digits_take_no_data_folder(tmp_path: Path, cache: Path) -> None:
    with pytest.raises(ConfigError, match="Expected no data folder"):
        prepare("digits", data_dir=tmp_path, cache_dir=cache)


# --- a data folder ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dump", [python2, python3])
@pytest.mark.parametrize("place", ["folder", "parent", "archive", "folder of the archive"])
def test_a_data_folder_in_each_form(tmp_path: Path, cache: Path, place: str, dump) -> None:
    folder = write_folder(tmp_path / "data" / "tiny-py", trees(), dump)
    tar = write_tar(tmp_path / "tiny.tar.gz", folder)
    places = {"folder": folder, "parent": folder.parent, "archive": tar, "folder of the archive": tmp_path}
    before = sorted(tmp_path.rglob("*"))
    prepared = prepare(tiny(folder), data_dir=places[place], cache_dir=cache)
    assert [p for p in sorted(tmp_path.rglob("*")) if cache not in (p, *p.parents)] == before
    assert prepared.verified
    assert prepared.manifest["counts"] == {"train": 70, "test": 20}
    assert prepared.manifest["class_names"] == ["ant", "bee", "cat", "dog", "eel"]
    check_content(prepared, trees())


def test_the_default_cache_is_the_environments(official: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MOLLIFY_CACHE", str(cache))
    assert prepare(tiny(official), data_dir=official).folder.parent == cache


def test_unverified_files_need_permission_and_stay_marked(tmp_path: Path, official: Path, cache: Path) -> None:
    dataset = tiny(official)
    other = write_folder(tmp_path / "other", trees(seed=1))
    with pytest.raises(ChecksumError) as caught:
        prepare(dataset, data_dir=other, cache_dir=cache)
    for part in ("'batch_1'", md5(official / "batch_1"), md5(other / "batch_1"), "--allow-unverified"):
        assert part in str(caught.value)
    taken = prepare(dataset, data_dir=other, cache_dir=cache, allow_unverified=True)
    assert not taken.verified
    check_content(taken, trees(seed=1))
    with pytest.raises(ChecksumError):  # what is in the cache does not excuse it later
        prepare(dataset, data_dir=other, cache_dir=cache)
    assert prepare(dataset, data_dir=official, cache_dir=cache, allow_unverified=True).verified


def test_data_folders_do_not_collide_and_changes_are_noticed(official: Path, tmp_path: Path, cache: Path) -> None:
    take = partial(prepare, tiny(official), cache_dir=cache, allow_unverified=True)
    first = take(data_dir=official)
    changed = write_folder(tmp_path / "copy", trees(seed=1))
    second = take(data_dir=changed)
    write_folder(changed, trees(seed=2))
    third = take(data_dir=changed)
    assert len({p.folder for p in (first, second, third)}) == 3
    assert len({p.fingerprint for p in (first, second, third)}) == 3
    check_content(first, trees())
    check_content(third, trees(seed=2))


def test_the_fingerprint_is_of_the_content_not_of_the_files(tmp_path: Path, official: Path, cache: Path) -> None:
    same = write_folder(tmp_path / "same", trees(), python3)
    prints = [
        prepare(tiny(official), data_dir=d, cache_dir=cache, allow_unverified=True).fingerprint
        for d in (official, same)
    ]
    assert prints[0] == prints[1]
    assert re.fullmatch("[0-9a-f]{16}", prints[0])
    contents = trees()
    contents["test_batch"][b"labels"][3] ^= 1
    other = write_folder(tmp_path / "relabelled", contents)
    assert prepare(tiny(official), data_dir=other, cache_dir=cache, allow_unverified=True).fingerprint != prints[0]


def broken(change) -> dict[str, dict]:
    contents = trees()
    change(contents)
    return contents


def put(file: str, key: bytes, value: object):
    return lambda contents: contents[file].__setitem__(key, value)


BROKEN = {
    "no images": (lambda c: c["batch_1"].pop(b"data"), r"'batch_1' to hold 'data', but got only \['batch_label'"),
    "no labels": (lambda c: c["batch_2"].pop(b"labels"), "'batch_2' to hold 'labels'"),
    "image size": (put("batch_1", b"data", np.zeros((40, 61), np.uint8)), r"shape \(n, 60\), but got uint8 .*61"),
    "image type": (put("test_batch", b"data", np.zeros((20, 60))), "to be uint8 .* but got float64"),
    "image rank": (put("batch_1", b"data", np.zeros(2400, np.uint8)), r"but got uint8 of shape \(2400,\)"),
    "no array": (put("batch_1", b"data", [1, 2]), "but got list"),
    "count": (put("batch_1", b"labels", [0] * 39), "but got 39 and 40"),
    "empty": (lambda c: c["test_batch"].update({b"data": np.zeros((0, 60), np.uint8), b"labels": []}), "0 and 0"),
    "label too large": (put("batch_1", b"labels", [0] * 39 + [5]), r"in \[0, 5\), but got 5"),
    "label negative": (put("batch_1", b"labels", [4] * 39 + [-1]), r"in \[0, 5\), but got -1"),
    "label huge": (put("batch_1", b"labels", [0] * 39 + [10**30]), r"in \[0, 5\), but got 1000"),
    "label fraction": (put("batch_1", b"labels", [0.0] * 40), "list of integers, but got list"),
    "labels no list": (put("batch_1", b"labels", b"0" * 40), "list of integers, but got bytes"),
    "too few names": (put("batches.meta", b"label_names", [b"ant"]), "5 names, but got 1"),
    "no names": (lambda c: c["batches.meta"].pop(b"label_names"), "under 'label_names', but got none"),
}


@pytest.mark.parametrize(("change", "message"), BROKEN.values(), ids=BROKEN)
def test_files_of_another_form(official: Path, tmp_path: Path, cache: Path, change, message: str) -> None:
    folder = write_folder(tmp_path / "broken", broken(change))
    with pytest.raises(DataError, match=message) as caught:
        prepare(tiny(official), data_dir=folder, cache_dir=cache, allow_unverified=True)
    assert "\n" not in str(caught.value)
    assert not [p for p in cache.rglob("*") if p.suffix == ".parquet"]


def test_files_that_are_not_there(official: Path, tmp_path: Path, cache: Path) -> None:
    take = partial(prepare, tiny(official), cache_dir=cache)
    with pytest.raises(DataError, match=r"existing folder or archive, but got '.*nowhere'"):
        take(data_dir=tmp_path / "nowhere")
    with pytest.raises(DataError, match=r"to hold tiny-py or tiny\.tar\.gz, but it has neither"):
        take(data_dir=tmp_path)
    (official / "batch_2").unlink()
    with pytest.raises(DataError, match=r"to hold batch_1, batch_2, .* but batch_2 is missing"):
        take(data_dir=official)


def test_a_file_that_cannot_be_read(official: Path, cache: Path) -> None:
    dataset = tiny(official)
    (official / "batch_2").unlink()
    (official / "batch_2").symlink_to("/etc/passwd")
    with pytest.raises(DataError, match=r"Expected a file rather than a link, but got '.*batch_2'"):
        prepare(dataset, data_dir=official, cache_dir=cache)


@pytest.mark.parametrize("keep", [0.3, 0.9])
def test_a_truncated_archive(official: Path, tmp_path: Path, cache: Path, keep: float) -> None:
    tar = write_tar(tmp_path / "tiny.tar.gz", official)
    tar.write_bytes(tar.read_bytes()[: int(keep * tar.stat().st_size)])
    with pytest.raises(DataError, match=r"Expected .*tiny\.tar\.gz.*") as caught:
        prepare(tiny(official), data_dir=tar, cache_dir=cache, allow_unverified=True)
    assert "\n" not in str(caught.value)


def test_an_archive_that_is_none_or_another(official: Path, tmp_path: Path, cache: Path) -> None:
    text = tmp_path / "tiny.tar.gz"
    text.write_text("a login page")
    with pytest.raises(DataError, match="whole tar archive") as caught:
        prepare(tiny(official), data_dir=text, cache_dir=cache)
    assert "\n" not in str(caught.value)
    shutil.copytree(official, tmp_path / "less")
    (tmp_path / "less" / "test_batch").unlink()
    with pytest.raises(DataError, match="to hold test_batch, but it ends without"):
        prepare(tiny(official), data_dir=write_tar(text, tmp_path / "less"), cache_dir=cache)


def test_links_in_an_archive_are_not_followed(official: Path, tmp_path: Path, cache: Path) -> None:
    dataset = tiny(official)
    (official / "batch_2").rename(tmp_path / "batch_2")
    (official / "batch_2").symlink_to(tmp_path / "batch_2")
    with pytest.raises(DataError, match="to hold batch_2, but it ends without"):
        prepare(dataset, data_dir=write_tar(tmp_path / "t.tar.gz", official), cache_dir=cache)


# --- the cache ----------------------------------------------------------------------------------------------------


def damage_manifest(folder: Path) -> None:
    (folder / "manifest.json").write_text('{"format": 1, "na')


def damage_size(folder: Path) -> None:
    with open(folder / "train.parquet", "r+b") as file:
        file.truncate(100)


def damage_format(folder: Path) -> None:
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps({**manifest, "format": 0}))


def damage_files(folder: Path) -> None:
    (folder / "test.parquet").unlink()


@pytest.mark.parametrize("damage", [damage_manifest, damage_size, damage_format, damage_files])
def test_a_damaged_preparation_is_redone(official: Path, cache: Path, damage) -> None:
    first = prepare(tiny(official), data_dir=official, cache_dir=cache)
    stamp = (first.folder / "manifest.json").stat().st_ino
    assert prepare(tiny(official), data_dir=official, cache_dir=cache) == first
    assert (first.folder / "manifest.json").stat().st_ino == stamp  # not written again
    damage(first.folder)
    again = prepare(tiny(official), data_dir=official, cache_dir=cache)
    assert again == first
    check_content(again, trees())


def test_a_half_written_preparation_is_not_taken(official: Path, cache: Path) -> None:
    first = prepare(tiny(official), data_dir=official, cache_dir=cache)
    draft = first.folder.with_name(f".{first.folder.name}.draft")  # as a killed process leaves it
    first.folder.rename(draft)
    (draft / "manifest.json").unlink()
    check_content(prepare(tiny(official), data_dir=official, cache_dir=cache), trees())
    assert not draft.exists()


def test_a_flipped_bit_is_found_when_read(official: Path, cache: Path) -> None:
    prepared = prepare(tiny(official), data_dir=official, cache_dir=cache)
    path = prepared.folder / "train.parquet"
    raw = bytearray(path.read_bytes())
    raw[raw.index(trees()["batch_1"][b"data"].tobytes()) + 100] ^= 4
    path.write_bytes(raw)
    with pytest.raises(DataError, match=r"Cannot read .*prepared again"):
        prepared.tensors("train")
    assert len(prepared.tensors("test")) == 20


def test_the_manifest_holds_the_checksums_of_the_parquet_files(official: Path, cache: Path) -> None:
    prepared = prepare(tiny(official), data_dir=official, cache_dir=cache)
    assert set(prepared.manifest["files"]) == {"train.parquet", "test.parquet"}
    for file, entry in prepared.manifest["files"].items():
        raw = (prepared.folder / file).read_bytes()
        assert entry == {"bytes": len(raw), "sha256": hashlib.sha256(raw).hexdigest()}
    assert pq.read_schema(prepared.folder / "train.parquet").field("image").type == pa.binary(60)


def test_a_cache_that_cannot_be_written(official: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="Cannot write the data cache"):
        prepare(tiny(official), data_dir=official, cache_dir=tmp_path / "file")
    with pytest.raises(StorageError, match="Cannot write the data cache"):
        prepare(tiny(official), cache_dir=tmp_path / "file")


def test_unknown_splits(official: Path, cache: Path) -> None:
    with pytest.raises(ConfigError, match="did you mean 'test'"):
        prepare(tiny(official), data_dir=official, cache_dir=cache).table("tests")


def test_a_full_disk_is_one_sentence_and_leaves_nothing(official: Path, tmp_path: Path, cache: Path) -> None:
    take = partial(prepare, tiny(official), data_dir=official, cache_dir=cache)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    for limit in (1000, 3000):  # within the training images; within the test images
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
        try:
            with pytest.raises(StorageError, match=r"Cannot write the data cache '.*cache.*': File too large$"):
                take()
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert not [p for p in cache.iterdir() if p.is_dir()]
    check_content(take(), trees())


# --- downloads ----------------------------------------------------------------------------------------------------


class Web:
    """A server of the files in a folder; `asked` lists the paths of all requests."""

    def __init__(self, folder: Path) -> None:
        self.asked = asked = []

        class Handler(SimpleHTTPRequestHandler):
            def do_GET(self) -> None:
                asked.append(self.path)
                super().do_GET()

            def log_message(self, *_: object) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=folder))
        threading.Thread(target=self.http.serve_forever, args=(0.01,), daemon=True).start()
        self.url = f"http://127.0.0.1:{self.http.server_port}"

    def close(self) -> None:
        self.http.shutdown()
        self.http.server_close()


@pytest.fixture
def web(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("no_proxy", "*")
    (tmp_path / "www" / "mirror").mkdir(parents=True)
    server = Web(tmp_path / "www")
    yield server
    server.close()


def test_download_prepare_and_never_again(official: Path, tmp_path: Path, cache: Path, web: Web) -> None:
    tar = write_tar(tmp_path / "www" / "tiny.tar.gz", official)
    dataset = tiny(official, tar, f"{web.url}/tiny.tar.gz")
    steps: list[tuple[int, int | None]] = []
    prepared = prepare(dataset, cache_dir=cache, progress=lambda done, total: steps.append((done, total)))
    assert prepared.verified
    assert steps[-1] == (tar.stat().st_size, tar.stat().st_size)
    check_content(prepared, trees())
    assert [p for p in cache.iterdir() if "tar" in p.name] == []  # the archive is not kept
    assert prepare(dataset, cache_dir=cache) == prepared
    assert prepare(dataset, cache_dir=cache, data_dir=official) == prepared  # the same files from elsewhere
    assert web.asked == ["/tiny.tar.gz"]


def test_mirrors_come_first_and_a_wrong_one_is_passed_over(
    official: Path, tmp_path: Path, cache: Path, web: Web
) -> None:
    tar = write_tar(tmp_path / "www" / "mirror" / "tiny.tar.gz", official)
    (tmp_path / "www" / "tiny.tar.gz").write_text("a login page")
    dataset = tiny(official, tar)
    prepared = prepare(dataset, cache_dir=cache, mirrors=[f"{web.url}/", f"{web.url}/mirror/tiny.tar.gz"])
    assert web.asked == ["/tiny.tar.gz", "/mirror/tiny.tar.gz"]
    check_content(prepared, trees())
    with pytest.raises(ConfigError, match="http"):
        prepare(dataset, cache_dir=cache, mirrors=["ftp://example.org"])


def test_an_official_archive_of_other_files_is_refused(official: Path, tmp_path: Path, cache: Path, web: Web) -> None:
    other = write_folder(tmp_path / "other", trees(seed=1))
    tar = write_tar(tmp_path / "www" / "tiny.tar.gz", other)
    with pytest.raises(ChecksumError, match="'batch_1'"):
        prepare(tiny(official, tar, f"{web.url}/tiny.tar.gz"), cache_dir=cache)


def test_processes_at_once_download_and_prepare_once(official: Path, tmp_path: Path, cache: Path, web: Web) -> None:
    tar = write_tar(tmp_path / "www" / "tiny.tar.gz", official)
    dataset = tiny(official, tar, f"{web.url}/tiny.tar.gz")
    with ProcessPoolExecutor(3, get_context("spawn")) as pool:
        jobs = [pool.submit(prepare, dataset, cache_dir=cache) for _ in range(3)]
        jobs += [pool.submit(prepare, dataset, cache_dir=cache, data_dir=official) for _ in range(3)]
        prepared = [job.result() for job in jobs]
    assert all(p == prepared[0] for p in prepared)
    check_content(prepared[0], trees())
    assert web.asked in ([], ["/tiny.tar.gz"])  # none when a process with the files at hand was first


# --- TinyImageNet's layout -----------------------------------------------------------------------------------------

WNIDS = ("n03", "n01", "n02")  # as wnids.txt lists them; classes are 1, 2, 0 in the order of the sorted ones
TINY_SHAPE = (3, 16, 16)


def picture(seed: int) -> Image.Image:
    """A smooth image, asymmetric in all its axes, which JPEG keeps nearly as it is."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:16, :16] / 15
    low, right, down = rng.uniform(0, 80, 3), rng.uniform(0, 80, 3), rng.uniform(0, 80, 3)
    return Image.fromarray((low + x[..., None] * right + y[..., None] * down).astype(np.uint8))


def jpeg(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, "JPEG", quality=95, subsampling=0)
    return file.getvalue()


def tiny_imagenet() -> tuple[dict[str, bytes], dict[str, list[tuple[np.ndarray, int]]]]:
    """The members of the archive, and the images and labels that must come of them."""
    expected: dict[str, list[tuple[np.ndarray, int]]] = {"train": [], "test": []}
    members: dict[str, bytes] = {
        "wnids.txt": "\n".join(WNIDS).encode() + b"\n",
        "words.txt": b"n00\tentity\nn01\tgoldfish, Carassius auratus\nn03\tyak\nn02\tox, bull\nn04\tgnu\n",
        "test/images/test_0.JPEG": jpeg(picture(999)),
    }
    for label, wnid in enumerate(sorted(WNIDS)):
        members[f"train/{wnid}/{wnid}_boxes.txt"] = b"boxes"
        for i in sorted(range(12), key=str):  # 0, 1, 10, 11, 2 ...
            image = picture(100 * label + i)
            image = image.convert("L") if i == 5 else image
            members[f"train/{wnid}/images/{wnid}_{i}.JPEG"] = jpeg(image)
            expected["train"].append((np.asarray(image.convert("RGB")), label))
    lines = []
    for i, wnid in ((3, "n02"), (0, "n03"), (2, "n01"), (1, "n02")):
        members[f"val/images/val_{i}.JPEG"] = jpeg(picture(1000 + i))
        lines.append(f"val_{i}.JPEG\t{wnid}\t0\t0\t9\t9\n")
        expected["test"].append((np.asarray(picture(1000 + i)), sorted(WNIDS).index(wnid)))
    members["val/val_annotations.txt"] = "".join(lines).encode()
    return members, expected


def write_zip(path: Path, members: dict[str, bytes], top: str = "tiny-200/") -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in reversed(members):
            archive.writestr(top + name, members[name])
    return path


def unpack(folder: Path, members: dict[str, bytes]) -> Path:
    for name, content in members.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


def tin_like(archive: Path | None = None, url: str = "http://127.0.0.1:9") -> DatasetSpec:
    digest = md5(archive) if archive else "0" * 32
    return DatasetSpec(
        name="tiny-images",
        classes=3,
        image_shape=TINY_SHAPE,
        mean=(0.5, 0.5, 0.5),
        std=(0.25, 0.25, 0.25),
        augment=("flip",),
        validation_fraction=0.1,
        checksums={"tiny-200.zip": digest},
        source=ImageArchive(url=f"{url}/tiny-200.zip", md5=digest, folder="tiny-200"),
    )


def check_images(prepared: Prepared, expected: dict[str, list[tuple[np.ndarray, int]]]) -> None:
    for split, rows in expected.items():
        data = prepared.tensors(split)
        assert data.labels.tolist() == [label for _, label in rows]
        images = data.images.permute(0, 2, 3, 1).numpy().astype(int)
        assert np.abs(images - np.stack([image for image, _ in rows])).max() <= 6  # what JPEG does; images are 80 apart


@pytest.mark.parametrize("place", ["archive", "folder of the archive", "unpacked", "parent of the unpacked"])
def test_tinyimagenet_in_each_form(tmp_path: Path, cache: Path, place: str) -> None:
    members, expected = tiny_imagenet()
    packed = write_zip(tmp_path / "tiny-200.zip", members)
    unpacked = unpack(tmp_path / "unpacked" / "tiny-200", members)
    places = {
        "archive": packed,
        "folder of the archive": tmp_path,
        "unpacked": unpacked,
        "parent of the unpacked": unpacked.parent,
    }
    steps: list[tuple[int, int | None]] = []
    take = partial(
        prepare, tin_like(packed), data_dir=places[place], cache_dir=cache, progress=lambda *step: steps.append(step)
    )
    if "unpacked" in place:
        with pytest.raises(ChecksumError, match=r"'tiny-200\.zip' .* but got its unpacked files; --allow-unverified"):
            take()
    prepared = take(allow_unverified="unpacked" in place)
    assert prepared.verified == ("unpacked" not in place)
    assert prepared.manifest["class_names"] == ["goldfish", "ox", "yak"]
    assert prepared.manifest["counts"] == {"train": 36, "test": 4}
    assert steps == [(36, 36), (4, 4)]
    check_images(prepared, expected)
    assert take(allow_unverified=True) == prepared
    assert len(steps) == 2  # nothing was decoded again


def test_tinyimagenet_is_downloaded_once(tmp_path: Path, cache: Path, web: Web) -> None:
    members, expected = tiny_imagenet()
    dataset = tin_like(write_zip(tmp_path / "www" / "tiny-200.zip", members), web.url)
    prepared = prepare(dataset, cache_dir=cache)
    assert prepared.verified
    assert prepared.manifest["source"] == "official tiny-200.zip"
    check_images(prepared, expected)
    assert prepare(dataset, cache_dir=cache) == prepared
    assert web.asked == ["/tiny-200.zip"]
    assert not (cache / "tiny-200.zip").exists()


def test_builtin_mirrors_are_tried_before_the_official_address(tmp_path: Path, cache: Path, web: Web) -> None:
    members, expected = tiny_imagenet()
    packed = write_zip(tmp_path / "www" / "tiny-200.zip", members)
    dataset = tin_like(packed, web.url)
    source = dataclasses.replace(dataset.source, mirrors=(f"{web.url}/mirror/tiny-200.zip",))
    dataset = dataclasses.replace(dataset, source=source)
    check_images(prepare(dataset, cache_dir=cache, mirrors=[f"{web.url}/first"]), expected)
    assert web.asked == ["/first/tiny-200.zip", "/mirror/tiny-200.zip", "/tiny-200.zip"]


def test_another_zip_needs_permission(tmp_path: Path, cache: Path) -> None:
    members, _ = tiny_imagenet()
    official = write_zip(tmp_path / "official.zip", members)
    members["words.txt"] += b"n05\tbison\n"
    other = write_zip(tmp_path / "tiny-200.zip", members)
    take = partial(prepare, tin_like(official), data_dir=other, cache_dir=cache)
    with pytest.raises(ChecksumError, match=f"official md5 {md5(official)}, but got {md5(other)}"):
        take()
    assert not take(allow_unverified=True).verified
    with pytest.raises(ChecksumError):
        take()


def huge_png() -> bytes:
    """An image that says it has 60,000 x 60,000 pixels."""
    file = io.BytesIO()
    picture(0).save(file, "PNG")
    raw = bytearray(file.getvalue())
    raw[16:24] = (60_000).to_bytes(4, "big") * 2
    raw[29:33] = zlib.crc32(raw[12:29]).to_bytes(4, "big")
    return bytes(raw)


def change(name: str, content: bytes | None):
    def apply(members: dict[str, bytes]) -> None:
        if content is None:
            del members[name]
        else:
            members[name] = content

    return apply


FIRST = "train/n01/images/n01_0.JPEG"
BAD_IMAGES = {
    "another size": (
        change(FIRST, jpeg(picture(0).resize((16, 15)))),
        rf"'.*{FIRST}' to be 16x16 pixels, but got 16x15",
    ),
    "no image": (change(FIRST, b"hello"), rf"Cannot read image '.*{FIRST}': not an image in a known format"),
    "truncated image": (change(FIRST, jpeg(picture(0))[:350]), rf"Cannot read image '.*{FIRST}'"),
    "image bomb": (change(FIRST, huge_png()), rf"'.*{FIRST}' to have at most 89,478,485 pixels, but got"),
    "zip bomb": (change(FIRST, bytes(3 << 20)), rf"'.*{FIRST}' in '.*' to be below 1 MiB, but got 3145728 bytes"),
    "no wnids": (change("wnids.txt", None), r"(to hold one wnids\.txt, but got 0|it has neither)"),
    "few wnids": (change("wnids.txt", b"n01\nn02\nn01\n"), r"wnids\.txt in '.*' to name 3 classes, but got 2"),
    "no words": (change("words.txt", None), r"to hold '.*words\.txt', but it does not|words\.txt.*No such file"),
    "a class without words": (change("words.txt", b"n01\tx\nn02\ty\n"), "to name every class, but n03 is missing"),
    "a class without images": (
        lambda m: [m.pop(name) for name in list(m) if name.startswith("train/n02/images")],
        "training images of every class, but n02 has none",
    ),
    "no annotations": (change("val/val_annotations.txt", None), r"val_annotations\.txt"),
    "empty annotations": (change("val/val_annotations.txt", b""), "list images, but it is empty"),
    "unknown class": (
        change("val/val_annotations.txt", b"val_0.JPEG\tn09\n"),
        r"a class of wnids\.txt, but got 'val_0",
    ),
    "validation image missing": (change("val/images/val_2.JPEG", None), r"val_2\.JPEG"),
    "escape by annotation": (change("val/val_annotations.txt", b"../../x.JPEG\tn01\n"), r"x\.JPEG"),
}


@pytest.mark.parametrize("packed", [True, False], ids=["zip", "folder"])
@pytest.mark.parametrize(("apply", "message"), BAD_IMAGES.values(), ids=BAD_IMAGES)
def test_images_of_another_form(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, apply, message: str, packed: bool
) -> None:
    monkeypatch.setattr("mollify_core.datasets.files.LARGEST", 1 << 20)
    members, _ = tiny_imagenet()
    apply(members)
    place = write_zip(tmp_path / "tiny-200.zip", members) if packed else unpack(tmp_path / "tiny-200", members)
    with pytest.raises(DataError, match=message) as caught:
        prepare(tin_like(), data_dir=place, cache_dir=cache, allow_unverified=True)
    assert "\n" not in str(caught.value)
    assert not cache.exists() or not [p for p in cache.iterdir() if p.is_dir()]


@pytest.mark.parametrize("name", ["../escaped", "/tmp/escaped", "tiny-200/../../escaped", "..\\escaped"])
def test_names_that_leave_the_zip_are_refused(tmp_path: Path, cache: Path, name: str) -> None:
    members, _ = tiny_imagenet()
    packed = write_zip(tmp_path / "tiny-200.zip", members)
    with zipfile.ZipFile(packed, "a") as more:
        more.writestr(name, b"x")
    with pytest.raises(DataError, match=r"to hold only files below itself, but got '.*escaped'"):
        prepare(tin_like(packed), data_dir=packed, cache_dir=cache)
    assert not list(tmp_path.parent.glob("escaped"))


@pytest.mark.parametrize("damage", [lambda raw: raw[: len(raw) // 2], lambda raw: b"a login page", lambda raw: b""])
def test_a_damaged_zip(tmp_path: Path, cache: Path, damage) -> None:
    packed = write_zip(tmp_path / "tiny-200.zip", tiny_imagenet()[0])
    packed.write_bytes(damage(packed.read_bytes()))
    with pytest.raises(DataError, match=r"tiny-200\.zip' to be a whole zip archive, but reading it failed") as caught:
        prepare(tin_like(packed), data_dir=packed, cache_dir=cache)
    assert "\n" not in str(caught.value)


def test_a_flipped_bit_in_a_zip_is_found(tmp_path: Path, cache: Path) -> None:
    packed = write_zip(tmp_path / "tiny-200.zip", tiny_imagenet()[0])
    with zipfile.ZipFile(packed) as archive:
        at = archive.getinfo(f"tiny-200/{FIRST}").header_offset + 200
    raw = bytearray(packed.read_bytes())
    raw[at] ^= 1
    packed.write_bytes(raw)
    with pytest.raises(DataError, match=rf"Cannot read 'tiny-200/{FIRST}' in"):
        prepare(tin_like(packed), data_dir=packed, cache_dir=cache)


# --- hostile pickles ----------------------------------------------------------------------------------------------


class Call:
    def __init__(self, function, *arguments) -> None:
        self.parts = function, arguments

    def __reduce__(self):
        return self.parts


@pytest.mark.parametrize("protocol", range(6))
def test_a_hostile_pickle_is_refused_and_does_not_run(
    official: Path, tmp_path: Path, cache: Path, protocol: int
) -> None:
    mark = tmp_path / "ran"
    for call in (Call(os.system, f"touch {mark}"), Call(eval, f"open({str(mark)!r}, 'w')"), Call(os.mkdir, str(mark))):
        contents = trees()
        contents["batch_1"][b"extra"] = call
        folder = write_folder(tmp_path / "hostile", contents, partial(pickle.dumps, protocol=protocol))
        with pytest.raises(DataError, match=r"'batch_1' to hold only arrays .* but got the global '.*'$"):
            prepare(tiny(official), data_dir=folder, cache_dir=cache, allow_unverified=True)
        assert not mark.exists()
        pickle.loads((folder / "batch_1").read_bytes())  # which an ordinary unpickler would have run
        assert mark.exists()
        shutil.rmtree(mark) if mark.is_dir() else mark.unlink()


HOSTILE = {
    "a method of an allowed class": b"\x80\x04\x8c\x05numpy\x8c\x0cndarray.dump\x93.",
    "a line break in a name": b"cos\r\nsystem\n.",
    "object array": pickle.dumps({"data": np.array([{}], object)}, 4),
    "structured array": pickle.dumps({"data": np.zeros(2, "i4,f4")}, 4),
    "state of the class itself": b"\x80\x02cnumpy\nndarray\n}X\x01\x00\x00\x00aK\x01sb.",
    "fewer bytes than the shape says": python2({"data": np.zeros(9, np.uint8)}).replace(b"K\t\x85", b"K\n\x85"),
    "a shape no memory holds": python2({"data": np.zeros(9, np.uint8)}).replace(b"K\t\x85", b"J\xff\xff\xff\x7f\x85"),
    "a memo of 32 GiB": b"\x80\x02}r\xff\xff\xff\x7f0N.",
    "an array of a terabyte": b"\x80\x05\x96" + (1 << 40).to_bytes(8, "little") + b".",
    "a list": pickle.dumps([1]),
    "keys that are no names": pickle.dumps({1: 2}),
    "a persistent reference": b"Pname\n.",
    "an unregistered extension": b"\x80\x02\x82\x01.",
    "nothing": b"",
    "text": b"<html>not found</html>",
}


@pytest.mark.parametrize("raw", HOSTILE.values(), ids=HOSTILE)
def test_hostile_bytes_are_a_data_error(raw: bytes) -> None:
    with pytest.raises(DataError, match=r"^Expected file to (hold|be a readable pickle)") as caught:
        load_pickle(raw, "file")
    assert "\n" not in str(caught.value)


def test_every_truncation_is_a_data_error() -> None:
    raw = python2({b"labels": [0, 1, 300], b"data": np.arange(6, dtype=np.uint8).reshape(2, 3)})
    for end in range(len(raw)):
        with pytest.raises(DataError):
            load_pickle(raw[:end], "file")


@given(
    array=hnp.arrays(
        st.sampled_from(["u1", "<i8", ">i4", "<f4", "?"]), hnp.array_shapes(min_dims=0, max_dims=3, max_side=4)
    ),
    fortran=st.booleans(),
    dump=st.sampled_from([python2, python3]),
)
def test_arrays_survive(array: np.ndarray, fortran: bool, dump) -> None:
    array = np.asarray(array, order="F" if fortran else "C")
    read = load_pickle(dump({b"data": array, b"labels": [1, -70000, 2**40], b"name": b"x" * 300}), "file")
    np.testing.assert_array_equal(read["data"], array)
    assert read["data"].dtype == array.dtype
    assert read["labels"] == [1, -70000, 2**40]
    assert read["name"] == b"x" * 300


# --- in memory ----------------------------------------------------------------------------------------------------


def test_image_set() -> None:
    images = ImageSet(torch.arange(5 * 12, dtype=torch.uint8).reshape(5, 3, 2, 2), torch.arange(5))
    chosen = images.select(np.array([4, 0]))
    assert len(chosen) == 2
    assert chosen.labels.tolist() == [4, 0]
    assert torch.equal(chosen.images, torch.stack([images.images[4], images.images[0]]))
    chosen.images.zero_()
    assert images.images[4].sum() > 0
    with pytest.raises(DataError, match=r"but got \(5, 3, 2, 2\) and \(4,\)"):
        ImageSet(images.images, images.labels[:4])


def test_tables_and_tensors_of_many_row_groups(tmp_path: Path, cache: Path) -> None:
    rng = np.random.default_rng(0)
    contents = trees()
    contents["batch_2"] = {b"data": rng.integers(0, 256, (12_345, 60), np.uint8), b"labels": [1] * 12_345}
    folder = write_folder(tmp_path / "many", contents)
    prepared = prepare(tiny(folder), data_dir=folder, cache_dir=cache)
    assert prepared.table("train")["image"].num_chunks > 1
    check_content(prepared, contents)
    tensors = prepared.tensors("train")
    tensors.images[0] = 0  # writable, and nobody else's
    check_content(prepared, contents)


# --- splits -------------------------------------------------------------------------------------------------------

labels_strategy = hnp.arrays(np.int64, st.integers(1, 200), elements=st.integers(0, 6))
fractions = st.floats(0.01, 0.99)
seeds = st.integers(0, 2**40)


@given(labels=labels_strategy, fraction=fractions, seed=seeds)
def test_split_is_disjoint_complete_stratified_and_repeatable(labels: np.ndarray, fraction: float, seed: int) -> None:
    fit, validation = stratified_split(labels, fraction, seed, "print")
    np.testing.assert_array_equal(np.sort(np.concatenate([fit, validation])), np.arange(len(labels)))
    assert (np.diff(fit) > 0).all()
    assert (np.diff(validation) > 0).all()
    for label, count in zip(*np.unique(labels, return_counts=True), strict=True):
        assert (labels[validation] == label).sum() == max(1, round(count * fraction))
    again = stratified_split(labels.astype(np.int32).copy(), fraction, seed, "print")
    np.testing.assert_array_equal(again[1], validation)


@given(labels=labels_strategy, pair=st.tuples(fractions, fractions), seed=seeds)
def test_subsets_are_nested_and_stratified(labels: np.ndarray, pair: tuple[float, float], seed: int) -> None:
    small, large = (stratified_subset(labels, f, seed, "print") for f in sorted(pair))
    assert set(small) <= set(large)
    assert (np.diff(large) > 0).all()
    for label, count in zip(*np.unique(labels, return_counts=True), strict=True):
        assert (labels[large] == label).sum() == max(1, round(count * max(pair)))
    np.testing.assert_array_equal(stratified_subset(labels, 1.0, seed, "print"), np.arange(len(labels)))


def test_splits_are_these_for_ever() -> None:
    labels = np.arange(40) % 4
    assert stratified_split(labels, 0.2, 0, "print")[1].tolist() == [9, 19, 25, 27, 28, 30, 34, 36]
    assert stratified_subset(labels, 0.2, 0, "print").tolist() == [0, 1, 2, 7, 16, 18, 27, 37]
    assert judging_rows(labels, 0.2, 0, "print").tolist() == [7, 8, 9, 10, 25, 30, 31, 36]


@given(labels=labels_strategy, fraction=st.floats(0, 0.9), seed=seeds)
def test_judging_rows_are_stratified_repeatable_and_leave_one_of_each_class(
    labels: np.ndarray, fraction: float, seed: int
) -> None:
    rows = judging_rows(labels, fraction, seed, "print")
    assert (np.diff(rows) > 0).all()
    for label, count in zip(*np.unique(labels, return_counts=True), strict=True):
        assert (labels[rows] == label).sum() == min(count - 1, round(count * fraction))
    np.testing.assert_array_equal(judging_rows(labels.astype(np.int32), fraction, seed, "print"), rows)
    assert len(judging_rows(labels, 0.0, seed, "print")) == 0


def test_split_depends_on_seed_and_fingerprint_and_looks_random() -> None:
    labels = np.zeros(10_000, np.int64)
    chosen = [set(stratified_split(labels, 0.1, s, f)[1]) for s, f in ((0, "a"), (1, "a"), (0, "b"))]
    chosen.append(set(stratified_subset(labels, 0.1, 0, "a")))
    for i, one in enumerate(chosen):
        assert abs(np.mean(list(one)) - 5000) < 4 * 2887 / np.sqrt(1000)
        for other in chosen[:i]:
            assert abs(len(one & other) - 100) < 5 * 9.5  # hypergeometric: mean 100, deviation 9


@pytest.mark.parametrize("fraction", [0.0, 1.0, -0.1, float("nan")])
def test_split_fractions_out_of_range(fraction: float) -> None:
    with pytest.raises(ConfigError, match="fraction"):
        stratified_split(np.zeros(10, int), fraction, 0, "")
    if fraction != 1:
        with pytest.raises(ConfigError, match="fraction"):
            stratified_subset(np.zeros(10, int), fraction, 0, "")
    if fraction != 0:
        with pytest.raises(ConfigError, match="judging fraction"):
            judging_rows(np.zeros(10, int), fraction, 0, "")


def test_split_labels_of_another_form() -> None:
    with pytest.raises(DataError, match="vector of integers, but got float64"):
        stratified_split(np.zeros(10), 0.5, 0, "")


# --- the command line ---------------------------------------------------------------------------------------------


def test_command_line(cache: Path) -> None:
    command = [sys.executable, "-m", "mollify_core.datasets", "prepare", "digits", "--cache-dir", str(cache)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "digits (verified)" in done.stdout
    assert "1438 train, 359 test" in done.stdout
    assert "f50455bba1e948c7" in done.stdout


def test_command_line_errors_are_one_line(cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["prepare", "cifar11", "--cache-dir", str(cache)]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: Unknown data set 'cifar11'; did you mean 'cifar10'? (or the path of a folder")
    assert err.count("\n") == 1


def test_command_line_with_unverified_files(tmp_path: Path, cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rng = np.random.default_rng(0)
    contents = {
        file: {b"data": rng.integers(0, 256, (n, 3072), np.uint8), b"fine_labels": rng.integers(0, 100, n).tolist()}
        for file, n in (("train", 12), ("test", 7))
    }
    contents["meta"] = {b"fine_label_names": [b"%d" % i for i in range(100)]}
    folder = write_folder(tmp_path / "cifar-100-python", contents)
    arguments = ["prepare", "cifar100", "--data-dir", str(folder), "--cache-dir", str(cache)]
    assert main(arguments) == 2
    refused = capsys.readouterr().err
    assert "16019d7e3df5f24257cddd939b257f8d" in refused
    assert refused.count("\n") == 1
    assert main([*arguments, "--allow-unverified"]) == 0
    taken = capsys.readouterr().out
    assert "cifar100 (unverified)" in taken
    assert "12 train, 7 test" in taken


def test_importing_the_package_is_light() -> None:
    code = "import sys, mollify_core.datasets; print({'torch', 'pyarrow', 'sklearn', 'rich'} & set(sys.modules))"
    assert subprocess.check_output([sys.executable, "-c", code], text=True) == "set()\n"
