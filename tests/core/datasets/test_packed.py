"""Data sets packed into Arrow files, Parquet files and archives: the same images as in folders, by the same reader."""

from __future__ import annotations

import csv
import io
import json
import re
import struct
import tarfile
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from hostile import read
from mollify_core.datasets import Prepared, prepare, tables
from mollify_core.datasets.about import described, sides
from mollify_core.datasets.folder import listed
from mollify_core.datasets.listing import Listed
from mollify_core.errors import DataError
from mollify_core.recipe import Recipe
from mollify_core.training_data import judging_of, split_rows

SIDE = 8
NAMES = ["ant", "bee"]
COUNTS = {"train": 6, "validation": 2, "test": 3}
Sample = tuple[bytes, Any]
"""A file and its label."""


def image(*seed: int, suffix: str = "PNG") -> bytes:
    held = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (SIDE + 3, SIDE, 3), np.uint8)).save(held, suffix)
    return held.getvalue()


def samples(counts: dict[str, int] = COUNTS) -> dict[str, list[Sample]]:
    """Split -> its images, class by class as a folder has them."""
    return {
        split: [(image(number, label, i), label) for label in range(2) for i in range(count)]
        for number, (split, count) in enumerate(counts.items())
    }


def folders(root: Path, parts: dict[str, list[Sample]]) -> Path:
    for split, part in parts.items():
        for number, (content, label) in enumerate(part):
            path = root / split / NAMES[label] / f"{number:03}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
    return root


def table(part: Sequence[Sample], kind: pa.DataType | None = None) -> pa.Table:
    """As `datasets` writes images and their ClassLabel; columns before them do not matter."""
    features = {"id": {"dtype": "int64", "_type": "Value"}, "image": {"_type": "Image"}}
    features["label"] = {"names": NAMES, "_type": "ClassLabel"}
    of = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    columns = {
        "id": pa.array(range(len(part)), pa.int64()),
        "image": pa.array([{"bytes": content, "path": "../../no.png"} for content, _ in part], of),
        "label": pa.array([label for _, label in part], kind or pa.int64()),
    }
    known = json.dumps({"info": {"features": features}})
    return pa.table(columns).replace_schema_metadata({"huggingface": known})


def renamed(whole: pa.Table) -> pa.Table:
    known = whole.schema.metadata[b"huggingface"].replace(b"bee", b"wasp")
    return whole.replace_schema_metadata({"huggingface": known})


def arrow(folder: Path, whole: pa.Table, files: int = 1) -> None:
    """One saved dataset, in so many files of some batches each."""
    folder.mkdir(parents=True, exist_ok=True)
    names = [f"data-{i:05}-of-{files:05}.arrow" for i in range(files)]
    ends = np.linspace(0, len(whole), files + 1).astype(int)
    for name, start, end in zip(names, ends[:-1], ends[1:], strict=True):
        with pa.OSFile(str(folder / name), "wb") as file, pa.ipc.new_stream(file, whole.schema) as writer:
            writer.write_table(whole.slice(start, end - start), max_chunksize=2)
    (folder / "state.json").write_text(json.dumps({"_data_files": [{"filename": name} for name in names]}))
    features = json.loads(whole.schema.metadata[b"huggingface"])["info"]["features"] if whole.schema.metadata else {}
    (folder / "dataset_info.json").write_text(json.dumps({"features": features, "citation": ""}))


def saved(root: Path, parts: dict[str, list[Sample]]) -> Path:
    for split, part in parts.items():
        arrow(root / split, table(part), 2)
    (root / "dataset_dict.json").write_text(json.dumps({"splits": list(parts)}))
    return root


