"""torchvision's data sets, read by its own classes from tiny ones in their exact layout on disk."""

from __future__ import annotations

import bz2
import csv
import functools
import hashlib
import http.server
import io
import json
import os
import pickle
import re
import shutil
import struct
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.io
import torchvision
from PIL import Image
from sklearn.datasets import load_digits

from hostile import read
from mollify_core.datasets import Prepared, libraries, prepare
from mollify_core.datasets.about import described
from mollify_core.datasets.images import scaled
from mollify_core.datasets.lookup import spec
from mollify_core.errors import ConfigError, DataError

SIDE = 8
DIGITS = load_digits()


def digit(label: int, number: int, side: int = SIDE) -> np.ndarray:
    """(side, side, 3) uint8: one of scikit-learn's digits, tinted so that no two are the same."""
    found = DIGITS.images[DIGITS.target == label][number]
    image = Image.fromarray((found * 15).astype(np.uint8)).resize((side, side), Image.Resampling.NEAREST)
    return np.stack([np.asarray(image), np.full((side, side), 25 * label, np.uint8), np.asarray(image)], axis=-1)


def put(path: Path, label: int, number: int, side: int = 20) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(digit(label, number, side)).save(path)


def text(path: Path, lines: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in lines))


def md5(path: Path) -> str:
    return hashlib.md5(path.read_bytes()).hexdigest()


SPLITS = {"train": range(4), "val": range(4, 6), "test": range(6, 9)}
"""Which digits of each of two classes are in which split."""


def each() -> Iterator[tuple[str, int, int]]:
    """(split, label, number)."""
    return ((split, label, n) for split, numbers in SPLITS.items() for label in range(2) for n in numbers)


