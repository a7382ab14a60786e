"""A folder of one's own, as people have them: other names of splits, links, transparency; and what is said of it."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from mollify_core.datasets import Prepared, prepare
from mollify_core.datasets.about import described
from mollify_core.datasets.images import scaled
from mollify_core.datasets.tree import role
from mollify_core.errors import ConfigError, DataError
from mollify_core.recipe import Recipe
from mollify_core.training_data import split_rows, training_data

SIDE = 8


def write(folder: Path, counts: dict[str, int], seed: int = 0) -> None:
    for number, (name, count) in enumerate(counts.items()):
        (folder / name).mkdir(parents=True, exist_ok=True)
        for i in range(count):
            pixels = np.random.default_rng([seed, number, i]).integers(0, 256, (SIDE, SIDE, 3), np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{i:02}.png")


def divided(folder: Path, splits: dict[str, int]) -> Path:
    for number, (split, count) in enumerate(splits.items()):
        write(folder / split, {"ant": count, "bee": count}, number)
    return folder


def take(folder: Path, **options: Any) -> Prepared:
    return prepare(str(folder), image_size=SIDE, cache_dir=folder.parent / "cache", **options)


# --- splits -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("names", "known"),
    [
        ("train Train TRAIN Training training_set train2017 seg_train Train-Images trainset traindata", "train"),
        ("val Val valid VALID validation Validation_Set dev Dev val2017", "validation"),
        ("test Test TESTING test_set testset eval Evaluation holdout", "test"),
        ("cat trains trainer validity invalid contest tester device 7 data images", None),
    ],
)
def test_usual_names_of_splits(names: str, known: str | None) -> None:
    assert {name: role(name) for name in names.split()} == dict.fromkeys(names.split(), known)


@pytest.mark.parametrize(
    "names", [("Training", "Testing"), ("TRAIN", "TEST"), ("Train", "valid"), ("training_set", "Test Set")]
)
def test_splits_by_any_usual_name(tmp_path: Path, names: tuple[str, str]) -> None:
    plain = take(divided(tmp_path / "plain", {"train": 5, "test": 2}))
    prepared = take(divided(tmp_path / "p", dict(zip(names, (5, 2), strict=True))))
    assert prepared.manifest["class_names"] == ["ant", "bee"]
    assert prepared.manifest["counts"] == {"train": 10, "test": 4}
    assert prepared.fingerprint == plain.fingerprint
    said = described(prepared)
    assert said["splits"] == f"10 train from {names[0]}/, 4 test from {names[1]}/; validation is held out of train"
    assert said["classes"] == "2: ant, bee"


def test_images_that_cannot_be_read_stop_it_or_are_left_out_and_counted(tmp_path: Path) -> None:
    folder = divided(tmp_path / "p", {"train": 6, "val": 3, "test": 3})
    sound = take(divided(tmp_path / "sound", {"train": 6, "val": 3, "test": 3}))
    for name in ("train/ant/02.png", "val/bee/00.png"):
        (folder / name).write_bytes(b"no image")
    with pytest.raises(DataError, match=r"02.png.*known format .--on-bad-image skip leaves such images out"):
        take(folder)
    prepared = take(folder, skip_bad=True)
    assert prepared.manifest["counts"] == {"train": 16, "validation": 5, "test": 6}
    assert described(prepared)["left out"] == "2 that cannot be read"
    assert described(prepared)["splits"].startswith("11 train from train/, 5 validation from val/, 6 test")
    kept = [row for row in range(18) if row not in (2, 15)]
    np.testing.assert_array_equal(prepared.tensors("train").images, sound.tensors("train").images[kept])
    np.testing.assert_array_equal(prepared.labels("train"), sound.labels("train")[kept])
    with pytest.raises(DataError, match=r"Cannot read 2 of the images in .*train/ant/02.png.*--on-bad-image skip"):
        take(folder)  # although it has been prepared


def test_a_class_of_unreadable_images_is_refused(tmp_path: Path) -> None:
    folder = divided(tmp_path / "p", {"train": 4, "test": 2})
    for path in (folder / "test/bee").iterdir():
        path.write_bytes(b"")
    with pytest.raises(DataError, match=r"at least 1 readable test image of each class.*'bee' has 0; 2 files"):
        take(folder, skip_bad=True)


def test_unequal_classes_are_told(tmp_path: Path) -> None:
    folder = divided(tmp_path / "p", {"train": 8, "test": 2})
    assert "unequal" not in described(take(folder))
    for path in sorted((tmp_path / "p/train/bee").iterdir())[:5]:
        path.unlink()
    said = described(take(folder))
    assert said["unequal"] == "from 8 of ant to 3 of bee; the balanced error weighs all classes alike"


def test_a_folder_to_validate_on_is_what_validates(tmp_path: Path) -> None:
    without = take(divided(tmp_path / "p", {"train": 6, "test": 3}))
    prepared = take(divided(tmp_path / "p", {"train": 6, "test": 3, "Val": 4}))
    assert prepared.manifest["counts"] == {"train": 20, "validation": 8, "test": 6}
    assert prepared.fingerprint != without.fingerprint
    assert prepared.folder != without.folder
    assert described(prepared)["splits"] == "12 train from train/, 8 validation from Val/, 6 test from test/"
    recipe = Recipe().with_(dataset="p", image_size=SIDE, judging_fraction=0.5)
    data = training_data(recipe, prepared)
    assert data.validation is not None
    want = [np.asarray(Image.open(path)) for path in sorted((tmp_path / "p" / "Val").rglob("*.png"))]
    got = data.validation.cells[0].permute(0, 2, 3, 1).numpy()  # uncorrupted, the order of validation is its own
    assert sorted(image.tobytes() for image in got) == sorted(image.tobytes() for image in want)
    assert data.validation.choosing == 4
    fit = [np.asarray(Image.open(path)) for path in sorted((tmp_path / "p" / "train").rglob("*.png"))]
    assert np.array_equal(data.fit.images.permute(0, 2, 3, 1), fit)
    images = torch.from_numpy(np.stack(fit)).double() / 255  # what is validated on is not measured
    np.testing.assert_allclose(prepared.spec.mean, images.mean((0, 1, 2)), atol=1e-6)
    labels = prepared.labels("train")
    for more in ({"validation_fraction": 0.5}, {"split_seed": 3}):
        assert np.array_equal(split_rows(labels, recipe.with_(more), prepared)[1], np.arange(12, 20))
    assert len(training_data(recipe.with_(train_fraction=0.5), prepared).fit) == 6
    assert len(training_data(recipe, prepared, final=True).fit) == 20


def test_validation_beside_train_alone_is_the_test(tmp_path: Path) -> None:
    prepared = take(divided(tmp_path / "p", {"train": 6, "validation": 3}))
    assert prepared.validation == 0
    assert "6 test from validation/; validation is held out of train" in described(prepared)["splits"]


def test_the_same_images_with_another_meaning_are_prepared_again(tmp_path: Path) -> None:
    first = take(divided(tmp_path / "p", {"train": 6, "test": 3, "val": 4}))
    (tmp_path / "p" / "val").rename(tmp_path / "p" / "other")
    second = take(tmp_path / "p")
    assert (second.validation, first.validation) == (0, 8)
    assert second.folder != first.folder


WRONG = {
    "splits without classes": (["train/1.png", "test/1.png"], "folders of classes in .*, but got 'test', 'train'"),
    "splits and a class": (["Train/1.png", "Val/1.png", "dog/1.png"], "folders of classes in .*, but got 'Train'"),
    "no train": (["test/a/1.png", "test/b/1.png", "val/a/1.png"], "one of which is train, but got 'test', 'val'"),
    "classes beside test": (["a/1.png", "b/1.png", "Test/a/1.png"], "but got 'Test', 'a', 'b'"),
    "two of one": (["train/a/1.png", "Train/a/1.png", "test/a/1.png"], "one folder of each split .* 'Train' and"),
    "a steering name": (["train\x1b[3/a/1.png", "train\x1b[3/b/1.png"], r"beside train.x1b\[3 in"),
    "two to validate on": (["train/a/1.png", "val/a/1.png", "dev/a/1.png"], "one folder of each split"),
    "splits inside": (["a/train/1.png", "a/test/1.png", "b/train/1.png"], "above those of classes .* 'a' holds"),
    "classes of val": (
        ["train/a/1.png", "train/b/1.png", "test/a/1.png", "test/b/1.png", "val/a/1.png", "val/c/1.png"],
        "train and val in .* to hold the same classes, but 'b' is in train only",
    ),
}


@pytest.mark.parametrize(("files", "message"), WRONG.values(), ids=WRONG)
def test_folders_that_are_no_splits_and_no_classes(tmp_path: Path, files: list[str], message: str) -> None:
    for file in files:
        (tmp_path / "p" / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "p" / file).write_bytes(b"x")
    with pytest.raises(DataError, match=message):
        take(tmp_path / "p")


# --- links, and what is left out ----------------------------------------------------------------------------------


def test_links_are_followed_once(tmp_path: Path) -> None:
    """Of a class, a folder in one, a whole split, and a file: the same as without links."""
    plain = take(divided(tmp_path / "plain", {"train": 5, "test": 2}))
    folder = divided(tmp_path / "p", {"train": 5, "test": 2})
    away = tmp_path / "away"
    away.mkdir()
    for name in ("train/ant", "test", "train/bee/00.png"):
        shutil.move(folder / name, away / name.replace("/", "-"))
        (folder / name).symlink_to(away / name.replace("/", "-"))
    assert take(folder).fingerprint == plain.fingerprint
    (folder / "train" / "bee" / "again").symlink_to("inner")
    (folder / "train" / "bee" / "inner").mkdir()
    shutil.move(folder / "train" / "bee" / "01.png", folder / "train" / "bee" / "inner")
    prepared = take(folder)
    assert prepared.manifest["counts"] == plain.manifest["counts"]
    assert "1 folders that links lead to again" in described(prepared)["left out"]


@pytest.mark.parametrize("link", ["train/ant/x", "train/x", "train/ant/y/z"])
@pytest.mark.parametrize("target", ["", "train", "train/ant", "self"])
def test_loops_of_links_are_refused(tmp_path: Path, link: str, target: str) -> None:
    folder = divided(tmp_path / "p", {"train": 5, "test": 2})
    (folder / link).parent.mkdir(exist_ok=True)
    (folder / link).symlink_to(folder / link if target == "self" else folder / target)
    with pytest.raises(DataError, match=r"no loop of links|to be of one split and class"):
        take(folder)


@pytest.mark.parametrize("link", ["train/cat", "train/ant/x"])
@pytest.mark.parametrize("target", ["train/bee", "test/ant"])
def test_images_of_two_classes_or_splits_are_refused(tmp_path: Path, link: str, target: str) -> None:
    folder = divided(tmp_path / "p", {"train": 5, "test": 2})
    (folder / link).symlink_to(folder / target)
    if link == "train/cat":
        write(folder / "test", {"cat": 2}, 9)
    with pytest.raises(DataError, match="to be of one split and class, but"):
        take(folder)


def test_what_is_left_out_is_counted(tmp_path: Path) -> None:
    folder = divided(tmp_path / "p", {"train": 5, "test": 2})
    for name in ("train/ant/notes.txt", "train/ant/.x.png", "train/loose.png", "readme.md", "unlabelled/1.png"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).touch()
    (folder / "test" / "bee" / "gone.png").symlink_to("nowhere")
    os.mkfifo(folder / "test" / "bee" / "pipe.png")
    assert described(take(folder))["left out"] == (
        "1 hidden, 1 in folders that belong to no split, 1 links to nothing, 1 neither file nor folder, "
        "2 not named as images, 1 outside of the class folders"
    )


# --- transparency -------------------------------------------------------------------------------------------------


def encoded(image: Image.Image, tmp_path: Path, ending: str, **options: Any) -> bytes:
    image.save(tmp_path / f"image{ending}", **options)
    return (tmp_path / f"image{ending}").read_bytes()


def drawing(mode: str) -> Image.Image:
    """Black, with all of the drawing in its alpha: the left half is there, the right is not."""
    alpha = Image.fromarray(np.repeat([[255, 0]], SIDE // 2, axis=1).repeat(SIDE, 0).astype(np.uint8))
    image = Image.new("RGB" if mode == "RGBA" else "L", (SIDE, SIDE))
    image.putalpha(alpha)
    return image


@pytest.mark.parametrize(("background", "value"), [("#ffffff", 255), ("#000000", 0), ("#808080", 128)])
@pytest.mark.parametrize(
    "kind", ["RGBA.png", "LA.png", "RGBA.webp", "RGBA.tif", "P.png", "P.gif", "L.png", "RGB.png", "I;16.png", "1.png"]
)
def test_what_is_transparent_shows_the_background(tmp_path: Path, kind: str, background: str, value: int) -> None:
    mode, ending = kind.split(".")
    image, options = drawing("LA" if mode == "LA" else "RGBA"), {}
    if ending == "webp":
        options = {"lossless": True}
    if mode not in ("RGBA", "LA"):  # one value, or a few of a palette, are transparent
        half = np.where(np.arange(SIDE) < SIDE // 2, 0, 1)[None].repeat(SIDE, 0)
        if mode == "P":
            image = Image.fromarray(half.astype(np.uint8)).convert("P")
            image.putpalette([0, 0, 0, 9, 9, 9])
            options = {"transparency": 1 if ending == "gif" else bytes([255, 0])}
        elif mode == "RGB":
            image, options = (
                Image.fromarray((half[..., None] * [7, 8, 9]).astype(np.uint8)),
                {"transparency": (7, 8, 9)},
            )
        elif mode == "I;16":
            image, options = Image.fromarray((half * 40_000).astype(np.uint16)), {"transparency": 40_000}
        else:
            image = Image.fromarray((half * 255).astype(np.uint8)).convert(mode)
            options = {"transparency": 255 if mode == "L" else 1}
    got = scaled(encoded(image, tmp_path, f".{ending}", **options), "x", SIDE, background)
    assert (got[:, :, : SIDE // 2] == 0).all()
    assert (got[:, :, SIDE // 2 :] == value).all()


def test_what_is_half_transparent_is_between(tmp_path: Path) -> None:
    image = Image.new("RGBA", (SIDE, SIDE), (200, 0, 0, 64))
    got = scaled(encoded(image, tmp_path, ".png"), "x", SIDE, "#0000ff")
    assert got[:, 0, 0].tolist() == [50, 0, 191]


def test_the_background_is_a_setting_of_the_data(tmp_path: Path) -> None:
    folder = divided(tmp_path / "p", {"train": 5, "test": 2})
    opaque = take(folder)
    for path in folder.rglob("*/ant/*.png"):
        drawing("RGBA").save(path)
    white, black, again = take(folder), take(folder, background="black"), take(folder, background="#FFFFFF")
    assert white.folder == again.folder != black.folder
    assert len({opaque.fingerprint, white.fingerprint, black.fingerprint}) == 3
    assert "background" not in described(white)
    assert described(black)["background"] == "black where images are transparent"
    recipe = Recipe()
    assert recipe.with_(background="#FFFFFF") == recipe  # hashes and files of before stay as they are
    assert "background" not in recipe.to_dict()["data"]
    assert recipe.with_(background="#000000").data.background == "black"
    assert Recipe.from_dict(recipe.with_(background="#010203").to_dict()).data.background == "#010203"
    for wrong in ("", "pinkish", "#fff", "rgb(1,2,3)", "#12345g"):
        with pytest.raises(ConfigError, match="Expected the background to be white, grey, black or #rrggbb, but got"):
            recipe.with_(background=wrong)
        with pytest.raises(ConfigError, match="Expected the background to be"):
            take(folder, background=wrong)
    with pytest.raises(ConfigError, match="Expected no background for digits"):
        prepare("digits", background="black")
