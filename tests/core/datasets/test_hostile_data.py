"""Files of data made to do harm: the result is right, or one sentence; nothing starts, hangs, or leaves its folder."""

from __future__ import annotations

import gzip
import io
import json
import os
import pickle
import shutil
import subprocess
import sys
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st
from PIL import Image

from hostile import read, told
from mollify_core.datasets import npy, prepare
from mollify_core.datasets.__main__ import main
from mollify_core.datasets.about import described
from mollify_core.datasets.files import FolderFiles, TarFiles, ZipFiles
from mollify_core.datasets.images import scaled
from mollify_core.datasets.pickles import _read_tar
from mollify_core.datasets.specs import PickleArchive
from mollify_core.datasets.unpickle import load_pickle, read_batch, read_names
from mollify_core.errors import ConfigError
from mollify_core.foreign import clean

SEED = 30
SIDE = 8
LIES = (0, 1, -1, 255, 2**15, 2**16 - 1, 2**31 - 1, 2**31, 2**32 - 1, 2**60, 2**63 - 1, 10**30)
NAMES = st.one_of(
    st.sampled_from(
        ["train", "Test", "val", "cat", "dog", "a b", "x?y", "x#y", "50%", "c:d", "new\nline", "\x1b[31mred", "'q\"q"]
    ),
    st.text(st.characters(exclude_characters="/\0", exclude_categories=["Cs"]), min_size=1, max_size=8),
    st.sampled_from([os.fsdecode(b"latin-\xe9"), os.fsdecode(b"\xff\xfe"), "é" * 100, "..x", ".hidden"]),
).filter(lambda name: name not in (".", ".."))


