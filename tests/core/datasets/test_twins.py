"""Images that are nearly the same on both sides of a split: found where they are, and told."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from mollify_core.datasets import Prepared, prepare
from mollify_core.datasets.about import leaks
from mollify_core.datasets.twins import twins

SIDE = 24


def pictures(count: int, side: int = SIDE, seed: int = 0) -> np.ndarray:
    """(count, 3, side, side) uint8, smooth and each of its own."""
    coarse = torch.rand(count, 3, 6, 6, generator=torch.Generator().manual_seed(seed)) * 300 - 20
    return F.interpolate(coarse, (side, side), mode="bicubic").clamp(0, 255).to(torch.uint8).numpy()


def compressed(image: np.ndarray, quality: int) -> bytes:
    file = io.BytesIO()
    Image.fromarray(image.transpose(1, 2, 0)).save(file, "JPEG", quality=quality)
    return file.getvalue()


def test_copies_are_found_and_nothing_else() -> None:
    images = pictures(60)
    again = np.array(Image.open(io.BytesIO(compressed(images[7], 80)))).transpose(2, 0, 1)
    brighter = np.clip(images[9].astype(int) + 2, 0, 255).astype(np.uint8)
    moved = np.roll(images[11], 4, axis=2)
    flat = np.full((2, 3, SIDE, SIDE), 90, np.uint8)
    assert twins([images, np.stack([again, images[8], brighter, moved]), flat]) == [[7, 60], [8, 61], [9, 62]]
    assert twins([images]) == []


def test_pairs_are_found_across_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    images = pictures(50)
    everything = twins([images, images[::-1]])
    assert everything == [[row, 99 - row] for row in range(50)]
    monkeypatch.setattr("mollify_core.datasets.twins._BLOCK", 7)
    assert twins([images, images[::-1]]) == everything


def folder(place: Path, shared: dict[str, int]) -> Prepared:
    """Two classes of eight to train, two to validate and two to test on; `shared` of a split are copies to train on."""
    rng = iter(range(1000))
    of_train = {name: pictures(8, seed=next(rng)) for name in ("ant", "bee")}
    for name, images in of_train.items():
        for split, count in (("train", 8), ("val", 2), ("test", 2)):
            (place / split / name).mkdir(parents=True)
            own = images if split == "train" else pictures(count, seed=next(rng))
            for number, image in enumerate(own):
                copied = split != "train" and number < shared.get(split, 0)
                data = compressed(images[number] if copied else image, 95 if split == "train" else 85)
                (place / split / name / f"{number}.jpg").write_bytes(data)
    return prepare(str(place), image_size=SIDE, cache_dir=place.parent / "cache")


def rows(prepared: Prepared) -> tuple[np.ndarray, np.ndarray]:
    return np.arange(16), np.arange(16, 20)


def test_a_leak_is_told_with_an_example(tmp_path: Path) -> None:
    clean = folder(tmp_path / "clean", {})
    assert leaks(clean, *rows(clean)) == ""
    leaking = folder(tmp_path / "leaking", {"val": 1, "test": 2})
    assert leaks(leaking, *rows(leaking)) == (
        "2 validation and 4 test images are nearly the same as fitted ones, as val/ant/0.jpg and train/ant/0.jpg: what "
        "is measured on them is too good"
    )
    unused = np.arange(16)[8:]  # a fit subset that does without the class of half of them
    assert "1 validation and 2 test images" in leaks(leaking, unused, np.arange(16, 20))


@pytest.mark.parametrize("damage", [7, [[1]], [[0, 1, 2]], [[-1, 3]], [[0, 10**9]], [["a", "b"]], {"0": 1}])
def test_pairs_that_cannot_be_are_prepared_anew(tmp_path: Path, damage: object) -> None:
    prepared = folder(tmp_path / "p", {"val": 1})
    known, path = prepared.twins, prepared.folder / "manifest.json"
    manifest = json.loads(path.read_text())
    path.write_text(json.dumps({**manifest, "twins": damage}))
    again = prepare(str(tmp_path / "p"), image_size=SIDE, cache_dir=tmp_path / "cache")
    assert again.twins == known
    assert len(known) == 2


def test_what_an_earlier_version_prepared_is_opened(tmp_path: Path) -> None:
    prepared = folder(tmp_path / "p", {"val": 1})
    path = prepared.folder / "manifest.json"
    path.write_text(json.dumps({k: v for k, v in json.loads(path.read_text()).items() if k != "twins"}))
    before = path.stat().st_mtime_ns
    again = prepare(str(tmp_path / "p"), image_size=SIDE, cache_dir=tmp_path / "cache")
    assert again.twins == []
    assert path.stat().st_mtime_ns == before
    assert leaks(again, *rows(again)) == ""
