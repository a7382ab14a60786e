"""A folder of one's own images as a data set, from the files to a trained recipe."""

from __future__ import annotations

import io
import json
import os
import shutil
import zlib
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from mollify_core import train
from mollify_core.datasets import ImageFolder, Prepared, prepare, spec, stratified_split
from mollify_core.datasets.__main__ import main
from mollify_core.errors import ConfigError, DataError
from mollify_core.recipe import Recipe

SIDE = 8


def pixels(seed: int, high: int = SIDE, wide: int = SIDE) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (high, wide, 3), np.uint8)


def save(path: Path, image: np.ndarray | Image.Image, **options) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = image if isinstance(image, Image.Image) else Image.fromarray(image)
    image.save(path, **options)
    return path


def write(folder: Path, classes: dict[str, int], seed: int = 0) -> dict[str, np.ndarray]:
    """Lossless random images; what was written, by relative name."""
    written = {}
    for c, (name, count) in enumerate(classes.items()):
        for i in range(count):
            image = pixels(seed + 1000 * c + i)
            save(folder / name / f"{i:03}.png", image)
            written[f"{name}/{i:03}.png"] = image
    return written


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """A cache of this test's own."""
    return tmp_path / "cache"


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    write(tmp_path / "photos", {"cat": 10, "ant": 5, "bee": 7})
    return tmp_path / "photos"


def rows(prepared: Prepared, split: str) -> list[tuple[int, bytes]]:
    data = prepared.tensors(split)
    images = data.images.permute(0, 2, 3, 1).contiguous()
    return [(int(label), image.numpy().tobytes()) for label, image in zip(data.labels, images, strict=True)]


# --- what is read -------------------------------------------------------------------------------------------------


def test_an_undivided_folder_is_split_stratified_and_always_the_same(tmp_path: Path, own: Path) -> None:
    written = write(tmp_path / "photos", {"cat": 10, "ant": 5, "bee": 7})
    prepared = prepare(str(tmp_path / "photos"), image_size=SIDE, cache_dir=own)
    assert prepared.manifest["class_names"] == ["ant", "bee", "cat"]
    assert prepared.spec.classes == 3
    assert prepared.manifest["counts"] == {"train": 4 + 6 + 8, "test": 1 + 1 + 2}
    names = ("ant", "bee", "cat")
    everything = [(names.index(name.split("/")[0]), written[name].tobytes()) for name in sorted(written)]
    labels = np.array([label for label, _ in everything])
    train_rows, test_rows = stratified_split(labels, 0.2, 0, "folder")
    assert rows(prepared, "train") == [everything[i] for i in train_rows]
    assert rows(prepared, "test") == [everything[i] for i in test_rows]
    shutil.copytree(tmp_path / "photos", tmp_path / "elsewhere" / "holidays")
    moved = prepare(str(tmp_path / "elsewhere" / "holidays"), image_size=SIDE, cache_dir=tmp_path / "other")
    assert moved.fingerprint == prepared.fingerprint


@pytest.mark.parametrize("test", ["test", "val"])
def test_folders_train_and_test_are_the_splits(tmp_path: Path, own: Path, test: str) -> None:
    first = write(tmp_path / "p" / "train", {"b": 3, "a": 2})
    second = write(tmp_path / "p" / test, {"a": 1, "b": 2}, seed=50)
    prepared = prepare(str(tmp_path / "p"), image_size=SIDE, cache_dir=own)
    for split, written in (("train", first), ("test", second)):
        expected = [(int(name[0] == "b"), written[name].tobytes()) for name in sorted(written)]
        assert rows(prepared, split) == expected