@pytest.fixture(autouse=True)
def no_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody takes the power away."""
    monkeypatch.setattr("mollify_core.datasets.cache.sync", lambda path: None)


def png(image: np.ndarray | Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    file = io.BytesIO()
    (Image.fromarray(image) if isinstance(image, np.ndarray) else image).save(file, kind, **options)
    return file.getvalue()


def noise(channels: int = 3, side: int = 12) -> np.ndarray:
    return np.random.default_rng(channels).integers(0, 256, (side, side, channels), np.uint8)


@st.composite
def damaged(draw: st.DrawFn, whole: st.SearchStrategy[bytes]) -> bytes:
    """Bytes of which a few places are changed: a bit, a number that lies, a piece lost, doubled or made up."""
    raw = bytearray(draw(whole))
    for _ in range(draw(st.integers(0, 4))):
        at = draw(st.integers(0, max(0, len(raw) - 1)))
        what = draw(st.sampled_from(["byte", "number", "cut", "lose", "double", "insert"]))
        size = draw(st.sampled_from([1, 2, 4, 8]))
        if what == "byte":
            raw[at : at + 1] = bytes([draw(st.integers(0, 255))])
        elif what == "number":
            value = draw(st.sampled_from(LIES)) % 2 ** (8 * size)
            raw[at : at + size] = value.to_bytes(size, draw(st.sampled_from(["big", "little"])))
        elif what == "cut":
            del raw[at:]
        elif what == "lose":
            del raw[at : at + draw(st.integers(1, 64))]
        elif what == "double":
            raw[at:at] = raw[at : at + draw(st.integers(1, 64))]
        else:
            raw[at:at] = draw(st.binary(max_size=16))
    return bytes(raw)


# --- images -------------------------------------------------------------------------------------------------------

PALETTE = Image.fromarray(noise(3)).quantize(16)
GREY = noise(1)[..., 0]
POSTSCRIPT = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n(x) show\nshowpage\n"
WHOLE = [
    *(png(noise(c), "PNG") for c in (2, 3, 4)),
    *(png(noise(c), kind) for kind in ("TIFF", "WEBP", "AVIF") for c in (3, 4)),
    *(png(noise(3), kind) for kind in ("JPEG", "BMP", "GIF", "PPM")),
    *(png(noise(3), "TIFF", compression=name) for name in ("tiff_lzw", "tiff_adobe_deflate", "jpeg", "packbits")),
    png(GREY.astype(np.uint16) * 257, "PNG"),
    png(noise(3), "JPEG", progressive=True),
    png(PALETTE, "PNG", transparency=bytes(range(256))),
    png(noise(3), "PNG", transparency=(1, 2, 3)),
    POSTSCRIPT,
    png(noise(3), "ICO"),
    png(noise(3), "PCX"),
]


def an_image(raw: bytes, _: Path) -> None:
    def action() -> None:
        image = scaled(raw, "'x.png'", SIDE)
        assert image.shape == (3, SIDE, SIDE)
        assert image.dtype == np.uint8

    read(action)


# --- .npy files ---------------------------------------------------------------------------------------------------


def saved(array: np.ndarray, **options: Any) -> bytes:
    file = io.BytesIO()
    np.save(file, array, **options)
    return file.getvalue()


@st.composite
def headers(draw: st.DrawFn) -> bytes:
    """A .npy file whose header says anything."""
    number = st.sampled_from([repr(n) for n in LIES] + ["2", "3", "'x'", "None", "1e999", "True", "()", "2**60"])
    shape = "(" + "".join(f"{draw(number)}," for _ in range(draw(st.integers(0, 4)))) + ")"
    descr = draw(
        st.one_of(
            st.sampled_from(
                ["'|u1'", "'<f8'", "'|O'", "'<i8'", "'|V9'", "'<U2'", "[('a','<i4')]", "'<M8'", "u1", "()"]
            ),
            st.text(max_size=6).map(repr),
        )
    )
    text = f"{{'descr': {descr}, 'fortran_order': {draw(st.sampled_from(['False', 'True', '0']))}, 'shape': {shape}}}"
    text = draw(
        st.sampled_from([text, text[:-1], text + "x", "(" * 5000, "[" * 90_000, "__import__('os').system('true')", ""])
    )
    version = draw(st.sampled_from([(1, 0), (2, 0), (3, 0), (9, 9)]))
    raw = text.encode("utf-8", "replace") + b"\n"
    length = draw(st.sampled_from([len(raw), len(raw) % 65536, 0, 65535]))
    width = 2 if version == (1, 0) else 4
    content = draw(st.sampled_from([b"", bytes(24), bytes(range(256))]))
    return b"\x93NUMPY" + bytes(version) + (length % 2 ** (8 * width)).to_bytes(width, "little") + raw + content


def zipped() -> bytes:
    file = io.BytesIO()
    np.savez(file, x=np.zeros(3))
    return file.getvalue()


class Evil:
    """Makes a folder where it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("/tmp/mollify-was-here",)


NPY = st.sampled_from(
    [
        saved(np.arange(24, dtype=np.uint8).reshape(2, 3, 4)),
        saved(np.asfortranarray(np.arange(24).reshape(2, 3, 4))),
        saved(np.zeros(0)),
        saved(np.array([Evil()], object), allow_pickle=True),
        pickle.dumps([Evil()]),
        zipped(),
    ]
)


def an_array(raw: bytes, folder: Path) -> None:
    path = folder / "x.npy"
    path.write_bytes(raw)

    def action() -> None:
        array = npy.load(path, "Cannot read 'x.npy'")
        assert array.dtype.kind in "biuf"
        assert array.nbytes <= len(raw)
        array.sum()

    read(action, folder)


# --- folders of images --------------------------------------------------------------------------------------------

CONTENT = {
    "colour": png(noise(3)),
    "large": png(noise(3, 16)),
    "clear": png(noise(4)),
    "small": png(noise(4, 9)),
    "text": b"no image",
    "ps": POSTSCRIPT,
}
FILE = st.sampled_from(["colour", "clear", "text", "ps"]).map(lambda name: ("file", name))
THING = st.one_of(
    FILE,
    FILE,
    FILE,
    st.tuples(st.just("link"), st.sampled_from(["..", ".", "../..", "nowhere", "/etc/passwd", "/dev/zero", "self"])),
    st.just(("pipe", None)),
)