def flowers(root: Path, patch: pytest.MonkeyPatch) -> None:
    base, labels, ids = root / "flowers-102", [], {"train": [], "val": [], "test": []}
    for image, (split, label, n) in enumerate(each(), 1):
        put(base / "jpg" / f"image_{image:05}.jpg", label, n)
        labels.append(label + 1)
        ids[split].append(image)
    # The set's 102 classes are known beforehand, so all of them are here: once each in train, and once to test.
    for label in range(2, 102):
        for split in ids:
            ids[split].append(len(labels) + 1)
            labels.append(label + 1)
            put(base / "jpg" / f"image_{len(labels):05}.jpg", label % 10, label // 10 + 10 * list(ids).index(split))
    scipy.io.savemat(base / "imagelabels.mat", {"labels": labels})
    scipy.io.savemat(base / "setid.mat", {"trnid": ids["train"], "valid": ids["val"], "tstid": ids["test"]})
    known = {"label": "imagelabels.mat", "setid": "setid.mat"}
    patch.setattr(torchvision.datasets.Flowers102, "_file_dict", {k: (f, md5(base / f)) for k, f in known.items()})


def pets(root: Path, patch: pytest.MonkeyPatch) -> None:
    base, lines = root / "oxford-iiit-pet", {"trainval": [], "test": []}
    for split, label, n in each():
        name = f"{('Abyssinian', 'american_bulldog')[label]}_{n}"
        put(base / "images" / f"{name}.jpg", label, n)
        lines["test" if split == "test" else "trainval"].append(f"{name} {label + 1} {label + 1} 1")
    for split, found in lines.items():
        text(base / "annotations" / f"{split}.txt", found)


def textures(root: Path, patch: pytest.MonkeyPatch) -> None:
    base = root / "dtd" / "dtd"
    lines: dict[str, list[str]] = {split: [] for split in SPLITS}
    for split, label, n in each():
        name = f"{('banded', 'zigzagged')[label]}/{n}.jpg"
        put(base / "images" / name, label, n)
        lines[split].append(name)
    for split, found in lines.items():
        text(base / "labels" / f"{split}1.txt", found)


def aircraft(root: Path, patch: pytest.MonkeyPatch) -> None:
    base = root / "fgvc-aircraft-2013b" / "data"
    lines: dict[str, list[str]] = {split: [] for split in SPLITS}
    for split, label, n in each():
        put(base / "images" / f"{label}{n}.jpg", label, n)
        lines[split].append(f"{label}{n} {('707-320', 'A300B4')[label]}")
    text(base / "variants.txt", ["707-320", "A300B4"])
    for split, found in lines.items():
        text(base / f"images_variant_{split}.txt", found)


def satellite(root: Path, patch: pytest.MonkeyPatch) -> None:
    for _, label, n in each():
        put(root / "eurosat" / "2750" / ("Forest", "River")[label] / f"{n}.jpg", label, n)


def food(root: Path, patch: pytest.MonkeyPatch) -> None:
    meta: dict[str, dict[str, list[str]]] = {"train": {}, "test": {}}
    for split, label, n in each():
        name = f"{('apple_pie', 'waffles')[label]}/{n}"
        put(root / "food-101" / "images" / f"{name}.jpg", label, n)
        meta["test" if split == "test" else "train"].setdefault(name.partition("/")[0], []).append(name)
    for split, found in meta.items():
        text(root / "food-101" / "meta" / f"{split}.json", [json.dumps(found)])


def signs(root: Path, patch: pytest.MonkeyPatch) -> None:
    base, rows = root / "gtsrb", [("Filename", "ClassId")]
    for split, label, n in each():
        if split == "test":
            put(base / "GTSRB" / "Final_Test" / "Images" / f"{label}{n}.ppm", label, n)
            rows.append((f"{label}{n}.ppm", str(label)))
        else:
            put(base / "GTSRB" / "Training" / f"{label:05}" / f"{n}.ppm", label, n)
    with open(base / "GT-final_test.csv", "w", newline="") as file:
        csv.writer(file, delimiter=";").writerows(rows)


def nette(root: Path, patch: pytest.MonkeyPatch) -> None:
    for split, label, n in each():
        wnid = ("n01440764", "n02102040")[label]
        put(root / "imagenette2" / ("val" if split == "test" else "train") / wnid / f"{n}.jpeg", label, n)


def numbers(root: Path, patch: pytest.MonkeyPatch) -> None:
    known = {}
    for split in ("train", "test"):
        chosen = [(label, n) for s, label, n in each() if (s == "test") == (split == "test")]
        images = np.stack([digit(label, n, 32) for label, n in chosen], axis=-1)
        labels = [[label or 10] for label, _ in chosen]  # "0" has label 10
        root.mkdir(exist_ok=True)
        scipy.io.savemat(root / f"{split}_32x32.mat", {"X": images, "y": np.array(labels, np.uint8)})
        known[split] = ["", f"{split}_32x32.mat", md5(root / f"{split}_32x32.mat")]
    patch.setattr(torchvision.datasets.SVHN, "split_list", known)


def stl(root: Path, patch: pytest.MonkeyPatch) -> None:
    base, known = root / "stl10_binary", {}
    base.mkdir(parents=True)
    for split in ("train", "test"):
        chosen = [(label, n) for s, label, n in each() if (s == "test") == (split == "test")]
        images = np.stack([digit(label, n, 96).transpose(2, 1, 0) for label, n in chosen])
        (base / f"{split}_X.bin").write_bytes(images.tobytes())
        (base / f"{split}_y.bin").write_bytes(bytes(label + 1 for label, _ in chosen))
        known[split] = [[name, md5(base / name)] for name in (f"{split}_X.bin", f"{split}_y.bin")]
    (base / "class_names.txt").write_text("airplane\nbird\n")
    for split, found in known.items():
        patch.setattr(torchvision.datasets.STL10, f"{split}_list", found)


def fashion(root: Path, patch: pytest.MonkeyPatch) -> None:
    base = root / "FashionMNIST" / "raw"
    base.mkdir(parents=True)
    for word, test in (("train", False), ("t10k", True)):
        chosen = [(label, n) for label in range(10) for n in (SPLITS["test"] if test else SPLITS["train"])]
        images = np.stack([digit(label, n, 28)[..., 0] for label, n in chosen])
        header = struct.pack(">IIII", 0x803, *images.shape)
        (base / f"{word}-images-idx3-ubyte").write_bytes(header + images.tobytes())
        header = struct.pack(">II", 0x801, len(chosen))
        (base / f"{word}-labels-idx1-ubyte").write_bytes(header + bytes(label for label, _ in chosen))


def post(root: Path, patch: pytest.MonkeyPatch) -> None:
    root.mkdir(exist_ok=True)
    for name, test in (("usps.bz2", False), ("usps.t.bz2", True)):
        lines = [
            f"{label + 1} "
            + " ".join(f"{i}:{v / 127.5 - 1:.4f}" for i, v in enumerate(digit(label, n, 16)[..., 0].ravel(), 1))
            for s, label, n in each()
            if (s == "test") == test
        ]
        (root / name).write_bytes(bz2.compress("\n".join(lines).encode()))


MADE: dict[str, tuple[Callable[[Path, pytest.MonkeyPatch], None], list[str], dict[str, int]]] = {
    "DTD": (textures, ["banded", "zigzagged"], {"train": 12, "test": 6, "validation": 4}),
    "EuroSAT": (satellite, ["Forest", "River"], {"train": 14, "test": 4}),
    "FGVCAircraft": (aircraft, ["707-320", "A300B4"], {"train": 12, "test": 6, "validation": 4}),
    "FashionMNIST": (fashion, list(torchvision.datasets.FashionMNIST.classes), {"train": 40, "test": 30}),
    "Flowers102": (flowers, torchvision.datasets.Flowers102.classes, {"train": 212, "test": 106, "validation": 104}),
    "Food101": (food, ["apple_pie", "waffles"], {"train": 12, "test": 6}),
    "GTSRB": (signs, ["0", "1"], {"train": 12, "test": 6}),
    "Imagenette": (nette, ["tench", "English springer"], {"train": 12, "test": 6}),
    "OxfordIIITPet": (pets, ["Abyssinian", "American Bulldog"], {"train": 12, "test": 6}),
    "STL10": (stl, ["airplane", "bird"], {"train": 12, "test": 6}),
    "SVHN": (numbers, ["0", "1"], {"train": 12, "test": 6}),
    "USPS": (post, ["0", "1"], {"train": 12, "test": 6}),
}


def take(name: str, root: Path, **options: Any) -> Prepared:
    return prepare(f"torchvision/{name}", image_size=SIDE, data_dir=root, cache_dir=root.parent / "cache", **options)


@pytest.mark.parametrize("name", MADE)
def test_a_set_of_torchvision_is_what_its_own_class_says(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make, names, counts = MADE[name]
    make(tmp_path / "data", monkeypatch)
    before = sorted(os.walk(tmp_path / "data"))
    prepared = take(name, tmp_path / "data")
    assert sorted(os.walk(tmp_path / "data")) == before
    assert prepared.manifest["class_names"] == names
    assert prepared.manifest["counts"] == counts
    assert prepared.spec.name == f"torchvision-{name}"
    assert described(prepared)["read as"] == f"torchvision's {name}"
    # every image and label, whatever their order, as torchvision itself gives them
    found = prepared.tensors("train"), prepared.tensors("test")
    mine = sorted(
        (int(y), x.numpy().tobytes()) for part in found for x, y in zip(part.images, part.labels, strict=True)
    )
    theirs = []
    for words in libraries.SETS[name].splits.values():
        part = getattr(torchvision.datasets, name)(str(tmp_path / "data"), **words)
        for row in range(len(part)):
            image, label = part[row]
            held = io.BytesIO()
            image.save(held, "PNG")
            theirs.append((int(label), scaled(held.getvalue(), "", SIDE).tobytes()))
    assert mine == sorted(theirs)
    # a recipe's word for it, and images that are streamed
    again = prepare(
        f"torchvision-{name}", image_size=SIDE, data_dir=tmp_path / "data", cache_dir=tmp_path / "c2", feed="stream"
    )
    assert again.fingerprint == prepared.fingerprint


def test_digits_are_not_mirrored_and_textures_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    textures(tmp_path, monkeypatch)
    numbers(tmp_path, monkeypatch)
    known = {name: spec(f"torchvision/{name}", data_dir=tmp_path, image_size=8).augment for name in ("DTD", "SVHN")}
    assert known == {"DTD": ("flip", "crop"), "SVHN": ("crop",)}


@pytest.mark.parametrize("name", libraries.SETS)
def test_what_is_not_there_is_said_in_one_sentence_with_what_belongs_there(name: str, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=f"Cannot read torchvision's {name} from .*, which should hold ") as error:
        take(name, tmp_path / "empty")
    assert "\n" not in str(error.value)
    assert "download=True" not in str(error.value)


def test_a_download_that_fails_is_one_sentence_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torchvision.datasets.DTD, "_URL", "http://127.0.0.1:9/dtd.tar.gz")
    with pytest.raises(
        DataError, match=r"Cannot download torchvision's DTD .*dtd/dtd/ with images/.*--data-dir"
    ) as error:
        prepare("torchvision/DTD", image_size=SIDE, cache_dir=tmp_path)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "torchvision" / "DTD").exists()