def test_what_is_an_image_and_what_is_not(tmp_path: Path, own: Path) -> None:
    folder = tmp_path / "p"
    write(folder, {"train": 5, "bus": 5})  # a class of railway trains, no split
    save(folder / "bus" / "nested" / "deep" / "x.BMP", pixels(77))
    for junk in ("bus/notes.txt", "bus/.hidden.png", "bus/Thumbs.db", ".git/x.png", "loose.png", "readme.md"):
        (folder / junk).parent.mkdir(exist_ok=True)
        (folder / junk).write_text("no image")
    prepared = prepare(str(folder), image_size=SIDE, cache_dir=own)
    assert prepared.manifest["class_names"] == ["bus", "train"]
    assert sum(prepared.manifest["counts"].values()) == 11
    assert pixels(77).tobytes() in {image for _, image in rows(prepared, "train") + rows(prepared, "test")}


def one(tmp_path: Path, image: Path, side: int) -> torch.Tensor:
    """What becomes of one image: (3, side, side)."""
    folder = tmp_path / f"one-{image.stem}-{side}"
    write(folder / "train", {"a": 2, "b": 2})
    write(folder / "test", {"b": 1})
    (folder / "test" / "a").mkdir()
    shutil.copy(image, folder / "test" / "a" / image.name)
    return prepare(str(folder), image_size=side, cache_dir=tmp_path / "cache").tensors("test").images[0]


@pytest.mark.parametrize(("high", "wide"), [(64, 128), (160, 80), (40, 40), (16, 48), (48, 16)])
def test_the_shorter_side_is_scaled_and_the_centre_kept(tmp_path: Path, high: int, wide: int) -> None:
    y, x = np.mgrid[:high, :wide]
    smooth = np.stack([127 + 120 * np.sin(x / 9), 127 + 120 * np.cos(y / 7), 40 + 0.9 * (x + y)], -1).astype(np.uint8)
    path = save(tmp_path / "image.png", smooth)
    scale = 32 / min(high, wide)
    whole = Image.fromarray(smooth).resize((round(wide * scale), round(high * scale)), Image.Resampling.BICUBIC)
    left, top = (whole.width - 32) // 2, (whole.height - 32) // 2
    expected = np.asarray(whole.crop((left, top, left + 32, top + 32))).astype(int)
    difference = np.abs(one(tmp_path, path, 32).permute(1, 2, 0).numpy() - expected)
    assert difference[2:-2, 2:-2].max() <= 1
    assert difference.max() <= 12  # at the cut, the filter no longer sees what lies beyond


def test_images_of_the_right_size_are_not_touched(tmp_path: Path) -> None:
    image = pixels(3, 32, 32)
    assert np.array_equal(one(tmp_path, save(tmp_path / "i.png", image), 32).permute(1, 2, 0), image)