def folders(inside: st.SearchStrategy[Any], ending: str = "") -> st.SearchStrategy[dict[str, Any]]:
    return st.dictionaries(NAMES.map(lambda name: name + ending), inside, max_size=4)


@st.composite
def trees(draw: st.DrawFn) -> dict[str, Any]:
    """Folders of classes, or of splits of these, with a few images that are whole, and something odd."""
    whole = {f"{i}.png": ("file", name) for i, name in enumerate(list(CONTENT)[:3])}
    names = draw(st.lists(NAMES, min_size=2, max_size=3, unique=True))
    tree: dict[str, Any] = {name: {**whole, "4.png": ("file", "small")} for name in names}
    if draw(st.booleans()):
        splits = draw(st.lists(st.sampled_from(["train", "Training", "TEST", "val", "dev"]), min_size=2, unique=True))
        tree = dict.fromkeys(splits, tree)
    odd = st.recursive(THING, lambda inner: st.one_of(folders(inner), folders(inner, ".png")), max_leaves=4)
    return {**tree, **draw(st.dictionaries(NAMES, odd, max_size=2))} if draw(st.booleans()) else tree


def build(place: Path, tree: dict[str, Any]) -> None:
    place.mkdir(exist_ok=True)
    for name, thing in tree.items():
        at = place / name
        if len(os.fsencode(name)) > 250 or os.path.lexists(at):
            continue
        if isinstance(thing, dict):
            build(at, thing)
        elif thing[0] == "file":
            at.write_bytes(CONTENT.get(thing[1], thing[1]))
        elif thing[0] == "link":
            at.symlink_to(at if thing[1] == "self" else thing[1])
        else:
            os.mkfifo(at)


def a_tree(tree: dict[str, Any], folder: Path) -> None:
    for old in ("tree", "cache"):
        shutil.rmtree(folder / old, ignore_errors=True)
    build(folder / "tree", tree)

    def action() -> None:
        prepared = prepare(str(folder / "tree"), image_size=SIDE, cache_dir=folder / "cache", progress=lambda *_: None)
        number = prepared.manifest["counts"]["train"] + len(prepared.tensors("test"))
        assert number == len(prepared.spec.source.listed.files.names)  # type: ignore[union-attr]
        assert all(clean(line, keep="") == line for line in described(prepared).values())

    read(action, folder)


# --- what is prepared ---------------------------------------------------------------------------------------------

ODD: st.SearchStrategy[Any] = st.one_of(
    st.none(),
    st.booleans(),
    st.sampled_from([*LIES, 10**400, 1.5, float("nan"), float("inf"), "", "../x", "/etc/passwd", [], {}, [[]], "\0"]),
    st.text(max_size=8),
)


