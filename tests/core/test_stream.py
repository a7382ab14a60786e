"""Streamed images: the same pixels as resident ones, an order that is global, and a training that nobody can tell apart
from one that was never stopped."""

from __future__ import annotations

import dataclasses
import io
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from mollify_core import amount
from mollify_core.corruptions.heldout import HELDOUT, SEVERITIES, corrupt
from mollify_core.datasets import prepare, shards
from mollify_core.datasets.files import Files
from mollify_core.errors import CheckpointError, ConfigError, DataError, Preempted
from mollify_core.measure.validation import ValidationSet
from mollify_core.recipe import Recipe
from mollify_core.steps import Steps
from mollify_core.training import Training
from mollify_core.training_data import split_rows, training_data

RECIPE = Recipe().with_(
    dataset="digits", network="resnet8", epochs=3, batch_size=48, lr=0.05, augment=("crop",), precision="float32"
)


@pytest.fixture(scope="module", autouse=True)
def small_groups():
    """Groups of 64 images of 32 pixels, three in a window, so that digits have many."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shards, "GROUP_BYTES", 64 * 3 * 32**2)
        patch.setattr(shards, "GROUPS", 3)
        yield


@pytest.fixture(scope="module")
def streamed(small_groups, tmp_path_factory):
    return prepare("digits", cache_dir=tmp_path_factory.mktemp("cache"), feed="stream")


@pytest.fixture
def photographs(tmp_path) -> Path:
    """Two classes of 30 images in JPEG, PNG and, with an alpha channel, smaller and larger than 16 pixels a side."""
    generator = np.random.default_rng(0)
    for name in ("a", "b"):
        (tmp_path / "own" / name).mkdir(parents=True)
        for i in range(30):
            side, mode = (12, 90)[i % 2], ("RGB", "RGBA")[i % 3 == 0]
            pixels = generator.integers(0, 256, (side, side + i, len(mode)), dtype=np.uint8)
            pixels[: side // 2] = 7 * i  # flat areas, which files hold in few bytes
            kind = "png" if mode == "RGBA" or i % 5 else "jpg"
            Image.fromarray(pixels, mode).save(tmp_path / "own" / name / f"{i:02}.{kind}")
    return tmp_path / "own"


def test_shards_hold_the_same_images_as_data_in_memory(digits, streamed):
    assert streamed.fingerprint == digits.fingerprint
    told = [{k: v for k, v in p.manifest.items() if k not in ("files", "twins", "shards")} for p in (digits, streamed)]
    assert told[0] == told[1]
    for split in ("train", "test"):
        one, other = digits.tensors(split), streamed.tensors(split)
        assert torch.equal(one.images, other.images)
        assert torch.equal(one.labels, other.labels)
        assert np.array_equal(streamed.labels(split), one.labels.numpy())
    rows = np.array([5, 900, 5, 3])
    assert torch.equal(streamed.select("train", rows).images, digits.tensors("train").images[rows])


def test_images_are_kept_as_they_came_where_that_is_smaller(photographs, tmp_path):
    def made(feed: str):
        return prepare(str(photographs), image_size=16, background="#0000ff", cache_dir=tmp_path / feed, feed=feed)

    resident, streamed = made("resident"), made("stream")
    assert streamed.fingerprint == resident.fingerprint
    assert torch.equal(streamed.tensors("train").images, resident.tensors("train").images)
    read = streamed.shards("train")
    kept = read.read(np.arange(48))["image"].to_pylist()
    raw = [len(image) == 3 * 16**2 for image in kept]
    assert 0 < sum(raw) < len(raw)
    assert max(map(len, kept)) == 3 * 16**2
    formats = {Image.open(io.BytesIO(image)).format for image, is_raw in zip(kept, raw, strict=True) if not is_raw}
    assert formats == {"PNG", "JPEG"} or formats == {"PNG"}


def test_an_image_that_cannot_be_read_stops_or_is_left_out(photographs, tmp_path):
    (photographs / "a" / "04.png").write_bytes(b"\x89PNG\r\n\x1a\n broken")
    with pytest.raises(DataError, match=r"--on-bad-image skip"):
        prepare(str(photographs), image_size=16, cache_dir=tmp_path / "stop", feed="stream")
    both = [
        prepare(str(photographs), image_size=16, cache_dir=tmp_path / feed, feed=feed, skip_bad=True)
        for feed in ("resident", "stream")
    ]
    assert both[0].fingerprint == both[1].fingerprint
    assert both[0].manifest["unreadable"] == both[1].manifest["unreadable"] != {}
    assert both[1].spec.source.listed.left_out["that cannot be read"] == 1


def test_a_folder_that_is_streamed_is_read_once(photographs, tmp_path, monkeypatch):
    def prepared():
        return prepare(str(photographs), image_size=16, cache_dir=tmp_path / "cache", feed="stream")

    for path in photographs.rglob("*.*"):
        os.utime(path, (10**9, 10**9))
    monkeypatch.setattr("mollify_core.datasets.folder._SETTLED", 0)
    first = prepared()
    with monkeypatch.context() as patch:
        patch.setattr(Files, "checksum", lambda *_: pytest.fail("it was read again"))
        assert prepared().folder == first.folder
    path = next((photographs / "a").glob("*.png"))
    shutil.copy(next((photographs / "b").glob("*.png")), path)
    os.utime(path, (10**9, 10**9))  # the time of change cannot be set
    assert prepared().fingerprint != first.fingerprint
    for kept in (tmp_path / "cache").glob(".checksum-*"):
        kept.write_text("../../etc")
    assert prepared().fingerprint != first.fingerprint


def test_auto_streams_what_would_take_a_quarter_of_the_memory(photographs, tmp_path, monkeypatch):
    def streams(memory: int, feed: str = "auto") -> bool:
        monkeypatch.setattr("os.sysconf", lambda name: memory if name == "SC_PHYS_PAGES" else 1)
        return prepare(str(photographs), image_size=16, cache_dir=tmp_path / "c", feed=feed).spec.streamed

    need = 60 * 3 * 16**2
    assert not streams(4 * need)
    assert streams(4 * need - 4)
    assert not streams(4 * need - 4, "resident")
    with pytest.raises(ConfigError, match="--feed stream needs no such memory"):
        streams(need - 1, "resident")


@pytest.mark.parametrize(("size", "batch"), [(48, 48), (50, 64), (7, 8)])
def test_each_step_has_the_same_images_for_any_number_of_workers(size, batch, streamed):
    data = training_data(RECIPE, streamed)
    seen = {}
    for world in (1, 2, 3):
        steps = Steps(len(data.fit), size, world)
        shares = [list(data.fit.batches(1, 1, 0, steps, rank)) for rank in range(world)]
        seen[world] = [
            sorted(
                image.numpy().tobytes()
                for rank in range(1 if steps.whole(step) else world)
                for image in shares[rank][step].images
            )
            for step in range(len(steps))
        ]
        assert all(len(s) == len(steps) for s in shares)
    assert seen[1] == seen[2] == seen[3]
    everything = sorted(image.numpy().tobytes() for image in streamed.tensors("train").images[data_rows(streamed)])
    assert sorted(image for step in seen[1] for image in step) == everything


def data_rows(prepared) -> np.ndarray:
    return split_rows(prepared.labels("train"), RECIPE, prepared)[0]


def test_an_order_is_a_function_of_seed_and_epoch_alone(streamed):
    fit = training_data(RECIPE, streamed).fit

    def order(seed: int, epoch: int) -> np.ndarray:
        return np.concatenate([window.places for window in fit.windows(seed, epoch)])

    assert np.array_equal(order(1, 0), order(1, 0))
    different = [order(1, 0), order(1, 1), order(2, 0)]
    assert not any(np.array_equal(different[i], different[j]) for i, j in ((0, 1), (0, 2), (1, 2)))
    assert all(np.array_equal(np.sort(places), np.sort(fit.places)) for places in different)
    labels = streamed.labels("train")[np.argsort(streamed.places("train"))]
    for window in fit.windows(1, 0):  # every window is a fair sample of the classes
        assert np.bincount(labels[window.places], minlength=10).min() > 0.3 * len(window.places) / 10


def test_validation_is_what_it_is_in_memory(streamed):
    recipe = RECIPE.with_(judging_fraction=0.5, validation_fraction=0.45)
    held_out = training_data(recipe, streamed).validation
    assert len(held_out) > 2 * len(held_out.first) > 100
    rows = np.argsort(streamed.places("train"))[held_out.places]
    images = streamed.select("train", rows)
    assert torch.equal(images.labels, held_out.labels)
    cells = [images.images, *(corrupt(images.images, n, s, seed=0) for n in HELDOUT for s in SEVERITIES)]
    resident = ValidationSet(torch.stack(cells), images.labels, held_out.choosing)
    weights = torch.randn(3 * 32**2, 10, generator=torch.Generator().manual_seed(0)) / 1000

    def forward(shown: torch.Tensor) -> torch.Tensor:
        return shown.flatten(1).float() @ weights

    expected = resident.measure(forward, range(len(resident)))
    torch.testing.assert_close(held_out.measure(forward, range(len(held_out))), expected)
    two = sum(held_out.measure(forward, range(rank, len(held_out), 2)) for rank in range(2))
    torch.testing.assert_close(two, expected)
    k = len(held_out.first)
    torch.testing.assert_close(held_out.measure(forward, range(k))[:, :k], expected[:, :k])


def test_stopped_anywhere_it_goes_on_with_the_same_image(streamed):
    recipe = RECIPE.with_(train_fraction=0.15, batch_size=32, epochs=2, validation_fraction=0.05)
    data = training_data(recipe, streamed)
    whole = Training(recipe, data)
    expected = [epoch.metrics["train_loss"] for epoch in whole.run()]
    state = None
    for stop in (3, 4):
        part = Training(recipe, training_data(recipe, streamed), state=state)
        count = iter(range(10**9))
        with pytest.raises(Preempted):
            list(part.run(lambda stop=stop, count=count: next(count) == stop))
        state = part.state()
    last = Training(recipe, data, state=state)
    losses = [epoch.metrics["train_loss"] for epoch in last.run()]
    assert losses == expected[-len(losses) :]
    assert all(torch.equal(v, last.network.state_dict()[k]) for k, v in whole.network.state_dict().items())
    assert last.final()[0] == whole.final()[0]


def test_the_feeds_do_not_mix(digits, streamed):
    state = Training(RECIPE, training_data(RECIPE, streamed)).state()
    with pytest.raises(CheckpointError, match="--feed stream"):
        Training(RECIPE, training_data(RECIPE, digits), state=state)
    recipe = RECIPE.with_(balance="sampling")
    with pytest.raises(ConfigError, match="--feed resident"):
        list(Training(recipe, training_data(recipe, streamed)).run())


def test_labels_uncoupled_from_streamed_images(digits, streamed, monkeypatch):
    recipe = RECIPE.with_(method="matching", label="uncoupled", network="resnet8")
    monkeypatch.setattr(amount, "IMAGES", 512)
    means = [Training(recipe, training_data(recipe, data))._uncoupled for data in (digits, streamed)]
    assert means[1] == pytest.approx(means[0], abs=0.03)


def test_a_training_for_use_takes_all_images(streamed):
    data = training_data(RECIPE, streamed, final=True)
    assert data.validation is None
    assert len(data.fit) == streamed.manifest["counts"]["train"]
    steps = Steps(len(data.fit), 100, 1)
    assert sum(map(len, data.fit.batches(0, 1, 0, steps, 0))) == len(data.fit)


@pytest.mark.parametrize("what", ["an image", "a shard", "gone", "the index", "other labels"])
def test_damaged_shards_are_one_sentence(what, streamed, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(streamed.folder, folder)
    damaged = dataclasses.replace(streamed, folder=folder)
    path = folder / ("train.parquet" if what == "the index" else "train-00000.parquet")
    data = bytearray(path.read_bytes())
    if what == "gone":
        path.unlink()
    elif what == "other labels":
        path.write_bytes((folder / "train-00001.parquet").read_bytes()[: len(data) // 2])
    else:
        data[len(data) // 2 if what != "a shard" else -6] ^= 0xFF
        path.write_bytes(data)
    with pytest.raises(DataError, match=r"^Cannot read '.*train.*parquet'; delete its folder"):
        list(training_data(RECIPE, damaged).fit.batches(0, 1, 0, Steps(1000, 10, 1), 0))


@pytest.mark.parametrize("left", [1, 3])
def test_every_worker_gets_a_last_step_that_is_too_small_to_share(left, streamed):
    fit = training_data(RECIPE, streamed).fit

    def last(world: int, rank: int, first: int) -> torch.Tensor:
        return list(fit.batches(0, 1, 0, Steps(len(fit), len(fit) - left, world), rank, first))[-1].images

    expected = last(1, 0, 0)
    assert len(expected) == left
    for rank in range(4):
        assert torch.equal(last(4, rank, 0), expected)
        assert torch.equal(last(4, rank, 1), expected)


def test_the_next_epoch_is_begun_before_this_one_ends(streamed):
    fit = training_data(RECIPE, streamed).fit
    steps = Steps(len(fit), 48, 1)
    for _ in fit.batches(0, 2, 0, steps, 0):
        pass
    assert [key[1] for key in fit._begun] == [1]
    begun = fit._begun[0, 1, 0, 0]
    batches = fit.batches(0, 2, 1, steps, 0)
    next(batches)
    assert not fit._begun
    batches.close()
    assert not begun._thread.is_alive()
    fit.close()
