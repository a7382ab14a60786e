"""Images that belong together: no split divides a group, and whoever asks for intervals is told of it."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from mollify_core.datasets import Prepared, prepare
from mollify_core.datasets.about import described, divided, sides
from mollify_core.datasets.split import judging_rows, stratified_split
from mollify_core.errors import ConfigError, DataError
from mollify_core.recipe import Recipe
from mollify_core.training_data import judging_of, split_rows, training_data

SIDE = 8
RECIPE = Recipe().with_(dataset="photos", image_size=SIDE, validation_fraction=0.3, judging_fraction=0.5)


def photos(folder: Path, patients: int = 20, each: int = 3, top: str = "") -> dict[str, str]:
    """A folder of two classes of images, and which patient each is of."""
    groups = {}
    for name in ("ill", "well"):
        (folder / top / name).mkdir(parents=True, exist_ok=True)
        for patient in range(patients):
            for shot in range(each):
                pixels = np.random.default_rng([patient, shot, name == "ill"]).integers(
                    0, 256, (SIDE, SIDE, 3), np.uint8
                )
                image = Path(top, name, f"{shot}-{patient:02}.png")
                Image.fromarray(pixels).save(folder / image)
                groups[image.as_posix()] = f"{name} {patient}" if patient % 2 else f"both {patient}"
    return groups


def written(path: Path, groups: dict[str, str]) -> Path:
    with open(path, "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("group", "age", "image"), *((group, 7, name) for name, group in groups.items())])
    return path


def take(folder: Path, groups: Path | None, **options: Any) -> Prepared:
    return prepare(str(folder), image_size=SIDE, cache_dir=folder.parent / "cache", groups=groups, **options)


# --- splits of numbers --------------------------------------------------------------------------------------------


def test_a_split_takes_whole_groups_and_its_classes_have_the_share_that_is_asked() -> None:
    drawn = np.random.default_rng(0)
    groups = drawn.integers(0, 400, 6000)
    labels = np.where(drawn.random(6000) < 0.7, groups % 7, drawn.integers(0, 7, 6000))
    for seed in range(3):
        fit, held = stratified_split(labels, 0.2, seed, "print", groups)
        assert sorted([*fit, *held]) == list(range(6000))
        assert not set(groups[fit]) & set(groups[held])
        shares = np.bincount(labels[held]) / np.bincount(labels)
        assert abs(shares - 0.2).max() < 0.01
        assert np.array_equal(
            stratified_split(labels, 0.2, seed, "print", groups * 3 + 1)[1], held
        )  # numbers are names
    assert not np.array_equal(held, stratified_split(labels, 0.2, 0, "print", groups)[1])
    judging = judging_rows(labels[held], 0.5, 0, "print", groups[held])
    assert not set(groups[held][judging]) & set(np.delete(groups[held], judging))
    assert abs(np.bincount(labels[held][judging]) / np.bincount(labels[held]) - 0.5).max() < 0.05


def test_the_split_of_groups_is_the_same_for_ever() -> None:
    labels, groups = np.arange(24) // 3 % 2, np.arange(24) // 3
    assert sorted(set(groups[stratified_split(labels, 0.25, 0, "print", groups)[1]])) == [2, 3]
    assert sorted(set(groups[stratified_split(labels, 0.25, 1, "print", groups)[1]])) == [2, 5]


def test_every_class_is_on_both_sides_however_large_its_groups_are() -> None:
    labels = np.array([0] * 50 + [1] * 50)
    groups = np.array([0] * 48 + [1] + [2] + [3] * 25 + [4] * 25)
    for seed in range(5):
        fit, held = stratified_split(labels, 0.2, seed, "print", groups)
        assert set(labels[fit]) == set(labels[held]) == {0, 1}
        assert len(held) == 27  # the two single images, and one of two halves
        fit, held = stratified_split(labels[:50], 0.2, seed, "print", groups[:50], leave=2)
        assert len(np.unique(groups[:50][fit])) == 2
    with pytest.raises(DataError, match=r"class 'bee' are in 2$"):
        stratified_split(labels, 0.2, 0, "print", groups, leave=2, names=["ant", "bee"])
    with pytest.raises(DataError, match=r"^Expected two or more groups of validation images that only judge"):
        judging_rows(labels[50:], 0.5, 0, "print", groups[50:])
    assert len(judging_rows(labels[50:], 0.0, 0, "print", groups[50:])) == 0
    # two classes hold each other's last group: nobody can be held out
    with pytest.raises(DataError, match=r"none with class '\w' can be held out"):
        stratified_split(np.array([0, 1, 1, 2, 2, 0]), 0.3, 0, "print", np.array([0, 0, 1, 1, 2, 2]))


# --- folders ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("feed", ["resident", "stream"])
def test_a_folder_in_groups(tmp_path: Path, feed: str) -> None:
    groups = photos(tmp_path / "photos")
    prepared = take(tmp_path / "photos", written(tmp_path / "groups.csv", groups), feed=feed)
    rows = prepared.spec.source.listed.rows
    of = {split: [groups[name] for name, _ in rows[split]] for split in ("train", "test")}
    assert not set(of["train"]) & set(of["test"])
    assert 22 <= len(of["test"]) <= 26
    labels = prepared.labels("train")
    fit, validation = split_rows(labels, RECIPE, prepared)
    judging = judging_of(labels, validation, RECIPE, prepared)
    parts = [fit, np.delete(validation, judging), validation[judging]]
    known = [{of["train"][row] for row in part} for part in parts]
    assert all(known)
    assert not known[0] & known[1]
    assert not known[0] & known[2]
    assert not known[1] & known[2]
    data = training_data(RECIPE, prepared)
    judged = data.judged_groups
    assert judged is not None
    assert data.validation is not None
    numbers = prepared.groups["train"]
    assert sorted(judged) == sorted(numbers[validation[judging]])
    # each number stands beside the labels of its own images
    held = {*zip(numbers[validation].tolist(), labels[validation].tolist(), strict=True)}
    assert {*zip(data.validation.groups.tolist(), data.validation.labels.tolist(), strict=True)} == held
    said = sides(prepared, fit, validation, judging)
    assert said.startswith("30 of 3 to 6 images: ")
    assert f"{len(known[0])} fit, {len(known[1])} choose" in said
    assert "of training and" in described(prepared)["groups"]
    assert divided(prepared) == ""
    plain = take(tmp_path / "photos", None, feed=feed)
    assert plain.groups == {}
    assert "groups" not in plain.manifest
    assert plain.fingerprint != prepared.fingerprint
    assert training_data(RECIPE, plain).judged_groups is None


def test_groups_say_the_same_in_any_file_and_order_and_are_part_of_what_the_data_are(tmp_path: Path) -> None:
    groups = photos(tmp_path / "photos")
    first = take(tmp_path / "photos", written(tmp_path / "groups.csv", groups))
    table = {"image": list(groups)[::-1], "group": pa.array(list(groups.values())[::-1]).dictionary_encode()}
    pq.write_table(pa.table(table), tmp_path / "groups.parquet")
    other = take(tmp_path / "photos", tmp_path / "groups.parquet")
    assert other.fingerprint == first.fingerprint
    assert other.folder == first.folder
    assert len(first.manifest["groups"]) == 64
    changed = groups | {next(iter(groups)): "nobody"}
    third = take(tmp_path / "photos", written(tmp_path / "changed.csv", changed))
    assert third.fingerprint != first.fingerprint
    assert third.manifest["groups"] != first.manifest["groups"]


def test_folders_that_are_splits_may_divide_groups_and_the_plan_says_so(tmp_path: Path) -> None:
    groups = photos(tmp_path / "p", 6, 2, "train") | photos(tmp_path / "p", 3, 1, "test")
    prepared = take(tmp_path / "p", written(tmp_path / "groups.csv", groups))
    assert divided(prepared).startswith("the data's own splits divide groups of images, 4 in train and test")


def test_images_that_are_left_out_take_their_groups_along(tmp_path: Path) -> None:
    groups = photos(tmp_path / "photos")
    (tmp_path / "photos" / "ill" / "0-03.png").write_bytes(b"no image")
    prepared = take(tmp_path / "photos", written(tmp_path / "groups.csv", groups), skip_bad=True)
    rows = prepared.spec.source.listed.rows
    for split in ("train", "test"):
        assert len(prepared.groups[split]) == prepared.manifest["counts"][split] == len(rows[split])
    names = sorted(set(groups.values()))
    assert [names[number] for number in prepared.groups["train"]] == [groups[name] for name, _ in rows["train"]]


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", "columns image and group.*but got none"),
        (b"image,who\nill/0-00.png,1\n", "columns image and group, once each, .*but got 'image', 'who'"),
        (b"image,group,group\n", "columns image and group, once each"),
        (b"image,group\nill/0-00.png\n", "Expected an image and its group in line 2"),
        (b"image,group\nill/0-00.png,1\nill/0-00.png,2\n", "one group for each image .*'ill/0-00.png' has '1' and '2'"),
        (b"image,group\nill/0-00.png,1\n", r"but 35 of 36 have none, as 'ill/0-01.png'"),
        (b'image,group\n"ill/0-00.png,1\n', "Cannot read groups from"),
        (b"image,group\n" + b"x" * 200_000 + b",1\n", "Cannot read groups from .*field larger"),
        (b"PAR1 and no more", "Cannot read groups from"),
        (b"image,group\nill/0-\xff.png,1\n", "36 of 36 have none"),
    ],
)
def test_a_file_of_groups_that_says_nothing_is_refused_in_one_sentence(
    tmp_path: Path, content: bytes, told: str
) -> None:
    photos(tmp_path / "photos", 6)
    (tmp_path / "groups").write_bytes(content)
    with pytest.raises(DataError, match=told) as error:
        take(tmp_path / "photos", tmp_path / "groups")
    assert "\n" not in str(error.value)


def test_groups_that_leave_no_way_to_split_and_sets_that_have_none(tmp_path: Path) -> None:
    groups = photos(tmp_path / "photos", 6)
    file = written(tmp_path / "groups.csv", {name: name.partition("/")[0] for name in groups})
    with pytest.raises(DataError, match=r"every class in 3 or more groups.*18 images of class 'ill' are in 1$"):
        take(tmp_path / "photos", file)
    with pytest.raises(ConfigError, match=r"Expected --groups with a folder of images of your own, .* with cifar10"):
        prepare("cifar10", groups=file)
    with pytest.raises(DataError, match=r"Cannot read groups from '.*none.csv'"):
        take(tmp_path / "photos", tmp_path / "none.csv")
    table = pa.table({"image": ["ill/0-00.png", None], "group": [1, 2]})
    pq.write_table(table, tmp_path / "null.parquet")
    with pytest.raises(DataError, match="in every row"):
        take(tmp_path / "photos", tmp_path / "null.parquet")
    whole = (tmp_path / "null.parquet").read_bytes()
    (tmp_path / "null.parquet").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match="Cannot read groups"):
        take(tmp_path / "photos", tmp_path / "null.parquet")