def nodes(tree: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The places in a tree of JSON."""
    inside = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    return [path, *(place for key, value in inside for place in nodes(value, (*path, key)))]


@st.composite
def preparations(draw: st.DrawFn) -> Callable[[Path], None]:
    """What happens to a folder of the cache."""
    what = draw(st.sampled_from(["node", "key", "text", "parquet", "footer", "gone", "folder"]))
    name = draw(st.sampled_from(["train.parquet", "test.parquet", "manifest.json"]))
    odd, salt = draw(ODD), draw(st.integers(0, 10**6))
    text = draw(st.sampled_from([b"", b"[" * 100_000, b"{}", b"\xff", b"[1e400]", b'{"format":' + b"9" * 5000 + b"}"]))
    changes = draw(st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), min_size=1, max_size=4))

    def change(place: Path) -> None:
        manifest = place / "manifest.json"
        if what in ("node", "key"):
            tree = json.loads(manifest.read_bytes())
            *path, last = nodes(tree)[1 + salt % (len(nodes(tree)) - 1)]
            inner = tree
            for key in path:
                inner = inner[key]
            if what == "node":
                inner[last] = odd
            else:
                del inner[last]
            manifest.write_text(json.dumps(tree))
        elif what == "text":
            (place / name).write_bytes(text)
        elif what == "gone":
            (place / name).unlink()
        elif what == "folder":
            (place / name).unlink()
            (place / name).mkdir()
        else:
            raw = bytearray((place / "train.parquet").read_bytes())
            start = len(raw) - 8 - int.from_bytes(raw[-8:-4], "little") if what == "footer" else 0
            for at, value in changes:
                raw[start + at % (len(raw) - start)] = value
            (place / "train.parquet").write_bytes(raw)

    return change


def a_preparation(change: Callable[[Path], None], folder: Path) -> None:
    source, cache = folder / "photos", folder / "cache"

    def take() -> tuple[bytes, ...]:
        prepared = prepare(str(source), image_size=SIDE, cache_dir=cache, progress=lambda *_: None)
        train, test = prepared.tensors("train"), prepared.tensors("test")
        some = prepared.select("train", np.array([3, 1]))
        held = (train.images, train.labels, test.images, test.labels, some.images, some.labels)
        labels = prepared.labels("train").tobytes()
        return (*(value.numpy().tobytes() for value in held), labels, repr(prepared.spec.mean).encode())

    if not source.exists():
        for name in ("cat", "dog"):
            build(source, {name: {f"{i}.png": ("file", png(noise(3, 9 + i))) for i in range(6)}})
        (folder / "right").write_bytes(pickle.dumps(take()))
        cache.rename(folder / "sound")
    shutil.rmtree(cache, ignore_errors=True)
    shutil.copytree(folder / "sound", cache)
    right = pickle.loads((folder / "right").read_bytes())
    (place,) = (path for path in cache.iterdir() if path.is_dir())
    change(place)

    def action() -> None:
        assert take() == right

    read(action, folder)


# --- pickles ------------------------------------------------------------------------------------------------------

TREE = {"data": np.arange(24, dtype=np.uint8).reshape(2, 12), "labels": [0, 1], "names": ["a", "b"], "x": (1.5, None)}
PICKLES = st.one_of(
    damaged(st.sampled_from([pickle.dumps(TREE, version) for version in range(6)])),
    damaged(
        st.sampled_from([pickle.dumps(Evil()), pickle.dumps({"data": [Evil()]}), pickle.dumps({"data": bytearray(9)})])
    ),
    st.lists(
        st.one_of(
            st.sampled_from([bytes([code]) for code in range(256) if chr(code).isprintable()]),
            st.sampled_from(
                [b"\x80\x05", b"cnumpy\nndarray\n", b"cnumpy\ndtype\n", b"cos\nsystem\n", b"K\x01", b"]", b"}"]
            ),
            st.sampled_from(
                [b"\x96" + (2**33).to_bytes(8, "little"), b"\x95" + bytes(8), b"\x8a\xff", b"\x8b\xff\xff\xff\x7f"]
            ),
            st.sampled_from(
                [b"B\xff\xff\xff\x7f", b"j\xff\xff\xff\x7f", b"r\xff\xff\xff\x7f", b"\x94", b"R", b"b", b"\x81"]
            ),
        ),
        max_size=20,
    ).map(lambda parts: b"".join(parts) + b"."),
)


def a_pickle(raw: bytes, _: Path) -> None:
    for action in (
        lambda: load_pickle(raw, "'x'"),
        lambda: read_batch(raw, "'x'", image_shape=(3, 2, 2), classes=2, labels_key="labels"),
        lambda: read_names(raw, "'x'", key="names", classes=2),
    ):
        read(action)
    assert not Path("/tmp/mollify-was-here").exists()


# --- archives -----------------------------------------------------------------------------------------------------

MEMBERS = {"top/batch": pickle.dumps(TREE), "top/meta": b"x" * 700, "top/img.png": png(noise(3)), "../out": b"y"}
ARCHIVE = PickleArchive(
    url="http://x/x.tar.gz",
    md5="",
    folder="top",
    train=("batch",),
    test=("batch",),
    meta="meta",
    labels_key="labels",
    names_key="names",
)


def tarred(mode: str = "w", leave: bool = False, version: int = tarfile.PAX_FORMAT) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode=mode, format=version) as tar:
        for name, content in MEMBERS.items():
            info = tarfile.TarInfo(name if leave else name.removeprefix("../") + "é" * 60 * (name == "top/img.png"))
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
        link = tarfile.TarInfo("top/link")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)
    return file.getvalue()


def in_zip(method: int, leave: bool = False) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as archive:
        for name, content in MEMBERS.items():
            archive.writestr(name if leave else name.removeprefix("../"), content)
    return file.getvalue()


def bomb() -> bytes:
    """A header of a gigabyte of zeros for the next file's name, small when packed."""
    info = tarfile.TarInfo("././@LongLink")
    info.type, info.size = tarfile.GNUTYPE_LONGNAME, 1 << 30
    file = io.BytesIO()
    with gzip.open(file, "wb", 1) as packed:
        packed.write(info.tobuf(tarfile.GNU_FORMAT))
        for _ in range(20):
            packed.write(bytes(1 << 20))
    return file.getvalue()


ARCHIVES = damaged(
    st.sampled_from(
        [
            *(tarred(mode) for mode in ("w", "w:gz", "w:bz2", "w:xz")),
            tarred("w", True),
            tarred("w", version=tarfile.GNU_FORMAT),
            *(in_zip(method) for method in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_LZMA)),
            in_zip(zipfile.ZIP_STORED, True),
        ]
    )
)