def test_a_download_is_kept_for_the_next_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    textures(tmp_path / "source", monkeypatch)
    (tmp_path / "www").mkdir()
    shutil.make_archive(str(tmp_path / "www" / "dtd"), "gztar", tmp_path / "source" / "dtd", "dtd")
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=tmp_path / "www")
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setattr(torchvision.datasets.DTD, "_URL", f"http://127.0.0.1:{server.server_port}/dtd.tar.gz")
        monkeypatch.setattr(torchvision.datasets.DTD, "_MD5", md5(tmp_path / "www" / "dtd.tar.gz"))
        first = prepare("torchvision/DTD", image_size=SIDE, cache_dir=tmp_path / "cache")
        server.shutdown()
    assert prepare("torchvision/DTD", image_size=SIDE, cache_dir=tmp_path / "cache").fingerprint == first.fingerprint
    assert first.manifest["source"] == str(tmp_path / "cache" / "torchvision" / "DTD")


class _Runs:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("ran",)


def test_no_pickle_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=r"CIFAR10 is in pickles.*--dataset cifar10 is the same, and safe to read"):
        prepare("torchvision/CIFAR10", image_size=32, data_dir=tmp_path)
    with pytest.raises(ConfigError, match=r"^Unknown data set of torchvision 'ImageNet'"):
        prepare("torchvision/ImageNet", image_size=32, data_dir=tmp_path)
    with pytest.raises(ConfigError, match=r"'Flower102'.*did you mean 'Flowers102'"):
        prepare("torchvision/Flower102", image_size=32, data_dir=tmp_path)
    with pytest.raises(ConfigError, match=r"Expected an --image-size for 'torchvision/SVHN'"):
        prepare("torchvision/SVHN", data_dir=tmp_path)
    # what stands where .mat files or the old cache of MNIST should
    numbers(tmp_path / "svhn", monkeypatch)
    (tmp_path / "svhn" / "train_32x32.mat").write_bytes(pickle.dumps(_Runs()))
    monkeypatch.setattr(torchvision.datasets.SVHN, "_check_integrity", lambda _: True)
    with pytest.raises(DataError, match="Cannot read torchvision's SVHN"):
        take("SVHN", tmp_path / "svhn")
    (tmp_path / "m" / "MNIST" / "processed").mkdir(parents=True)
    for file in ("training.pt", "test.pt"):
        (tmp_path / "m" / "MNIST" / "processed" / file).write_bytes(pickle.dumps(_Runs()))
    with pytest.raises(DataError, match="Cannot read torchvision's MNIST"):
        take("MNIST", tmp_path / "m")
    assert not (tmp_path / "ran").exists()