def test_grey_sixteen_bit_palette_and_transparent_images(tmp_path: Path) -> None:
    grey = pixels(1)[..., 0]
    assert np.array_equal(one(tmp_path, save(tmp_path / "grey.png", grey), SIDE), np.stack([grey] * 3))
    deep = grey.astype(np.uint16) * 256 + 17
    assert np.array_equal(one(tmp_path, save(tmp_path / "deep.png", deep), SIDE), np.stack([grey] * 3))
    solid = Image.fromarray(np.dstack([pixels(2), np.full((SIDE, SIDE), 255, np.uint8)]))
    assert np.array_equal(one(tmp_path, save(tmp_path / "solid.png", solid), SIDE).permute(1, 2, 0), pixels(2))
    palette = Image.fromarray(grey // 64 * 64).convert("P")
    path = save(tmp_path / "palette.png", palette, transparency=bytes([255] * 200))
    assert np.array_equal(one(tmp_path, path, SIDE), np.stack([grey // 64 * 64] * 3))


def test_photographs_are_turned_upright(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # orientation: the camera was turned; a viewer turns the picture clockwise
    path = save(tmp_path / "turned.png", pixels(4), exif=exif)
    assert np.array_equal(one(tmp_path, path, SIDE).permute(1, 2, 0), np.rot90(pixels(4), -1))


# --- its specification --------------------------------------------------------------------------------------------


def test_mean_and_std_are_measured(photos: Path, own: Path) -> None:
    before = spec(photos, image_size=SIDE)
    assert (before.name, before.classes, before.image_shape) == ("photos", 3, (3, SIDE, SIDE))
    assert before.source == ImageFolder(photos)
    prepared = prepare(str(photos), image_size=SIDE, cache_dir=own)
    images = prepared.tensors("train").images.double() / 255
    np.testing.assert_allclose(prepared.spec.mean, images.mean((0, 2, 3)), atol=1e-6)
    np.testing.assert_allclose(prepared.spec.std, images.std((0, 2, 3), correction=0), atol=1e-6)
    assert prepare(str(photos), image_size=SIDE, cache_dir=own).spec == prepared.spec  # from the cache, too


def test_a_users_own_images_are_theirs_and_not_unverified(photos: Path, own: Path) -> None:
    prepared = prepare(str(photos), image_size=SIDE, cache_dir=own)
    assert prepared.verified
    assert not prepared.official
    assert prepared.manifest["source"] == str(photos)


def test_by_path_or_by_name_and_data_folder(photos: Path, own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    by_path = prepare(str(photos), image_size=SIDE, cache_dir=own)
    assert prepare("photos", data_dir=photos, image_size=SIDE, cache_dir=own) == by_path
    monkeypatch.chdir(photos.parent)
    assert prepare("./photos", image_size=SIDE, cache_dir=own).folder == by_path.folder
    monkeypatch.chdir(photos)
    assert prepare(".", image_size=SIDE, cache_dir=own).folder == by_path.folder


@pytest.mark.parametrize(
    ("folder", "name"),
    [
        ("my photos (2)", "my-photos-2"),
        ("cifar10", "cifar10-folder"),
        ("Ünï", "n"),
        ("---", "images"),
        ("v1.2", "v1.2"),
    ],
)
def test_names_that_files_can_have(tmp_path: Path, folder: str, name: str) -> None:
    write(tmp_path / folder, {"a": 3, "b": 3})
    assert spec(tmp_path / folder, image_size=SIDE).name == name
    assert spec(name, data_dir=tmp_path / folder, image_size=SIDE).name == name  # as a recipe has it


def test_few_images_validate_on_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "p", {"a": 30, "b": 30})
    assert spec(tmp_path / "p", image_size=SIDE).validation_fraction == 0.2
    monkeypatch.setattr("mollify_core.datasets.folder._FEW", 40)
    assert spec(tmp_path / "p", image_size=SIDE).validation_fraction == 0.1


# --- the cache ----------------------------------------------------------------------------------------------------


def test_prepared_once_until_something_changes(photos: Path, own: Path) -> None:
    seen: list[tuple[int, int | None]] = []
    take = partial(prepare, str(photos), image_size=SIDE, cache_dir=own, progress=lambda *step: seen.append(step))
    first = take()
    assert seen[-1] == (4, 4)  # the test images
    assert (18, 18) in seen
    seen.clear()
    assert take() == first
    assert seen == []
    os.utime(photos / "cat" / "000.png")
    assert take() == first
    assert seen == []

    path = photos / "cat" / "000.png"
    before = path.read_bytes()
    image = pixels(2000)
    for value in range(256):  # another pixel, the same size in bytes
        image[0, 0, 0] = value
        save(path, image)
        if len(path.read_bytes()) == len(before) and path.read_bytes() != before:
            break
    assert len(path.read_bytes()) == len(before)
    prints = {first.fingerprint, take().fingerprint}
    path.rename(photos / "cat" / "zzz.png")
    renamed = take()
    assert renamed.folder != first.folder
    save(photos / "ant" / "new.png", pixels(5))
    prints.add(take().fingerprint)
    larger = prepare(str(photos), image_size=2 * SIDE, cache_dir=own)
    assert larger.spec.image_shape == (3, 16, 16)
    assert len({*prints, larger.fingerprint}) == 4


# --- what is wrong ------------------------------------------------------------------------------------------------


def remove(path: str):
    return lambda folder: shutil.rmtree(folder / path)


def put(path: str, content: bytes):
    def change(folder: Path) -> None:
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(content)

    return change


def png(image: np.ndarray | Image.Image, **options) -> bytes:
    file = io.BytesIO()
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(file, "PNG", **options)
    return file.getvalue()


def huge() -> bytes:
    """A PNG that says it has 50,000 x 50,000 pixels."""
    raw = bytearray(png(pixels(0)))
    raw[16:24] = (50_000).to_bytes(4, "big") * 2
    raw[29:33] = zlib.crc32(raw[12:29]).to_bytes(4, "big")
    return bytes(raw)


def divided(test: dict[str, int], train: dict[str, int] | None = None):
    def change(folder: Path) -> None:
        shutil.rmtree(folder)
        write(folder / "train", train or {"a": 3, "b": 3})
        write(folder / "test", test)

    return change


WRONG = {
    "one class": (lambda f: [shutil.rmtree(f / c) for c in ("ant", "bee")], "two or more folders.*but got 1"),
    "no class": (lambda f: [shutil.rmtree(f / c) for c in ("ant", "bee", "cat")], "two or more folders.*but got 0"),
    "an empty class": (lambda f: (f / "dog").mkdir(), "'dog' in '.*' has none"),
    "a class without images": (put("dog/notes.txt", b"x"), "'dog' in '.*' has none"),
    "too few to divide": (
        put("dog/a.png", png(pixels(1))),
        "two training images of each class, but class 'dog'.* has 0",
    ),
    "train alone": (lambda f: write(f / "train", {"a": 3, "b": 3}), "folder test or val beside train"),
    "another class in test": (divided({"a": 1, "c": 1}), "same classes, but 'b' is in train only"),
    "a class only in test": (divided({"a": 1, "b": 1, "c": 1}), "same classes, but 'c' is in test only"),
    "one image to train on": (divided({"a": 1, "b": 1}, {"a": 3, "b": 1}), "class 'b' in '.*' has 1"),
    "text": (put("cat/000.png", b"no image"), r"Cannot read image '.*cat/000\.png': not an image in a known format"),
    "empty file": (put("cat/000.png", b""), r"000\.png': not an image in a known format"),
    "a format Pillow lacks": (put("cat/x.heic", b"\0\0\0\x18ftypheic" + bytes(50)), r"Cannot read image '.*x\.heic'"),
    "truncated": (put("cat/000.png", png(pixels(0, 64, 64))[:2000]), r"Cannot read image '.*000\.png': .*truncated"),
    "a bomb": (put("cat/000.png", huge()), r"'.*000\.png' to have at most 89,478,485 pixels, but got"),
}


@pytest.mark.parametrize(("change", "message"), WRONG.values(), ids=WRONG)
def test_wrong_folders_are_one_sentence(photos: Path, own: Path, capsys, change, message: str) -> None:
    change(photos)
    with pytest.raises(DataError, match=message):
        prepare(str(photos), image_size=SIDE, cache_dir=own)
    assert not [p for p in own.rglob("*") if p.suffix in (".parquet", ".draft")]
    assert main(["prepare", str(photos), "--image-size", str(SIDE), "--cache-dir", str(own)]) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ")
    assert said.count("\n") == 1


def test_floating_point_images_are_refused_rather_than_clipped(photos: Path, own: Path) -> None:
    save(photos / "cat" / "x.tif", Image.fromarray(np.random.default_rng(0).random((8, 8), np.float32) * 5))
    with pytest.raises(DataError, match=r"x\.tif': more than 16 bits per channel"):
        prepare(str(photos), image_size=SIDE, cache_dir=own)


def test_images_that_are_all_alike(tmp_path: Path, own: Path) -> None:
    for i in range(8):
        save(tmp_path / "p" / "ab"[i % 2] / f"{i}.png", np.full((8, 8, 3), 7, np.uint8))
    with pytest.raises(DataError, match="to differ, but a channel is the same everywhere"):
        prepare(str(tmp_path / "p"), image_size=SIDE, cache_dir=own)


def test_what_is_no_data_set(photos: Path, own: Path) -> None:
    take = partial(prepare, cache_dir=own)
    with pytest.raises(ConfigError, match=r"Unknown data set 'cifar1'; did you mean 'cifar10'.*path of a folder"):
        take("cifar1")
    with pytest.raises(ConfigError, match=r"image-size for the folder of images '.*photos', but got none"):
        take(str(photos))
    with pytest.raises(ConfigError, match=r"Unknown data set 'cifar1000'; did you mean 'cifar100'.*--image-size"):
        take("cifar1000", data_dir=photos)
    with pytest.raises(ConfigError, match="Expected no image size for cifar10, whose images are 32x32, but got 8"):
        take("cifar10", data_dir=photos, image_size=8)
    with pytest.raises(
        ConfigError, match="'gone' to be a folder of images, or --data-dir to name that folder, but found none"
    ):
        take("gone", image_size=8)
    with pytest.raises(ConfigError, match=r"existing folder, but got '.*gone'"):
        take("photos", data_dir=photos / "gone", image_size=8)
    with pytest.raises(ConfigError, match="at least 8 pixels, but got 4"):
        take(str(photos), image_size=4)
    assert not own.exists()


def test_ctrl_c_while_decoding_leaves_nothing(photos: Path, own: Path) -> None:
    def interrupt(done: int, total: int | None) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prepare(str(photos), image_size=SIDE, cache_dir=own, progress=interrupt)
    assert not [p for p in own.iterdir() if p.is_dir()]
    assert prepare(str(photos), image_size=SIDE, cache_dir=own).verified


# --- what it is for -----------------------------------------------------------------------------------------------


def test_command_line(photos: Path, own: Path, capsys) -> None:
    assert main(["prepare", str(photos), "--image-size", "16", "--cache-dir", str(own)]) == 0
    out = capsys.readouterr().out
    for text in ("photos (your own)", "18 train, 4 test, 3x16x16", "mean         0.", "std          0.", str(photos)):
        assert text in out
    assert "nverified" not in out


def test_a_recipe_trains_on_the_folder(tmp_path: Path, own: Path, capsys) -> None:
    rng = np.random.default_rng(0)
    for name, value in (("dark", 60), ("bright", 190)):
        for i in range(40):
            save(
                tmp_path / "p" / name / f"{i:02}.png", rng.normal(value, 20, (16, 16, 3)).clip(0, 255).astype(np.uint8)
            )
    fingerprint = prepare(str(tmp_path / "p"), image_size=16, cache_dir=own).fingerprint
    recipe = Recipe().with_(
        dataset="p", image_size=16, validation_fraction=0.2, augment=(), network="resnet20", epochs=2, batch_size=16
    )
    path = tmp_path / "best_recipe.json"
    tree = {"recipe": recipe.to_dict(), "provenance": {"fingerprint": fingerprint, "threads": 1}}
    path.write_text(json.dumps(tree))
    out = tmp_path / "out"
    argv = [str(path), "--cache-dir", str(own), "--out", str(out), "--device", "cpu"]
    assert train.main([*argv, "--data-dir", str(tmp_path / "p")]) == 0
    said = capsys.readouterr()
    assert "UNVERIFIED" not in said.out
    assert json.loads((out / "metrics.json").read_text())["provenance"]["fingerprint"] == fingerprint
    assert train.main(argv) == 2
    assert "Expected 'p' to be a folder of images, or --data-dir" in capsys.readouterr().err