def an_archive(raw: bytes, folder: Path) -> None:
    path = folder / "archive"
    path.write_bytes(raw)
    for kind in (TarFiles, ZipFiles):

        def action(kind: Any = kind) -> None:
            files = kind(path)
            assert not [name for name in files.names if ".." in name.split("/") or name.startswith("/")]
            for name in files.names:
                assert len(files.read(name)) <= 1 << 20

        read(action, folder)
    read(lambda: _read_tar(path, ARCHIVE), folder)


# --- what has been found, by name ---------------------------------------------------------------------------------


def sentence(action: Callable[[], object], *folders: Path) -> str:
    error = read(action, *folders)
    assert error is not None, "it was read"
    return str(error)


def claims(side: int, raw: bytes) -> bytes:
    """A PNG that says it has so many pixels a side."""
    changed = bytearray(raw)
    changed[16:24] = side.to_bytes(4, "big") * 2
    changed[29:33] = zlib.crc32(changed[12:29]).to_bytes(4, "big")
    return bytes(changed)


@pytest.mark.parametrize("side", [9_500, 12_000, 50_000, 1_000_000])
def test_an_image_that_claims_many_pixels(side: int) -> None:
    said = sentence(lambda: scaled(claims(side, png(noise(3))), "'x.png'", SIDE))
    assert "Expected 'x.png' to have at most 89,478,485 pixels, but got" in said