def parquets(root: Path, parts: dict[str, list[Sample]]) -> Path:
    (root / "data").mkdir(parents=True)
    for split, part in parts.items():
        for i in range(2):
            half = part[i * len(part) // 2 : (i + 1) * len(part) // 2]
            pq.write_table(table(half), root / "data" / f"{split}-{i:05}-of-00002.parquet", row_group_size=2)
    (root / "README.md").write_text("---\n")
    return root


def archive(path: Path, members: Sequence[tuple[str, bytes]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, content in members:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))


def archives(root: Path, parts: dict[str, list[Sample]]) -> Path:
    for split, part in parts.items():
        members = []
        for number, (content, label) in enumerate(part):
            members += [(f"s/{number:05}.PNG", content), (f"s/{number:05}.cls", NAMES[label].encode())]
            members += [(f"s/{number:05}.json", b"{}")]
        archive(root / f"{split}-000000.tar", members[:6])
        archive(root / f"{split}-000001.tar", members[6:])
    return root


def take(folder: Path, **options: Any) -> Prepared:
    return prepare(str(folder), image_size=SIDE, cache_dir=folder.parent / "cache", **options)


FORMS = {
    "a Hugging Face dataset saved to disk": saved,
    "6 Parquet files": parquets,
    "a WebDataset of 6 archives": archives,
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("feed", ["resident", "stream"])
def test_the_same_images_in_another_form_are_the_same_data(
    form: str, feed: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tables, "_KEPT", 1)  # groups of rows are read again and again
    plain = take(folders(tmp_path / "plain", samples()), feed=feed)
    prepared = take(FORMS[form](tmp_path / "packed", samples()), feed=feed)
    assert prepared.fingerprint == plain.fingerprint
    assert prepared.manifest["class_names"] == NAMES
    assert prepared.manifest["counts"] == {"train": 16, "test": 6, "validation": 4}
    assert described(prepared)["read as"] == form
    assert "fifth" not in described(prepared)["splits"]


@pytest.mark.parametrize("form", FORMS)
def test_splits_that_are_not_there(form: str, tmp_path: Path) -> None:
    """Validation beside train alone tests, and of train alone a fifth does."""
    two = take(FORMS[form](tmp_path / "two", samples({"train": 6, "validation": 2})))
    assert two.manifest["counts"] == {"train": 12, "test": 4}
    one = take(FORMS[form](tmp_path / "one", samples({"train": 10})))
    assert one.manifest["counts"] == {"train": 16, "test": 4}
    assert "a fifth of each class is for testing, since there is no such split" in described(one)["splits"]


@pytest.mark.parametrize("form", FORMS)
def test_bad_images_backgrounds_and_exif_are_as_in_folders(form: str, tmp_path: Path) -> None:
    parts = samples()
    content, label = parts["train"][3]
    parts["train"][3] = content[:60], label
    whole = FORMS[form](tmp_path / "bad", parts)
    with pytest.raises(DataError, match=r"Cannot read image '.*bad/.*--on-bad-image skip leaves such images out"):
        take(whole)
    left = take(whole, skip_bad=True)
    assert left.manifest["counts"]["train"] == 15
    assert "1 that cannot be read" in described(left)["left out"]
    held = io.BytesIO()
    clear, turned = Image.new("RGBA", (9, 5), (0, 0, 0, 0)), Image.new("RGB", (9, 5), "red")
    clear.save(held, "PNG")
    parts["train"][3] = held.getvalue(), label
    exif, held = turned.getexif(), io.BytesIO()
    exif[0x112] = 6
    turned.save(held, "PNG", exif=exif)
    parts["train"][4] = held.getvalue(), label
    plain = take(folders(tmp_path / "plain", parts), background="black")
    assert take(FORMS[form](tmp_path / "own", parts), background="black").fingerprint == plain.fingerprint


def test_one_saved_dataset_and_labels_of_every_kind(tmp_path: Path) -> None:
    part = samples({"train": 10})["train"]
    arrow(tmp_path / "one", table(part), 3)
    assert take(tmp_path / "one").manifest["class_names"] == NAMES
    kinds: dict[str, tuple[pa.Array, list[str]]] = {
        "bytes alone, numbers without names": (pa.array([10 * label for _, label in part]), ["0", "10"]),
        "names": (pa.array([NAMES[1 - label] for _, label in part]), NAMES),
        "dictionary": (pa.array([NAMES[label] for _, label in part]).dictionary_encode(), NAMES),
        "truth": (pa.array([label > 0 for _, label in part]), ["0", "1"]),
    }
    for kind, (labels, names) in kinds.items():
        folder = tmp_path / kind
        folder.mkdir()
        columns = {"img": pa.array([content for content, _ in part], pa.large_binary()), "labels": labels}
        pq.write_table(pa.table(columns), folder / "all.parquet")
        assert take(folder).manifest["class_names"] == names

    assert len({take(tmp_path / kind).fingerprint for kind in list(kinds)[::2]}) == 1


def test_other_labels_or_names_of_the_same_images_are_other_data(tmp_path: Path) -> None:
    """The cache is found by the files' content, in which these do not stand."""
    part = samples({"train": 10})["train"]
    arrow(tmp_path / "d", table(part))
    first = take(tmp_path / "d")
    arrow(tmp_path / "d", table([(content, 1 - label) for content, label in part]))
    second = take(tmp_path / "d")
    assert second.fingerprint != first.fingerprint
    arrow(tmp_path / "d", renamed(table(part)))
    assert take(tmp_path / "d").manifest["class_names"] == ["ant", "wasp"]


def test_groups_name_images_as_messages_do(tmp_path: Path) -> None:
    packed = parquets(tmp_path / "packed", samples({"train": 20}))
    names = listed(packed).files.names
    assert "data/train-00000-of-00002.parquet/7" in names
    with open(tmp_path / "g.csv", "w", newline="") as file:
        csv.writer(file).writerows([("image", "group"), *((name, i // 2) for i, name in enumerate(names))])
    prepared = take(packed, groups=tmp_path / "g.csv")
    recipe = Recipe().with_(dataset="packed", image_size=SIDE, validation_fraction=0.3, judging_fraction=0.5)
    labels = prepared.labels("train")
    fit, validation = split_rows(labels, recipe, prepared)
    assert "20 of " in sides(prepared, fit, validation, judging_of(labels, validation, recipe, prepared))


def test_folders_of_images_are_taken_for_nothing_else(tmp_path: Path) -> None:
    plain = folders(tmp_path / "plain", samples())
    before = take(plain).fingerprint
    pq.write_table(pa.table({"image": [""], "group": [1]}), plain / "groups.parquet")
    archive(plain / "train" / "backup.tar", [("x", b"")])
    archive(plain / "train" / "ant" / "backup.tar", [("x", b"")])
    assert take(plain).fingerprint == before
    (tmp_path / "by folder").mkdir()
    for split, part in samples().items():
        (tmp_path / "by folder" / split).mkdir()
        pq.write_table(table(part), tmp_path / "by folder" / split / "0000.parquet")
    assert take(tmp_path / "by folder").manifest["counts"] == {"train": 16, "test": 6, "validation": 4}


def huge() -> bytes:
    """A PNG of a few bytes whose header says that it has 60,000 x 60,000 pixels."""
    header = b"IHDR" + struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    chunks = struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header)) + struct.pack(">I", 9) + b"IDAT"
    return b"\x89PNG\r\n\x1a\n" + chunks


def changed(part: list[Sample], content: bytes | None, label: Any = 0) -> list[Sample]:
    return [*part[:-1], (content, label)]  # type: ignore[list-item]


OUTSIDE, INDICES = '{"_data_files": [{"filename": "../x.arrow"}]}', '{"_indices_data_files": [{"filename": "i"}]}'
PART = samples({"train": 10})["train"]
HOSTILE: dict[str, tuple[Callable[[Path], object], str]] = {
    "arrow cut": (lambda d: (arrow(d, table(PART)), cut(d / "data-00000-of-00001.arrow")), "Cannot read '.*arrow'"),
    "arrow empty": (
        lambda d: (arrow(d, table(PART)), (d / "data-00000-of-00001.arrow").write_bytes(b"")),
        "Cannot read '.*arrow'",
    ),
    "arrow gone": (
        lambda d: (arrow(d, table(PART)), (d / "data-00000-of-00001.arrow").unlink()),
        "Cannot read '.*arrow': No such file",
    ),
    "arrow outside": (
        lambda d: (
            arrow(d, table(PART)),
            (d / "state.json").write_text('{"_data_files": [{"filename": "../x.arrow"}]}'),
        ),
        r"to name only what is in it, but got '../x.arrow'",
    ),
    "splits outside": (
        lambda d: (saved(d, samples()), (d / "dataset_dict.json").write_text('{"splits": ["../train", "test"]}')),
        r"to name only what is in it, but got '../train'",
    ),
    "splits unknown": (
        lambda d: (saved(d, samples()), (d / "dataset_dict.json").write_text('{"splits": ["a", "b"]}')),
        "to be train, test and validation, but got 'a', 'b'",
    ),
    "state": (lambda d: (arrow(d, table(PART)), (d / "state.json").write_text("[1")), "Cannot read '.*state.json'"),
    "indices": (
        lambda d: (
            arrow(d, table(PART)),
            (d / "state.json").write_text('{"_indices_data_files": [{"filename": "i"}]}'),
        ),
        "flatten_indices",
    ),
    "columns": (
        lambda d: pq.write_table(pa.table({"picture": [b""], "label": [1]}), made(d) / "a.parquet"),
        "column image or img of images, but its columns are 'picture', 'label'",
    ),
    "no label": (
        lambda d: pq.write_table(pa.table({"image": [b""]}), made(d) / "a.parquet"),
        "column label or labels of labels",
    ),
    "image is text": (
        lambda d: pq.write_table(pa.table({"image": ["a.png"], "label": [1]}), made(d) / "a.parquet"),
        "to hold the bytes of images, but its type is 'string'",
    ),
    "label is float": (
        lambda d: pq.write_table(pa.table({"image": [b""], "label": [1.5]}), made(d) / "a.parquet"),
        "numbers or names of classes, but its type is 'double'",
    ),
    "label missing": (lambda d: arrow(d, table(changed(PART, PART[0][0], None))), "1 have none"),
    "label above": (lambda d: arrow(d, table(changed(PART, PART[0][0], 2))), r"labels from 0 to 1 .*/19' has 2"),
    "label below": (lambda d: arrow(d, table(changed(PART, PART[0][0], -1))), r"labels from 0 to 1 .*/19' has -1"),
    "label below, no names": (
        lambda d: pq.write_table(pa.table({"image": [b"", b""], "label": [-1, 2]}), made(d) / "a.parquet"),
        "Expected labels from 0 on",
    ),
    "one class": (
        lambda d: pq.write_table(pa.table({"image": [b""], "label": [3]}), made(d) / "a.parquet"),
        "but got 1",
    ),
    "no rows": (lambda d: arrow(d, table([])), "but train has none"),
    "no bytes": (
        lambda d: arrow(d, table(changed(PART, None))),
        "Expected the bytes of an image in .*/19' .* but got none",
    ),
    "huge image": (
        lambda d: arrow(d, table(changed(PART, huge()))),
        r"at most 89,478,485 pixels, but got 3,600,000,000",
    ),
    "parquet cut": (
        lambda d: (pq.write_table(table(PART), made(d) / "a.parquet"), cut(d / "a.parquet")),
        "Cannot read '.*a.parquet'",
    ),
    "some names": (
        lambda d: [pq.write_table(table(PART), made(d) / f"{name}.parquet") for name in ("train-0", "more")],
        "named after its split, as train-00000.parquet and test-00000.parquet, but got 'more.parquet'",
    ),
    "no train": (
        lambda d: [pq.write_table(table(PART), made(d) / f"{name}.parquet") for name in ("val-0", "test-0")],
        "named after its split",
    ),
    "other classes": (
        lambda d: (saved(d, samples()), arrow(d / "test", renamed(table(PART)))),
        "same classes in all files",
    ),
    **{
        f"tar cut at {at}": (
            lambda d, at=at: (archives(d, {"train": PART}), cut(d / "train-000001.tar", at)),
            "whole uncompressed tar archive|be whole, but it ends inside",
        )
        for at in (300, 700, 1024, 1100, 2048, 2200)
    },
    "tar compressed": (
        lambda d: tarfile.open(made(d) / "a.tar", "w:gz").close(),
        "whole uncompressed tar archive",
    ),
    "tar outside": (lambda d: archive(d / "a.tar", [("../a.png", b""), ("../a.cls", b"1")]), "only files below itself"),
    "tar absolute": (lambda d: archive(d / "a.tar", [("/a.png", b""), ("/a.cls", b"1")]), "only files below itself"),
    "tar twice": (
        lambda d: archive(d / "a.tar", [("a.png", b""), ("a.jpg", b""), ("a.cls", b"1")]),
        "one image of each key .* but got 'a.jpg' and 'a.png'",
    ),
    "tar no pairs": (lambda d: archive(d / "a.tar", [("a.png", b""), ("b.cls", b"1")]), "but got none"),
    "tar empty label": (lambda d: archive(d / "a.tar", [("a.png", b""), ("a.cls", b" ")]), "but it is empty"),
    "tar long label": (lambda d: archive(d / "a.tar", [("a.png", b""), ("a.cls", b"1" * 2000)]), "2,000 bytes"),
    "tar mixed labels": (
        lambda d: archive(d / "a.tar", [("a.png", b""), ("a.cls", b"1"), ("b.png", b""), ("b.cls", b"ant")]),
        "all numbers or all names, but got '?1'? and 'ant'",
    ),
}


def made(folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    return folder


def cut(path: Path, at: int | None = None) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: at or len(content) * 2 // 3])


def written(path: Path, text: str) -> None:
    path.write_text(text)


@pytest.mark.parametrize("what", HOSTILE)
def test_hostile_and_damaged_ones_end_in_one_sentence(what: str, tmp_path: Path) -> None:
    make, told = HOSTILE[what]
    make(tmp_path / "d")
    error = read(lambda: take(tmp_path / "d"), tmp_path)
    assert isinstance(error, DataError)
    assert re.search(told, str(error))


def test_links_in_archives_are_not_followed(tmp_path: Path) -> None:
    (tmp_path / "secret.png").write_bytes(PART[0][0])
    archives(tmp_path / "d", {"train": PART})
    with tarfile.open(tmp_path / "d" / "train-000002.tar", "w") as tar:
        for kind, name in ((tarfile.SYMTYPE, "x"), (tarfile.LNKTYPE, "y")):
            link = tarfile.TarInfo(f"{name}.png")
            link.type, link.linkname = kind, str(tmp_path / "secret.png")
            tar.addfile(link)
            label = tarfile.TarInfo(f"{name}.cls")
            label.size = 3
            tar.addfile(label, io.BytesIO(b"ant"))
    prepared = take(tmp_path / "d")
    assert sum(prepared.manifest["counts"].values()) == 20
    assert "2 labels without an image" in described(prepared)["left out"]


def test_bytes_changed_anywhere_end_in_a_sentence_or_in_images(tmp_path: Path) -> None:
    drawn, sentences = np.random.default_rng(0), 0
    for form in (lambda d: arrow(d, table(PART)), lambda d: pq.write_table(table(PART), made(d) / "a.parquet")):
        folder = tmp_path / f"{drawn.integers(10**9)}"
        form(folder)
        (target,) = [path for path in folder.iterdir() if path.suffix in (".arrow", ".parquet")]
        whole = target.read_bytes()
        for _ in range(100):
            content = np.frombuffer(whole, np.uint8).copy()
            places = drawn.integers(0, drawn.choice([len(content), 2000]), 4)
            content[places if drawn.random() < 0.5 else len(content) - 1 - places] = drawn.integers(0, 256, 4)
            target.write_bytes(content.tobytes())
            found: list[Listed] = []
            refused = read(lambda folder=folder, found=found: found.append(listed(folder).settled()), tmp_path)
            sentences += refused is not None
            for name in found[0].files.names if found else ():
                read(lambda found=found, name=name: found[0].files.read(name), tmp_path)
    assert sentences > 50