def test_damaged_and_hostile_sets_end_in_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(name: str, root: Path, told: str) -> None:
        error = read(lambda: take(name, root), tmp_path)
        assert isinstance(error, DataError)
        assert re.search(told, str(error))

    food(tmp_path / "food", monkeypatch)
    meta = tmp_path / "food" / "food-101" / "meta" / "test.json"
    whole = json.loads(meta.read_text())
    Image.fromarray(digit(0, 0)).save(tmp_path / "secret.jpg")
    meta.write_text(json.dumps(whole | {"waffles": ["../../../secret"]}))
    refused("Food101", tmp_path / "food", r"to name only files below itself, but got '.*secret.jpg'")
    meta.write_text(json.dumps(whole | {"waffles": ["waffles/gone"]}))
    refused("Food101", tmp_path / "food", "Cannot read 'food-101/images/waffles/gone.jpg'")
    meta.write_text(json.dumps({"other": whole["waffles"]}))
    refused("Food101", tmp_path / "food", "same classes in each split")
    pets(tmp_path / "pets", monkeypatch)
    image = tmp_path / "pets" / "oxford-iiit-pet" / "images" / "Abyssinian_1.jpg"
    image.write_bytes(image.read_bytes()[:200])
    refused("OxfordIIITPet", tmp_path / "pets", "Cannot read image .*Abyssinian_1.jpg")
    assert take("OxfordIIITPet", tmp_path / "pets", skip_bad=True).manifest["counts"]["train"] == 11
    lines = tmp_path / "pets" / "oxford-iiit-pet" / "annotations" / "test.txt"
    lines.write_text(lines.read_text().replace("Abyssinian_6 1 ", "Abyssinian_6 9999999999 "))
    refused("OxfordIIITPet", tmp_path / "pets", "same classes|labels from 0 to")
    fashion(tmp_path / "f", monkeypatch)
    labels = tmp_path / "f" / "FashionMNIST" / "raw" / "train-labels-idx1-ubyte"
    whole_labels = labels.read_bytes()
    labels.write_bytes(whole_labels[:-1] + b"\xc8")
    refused("FashionMNIST", tmp_path / "f", "labels from 0 to 9 .* has 200")
    labels.write_bytes(whole_labels[:-3])
    refused("FashionMNIST", tmp_path / "f", "Cannot read torchvision's FashionMNIST")
    signs(tmp_path / "g", monkeypatch)
    table = tmp_path / "g" / "gtsrb" / "GT-final_test.csv"
    table.write_text(table.read_text().replace("16.ppm;1", f"16.ppm;{10**12}"))
    refused("GTSRB", tmp_path / "g", "images of each class, but one has the label")