@pytest.mark.slow
def test_nothing_of_pillow_reaches_the_terminal(tmp_path: Path) -> None:
    """In a process of its own: pytest takes warnings away."""
    tiff = bytearray(png(noise(3), "TIFF"))
    tiff[4:8] = (2**31).to_bytes(4, "little")
    for number, raw in enumerate((claims(9_000, png(noise(3))), claims(9_500, png(noise(3))), bytes(tiff))):
        (tmp_path / f"{number}.png").write_bytes(raw)
    code = (
        "import sys, pathlib\nfrom mollify_core.datasets.images import scaled\n"
        "for p in sorted(pathlib.Path(sys.argv[1]).iterdir()):\n"
        "    try: scaled(p.read_bytes(), p.name, 8)\n    except ValueError as e: print(type(e).__name__)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True)
    assert done.stderr == ""
    assert done.stdout == "DataError\n" * 3


@pytest.mark.parametrize("kind", ["EPS", "PCX", "ICO", "TGA", "SGI", "IM", "PSD"])
def test_only_the_promised_formats_are_opened(kind: str) -> None:
    raw = {"EPS": POSTSCRIPT, "PSD": b"8BPS\0\1" + bytes(20)}.get(kind) or png(noise(3), kind)
    assert "not an image in a known format" in sentence(lambda: scaled(raw, "'x.png'", SIDE))


@pytest.mark.parametrize(
    ("header", "content"),
    [
        ("{'descr': '|u1', 'fortran_order': False, 'shape': (1152921504606846976,)}", bytes(9)),
        ("{'descr': '|u1', 'fortran_order': False, 'shape': (2305843009213693952, 8)}", bytes(9)),
        ("{'descr': '|u1', 'fortran_order': False, 'shape': (-1,)}", bytes(9)),
        ("{'descr': '|O', 'fortran_order': False, 'shape': (1,)}", pickle.dumps([Evil()])),
        ("{'descr': '|u1', 'fortran_order': False, 'shape': (3,", bytes(9)),
        ("import os", bytes(9)),
        ("(" * 9_000, bytes(9)),
        ("'" * 3, bytes(9)),
    ],
)
def test_npy_headers_that_lie(tmp_path: Path, header: str, content: bytes) -> None:
    raw = header.encode() + b"\n"
    (tmp_path / "x.npy").write_bytes(b"\x93NUMPY\1\0" + len(raw).to_bytes(2, "little") + raw + content)
    assert sentence(lambda: npy.load(tmp_path / "x.npy", "Cannot read it"), tmp_path).startswith("Cannot read it: ")


@pytest.mark.parametrize("raw", [zipped(), pickle.dumps([Evil()]), saved(np.array([Evil()], object))])
def test_npy_names_before_something_else(tmp_path: Path, raw: bytes) -> None:
    (tmp_path / "x.npy").write_bytes(raw)
    sentence(lambda: npy.load(tmp_path / "x.npy", "Cannot read it"), tmp_path)


def test_what_is_no_file_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "x.npy")
    assert "it is no file" in sentence(lambda: npy.load(tmp_path / "x.npy", "Cannot read it"), tmp_path)
    assert "it is no file" in sentence(lambda: FolderFiles(tmp_path).read("x.npy"), tmp_path)


def test_pickles_that_take_all_memory_or_time() -> None:
    for raw in (
        b"\x80\x05\x96" + (2**35).to_bytes(8, "little") + b".",  # a bytearray of 32 GB
        b"\x80\x02}K\x01" + b"2\x86" * 60 + b"K\x01s.",  # a key of 2^60 numbers
        b"\x80\x02(K\x01" + b"2\x86" * 60 + b"K\x01d.",
        b"\x80\x04\x8f(K\x01" + b"2\x86" * 60 + b"\x90.",
    ):
        assert "to hold only arrays and plain containers" in sentence(lambda raw=raw: load_pickle(raw, "'x'"))


def test_archives_that_unpack_to_all_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mollify_core.datasets.pickles.LARGEST", 8 << 20)
    (tmp_path / "x.tar.gz").write_bytes(bomb())
    assert "to be below 8 MiB" in sentence(lambda: _read_tar(tmp_path / "x.tar.gz", ARCHIVE), tmp_path)
    (tmp_path / "x.zip").write_bytes(in_zip(zipfile.ZIP_LZMA))
    files = ZipFiles(tmp_path / "x.zip")
    assert "another method than deflate" in sentence(lambda: files.read("top/meta"), tmp_path)
    (tmp_path / "y.zip").write_bytes(in_zip(zipfile.ZIP_STORED).replace(b"out", b"\0ut"))  # a member without a name
    read(lambda: ZipFiles(tmp_path / "y.zip"), tmp_path)


def test_an_annotation_or_a_link_that_leaves_a_folder(tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(png(noise(3)))
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "x.png").write_bytes(png(noise(3)))
    files = FolderFiles(tmp_path / "data")
    for name in ("../secret", "x.png/../../secret", str(tmp_path / "secret")):
        assert "to hold" in sentence(lambda name=name: files.read(name), tmp_path / "data")
    (tmp_path / "data" / "link.png").symlink_to(tmp_path / "secret")
    assert "to hold no links, but 'link.png' is one" in sentence(lambda: FolderFiles(tmp_path / "data"), tmp_path)
    (tmp_path / "data" / "link.png").unlink()
    (tmp_path / "data" / "folder").symlink_to(tmp_path)
    assert "to hold no links, but 'folder' is one" in sentence(lambda: FolderFiles(tmp_path / "data"), tmp_path)


@pytest.mark.parametrize("size", ["1000000", "2049", "-3", "1" + "0" * 400])
def test_image_sizes_that_nothing_holds(size: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("cat", "dog"):
        build(tmp_path / "p", {name: {f"{i}.png": ("file", "colour") for i in range(4)}})
    argv = ["prepare", str(tmp_path / "p"), "--image-size", size, "--cache-dir", str(tmp_path / "cache")]
    assert told(main, argv, tmp_path) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_more_images_than_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("cat", "dog"):
        build(tmp_path / "p", {name: {f"{i}.png": ("file", "colour") for i in range(4)}})
    monkeypatch.setattr(os, "sysconf", lambda name: 1000)
    with pytest.raises(ConfigError, match="Expected images that fit into the 0 GB that may be used here"):
        prepare(str(tmp_path / "p"), image_size=2048, cache_dir=tmp_path / "cache", feed="resident")


@pytest.mark.parametrize("name", [os.fsdecode(b"caf\xe9"), "new\nline", "q'\"q", "a?b", "a#b", "50%", "c:d", "[red]x"])
def test_folders_of_any_name(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    place = tmp_path / name
    for label in (name, "dog"):
        build(place, {label: {f"{i}{name}.png": ("file", ("colour", "large")[i % 2]) for i in range(4)}})
    argv = ["prepare", str(place), "--image-size", "8", "--cache-dir", str(tmp_path / f"cache{name}")]
    assert told(main, argv, tmp_path) == 0
    shown = capsys.readouterr().out
    assert "2: " in shown
    assert shown.isascii()
    next(place.rglob("*.png")).write_bytes(b"x")
    assert told(main, argv, tmp_path) == 2
    assert capsys.readouterr().err.count("\n") == 1


KINDS: dict[str, tuple[st.SearchStrategy[Any], Callable[[Any, Path], None]]] = {
    "images": (damaged(st.sampled_from(WHOLE)), an_image),
    "npy": (st.one_of(headers(), damaged(NPY), damaged(headers())), an_array),
    "trees": (trees(), a_tree),
    "preparations": (preparations(), a_preparation),
    "pickles": (PICKLES, a_pickle),
    "archives": (ARCHIVES, an_archive),
}


def many(kind: str, number: int, folder: Path) -> None:
    strategy, check = KINDS[kind]

    @seed(SEED)
    @settings(max_examples=number, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(strategy)
    def one(example: Any) -> None:
        check(example, folder)

    one()


@pytest.mark.parametrize("kind", KINDS)
def test_some_hostile_files(kind: str, tmp_path: Path) -> None:
    many(kind, 50, tmp_path)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("kind", KINDS)
def test_many_hostile_files(kind: str, tmp_path: Path) -> None:
    many(kind, 2_000, tmp_path)
