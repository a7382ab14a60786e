"""A checkpoint is good only when its manifest verifies."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import random
from pathlib import Path

import pytest
import torch
from pyarrow import fs

from mollify_core import checkpoint
from mollify_core.errors import CheckpointError

LOCAL = fs.LocalFileSystem()


def example(epoch: int = 7) -> checkpoint.Checkpoint:
    g = torch.Generator().manual_seed(epoch)
    model = {"w": torch.randn(4, 3, generator=g), "steps": torch.tensor(epoch), "half": torch.ones(2).bfloat16()}
    conv = torch.randn(2, 3, 4, 4, generator=g).to(memory_format=torch.channels_last)
    return checkpoint.Checkpoint(epoch, {**model, "c": conv}, {0: {"momentum_buffer": conv, "step": 3}}, {"recipe": {}})


def test_round_trip():
    saved = example()
    files = checkpoint.to_files(saved)
    assert list(files)[-1] == checkpoint.MANIFEST
    loaded = checkpoint.from_files(lambda name: files[name])
    assert (loaded.epoch, loaded.meta) == (7, {"recipe": {}})
    assert loaded.model.keys() == saved.model.keys()
    assert all(torch.equal(loaded.model[k], v) and loaded.model[k].dtype == v.dtype for k, v in saved.model.items())
    assert torch.equal(loaded.optimizer[0]["momentum_buffer"], saved.optimizer[0]["momentum_buffer"])
    assert loaded.optimizer[0]["step"] == 3


def test_a_checkpoint_from_before_averages_stays_readable_but_a_manifest_that_lost_a_file_does_not():
    files = checkpoint.to_files(example())
    manifest = json.loads(files[checkpoint.MANIFEST])
    del manifest["files"]["average.safetensors"]
    old = {**files, checkpoint.MANIFEST: json.dumps(manifest).encode()}
    assert checkpoint.from_files(lambda name: old[name]).average == {}
    del manifest["files"]["optimizer.safetensors"]
    torn = {**files, checkpoint.MANIFEST: json.dumps(manifest).encode()}
    with pytest.raises(CheckpointError, match="manifest"):
        checkpoint.from_files(lambda name: torn[name])


def test_every_flipped_bit_and_every_truncation_is_found():
    files = checkpoint.to_files(example())
    rand = random.Random(0)
    for _ in range(300):
        name = rand.choice(list(files))
        data = bytearray(files[name])
        if rand.random() < 0.5:
            data[rand.randrange(len(data))] ^= 1 << rand.randrange(8)
        else:
            del data[rand.randrange(len(data)) :]
        damaged = {**files, name: bytes(data)}
        with pytest.raises(CheckpointError):
            checkpoint.from_files(lambda n, damaged=damaged: damaged[n])


def test_newest_good_one_is_taken_and_a_bad_one_set_aside_once(tmp_path):
    folder = str(tmp_path)
    for epoch in (1, 2, 10):
        checkpoint.save(LOCAL, folder, example(epoch))
    (tmp_path / "epoch-0010" / "model.safetensors").write_bytes(b"torn")
    (tmp_path / "epoch-0011").mkdir()  # never finished: not a checkpoint, and nothing to warn of
    warnings: list[str] = []
    assert checkpoint.epochs(LOCAL, folder) == [1, 2, 10]
    assert checkpoint.load_newest(LOCAL, folder, warnings.append).epoch == 2
    assert len(warnings) == 1
    assert "epoch 10" in warnings[0]
    assert checkpoint.load_newest(LOCAL, folder, warnings.append).epoch == 2
    assert len(warnings) == 1
    assert (tmp_path / "bad-epoch-0010" / "model.safetensors").read_bytes() == b"torn"
    assert checkpoint.load_newest(LOCAL, str(tmp_path / "nothing")) is None


def test_a_failing_storage_does_not_condemn_a_checkpoint():
    def read(name: str) -> bytes:
        raise OSError("connection lost")

    with pytest.raises(OSError, match="connection lost"):
        checkpoint.from_files(read)


def middle(epoch: int, step: int) -> checkpoint.Checkpoint:
    losses = torch.rand(step, generator=torch.Generator().manual_seed(step)).tolist()
    return dataclasses.replace(example(epoch), progress=checkpoint.Progress(step, losses, 3.0, 1.5))


def test_in_mid_epoch(tmp_path):
    path = checkpoint.save(LOCAL, str(tmp_path), middle(7, 123))
    assert path == f"{tmp_path}/epoch-0007-step-000123"
    loaded = checkpoint.load(LOCAL, path)
    assert (loaded.epoch, loaded.step) == (7, 123)
    assert loaded.progress == middle(7, 123).progress
    for epoch in (6, 7, 8):
        checkpoint.save(LOCAL, str(tmp_path), example(epoch))
    checkpoint.save(LOCAL, str(tmp_path), middle(8, 1_234_567))
    assert checkpoint.positions(LOCAL, str(tmp_path)) == [(6, 0), (7, 0), (7, 123), (8, 0), (8, 1_234_567)]
    assert checkpoint.epochs(LOCAL, str(tmp_path)) == [6, 7, 8]
    (tmp_path / "epoch-0008-step-1234567" / "state.json").write_bytes(b"{}")
    warnings: list[str] = []
    newest = checkpoint.load_newest(LOCAL, str(tmp_path), warnings.append)
    assert (newest.epoch, newest.step) == (8, 0)
    assert "epoch 8, step 1234567" in warnings[0]


def test_keeps_the_newest(tmp_path):
    for state in (example(5), middle(5, 9), example(6), middle(6, 2)):
        checkpoint.save(LOCAL, str(tmp_path), state)
    (tmp_path / "epoch-0006-step-000002" / checkpoint.MANIFEST).unlink()  # killed on the way
    (tmp_path / "epoch-0009").mkdir()
    (tmp_path / "bad-epoch-0004").mkdir()
    checkpoint.keep_newest(LOCAL, str(tmp_path), 2)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["bad-epoch-0004", "epoch-0005-step-000009", "epoch-0006"]
    checkpoint.keep_newest(LOCAL, str(tmp_path / "nothing"), 2)


def test_it_is_on_the_disk_before_its_manifest_and_before_older_ones_go(tmp_path, monkeypatch):
    """Should the power go at any time, the newest manifest on the disk stands for files that are there too."""
    checkpoint.save(LOCAL, str(tmp_path), example(6))
    real, synced = os.fsync, []

    def fsync(handle: int) -> None:
        real(handle)
        synced.append(Path(os.readlink(f"/proc/self/fd/{handle}")).relative_to(tmp_path).as_posix())
        if not (tmp_path / "epoch-0007" / checkpoint.MANIFEST).exists():
            synced[-1] += " without manifest"

    monkeypatch.setattr(os, "fsync", fsync)
    checkpoint.save(LOCAL, str(tmp_path), example(7))
    assert set(synced[:4]) == {f"epoch-0007/{name} without manifest" for name in checkpoint._FILES}
    assert synced[4:] == [f"epoch-0007/{checkpoint.MANIFEST}", "epoch-0007", "."]
    assert checkpoint.epochs(LOCAL, str(tmp_path)) == [6, 7]


def test_written_before_there_were_steps_it_is_read():
    files = checkpoint.to_files(example())
    state = json.loads(files["state.json"])
    del state["progress"]
    files["state.json"] = json.dumps(state).encode()
    manifest = json.loads(files[checkpoint.MANIFEST])
    digest = hashlib.sha256(files["state.json"]).hexdigest()
    manifest["files"]["state.json"] = {"size": len(files["state.json"]), "sha256": digest}
    files[checkpoint.MANIFEST] = json.dumps(manifest).encode()
    loaded = checkpoint.from_files(lambda name: files[name])
    assert (loaded.epoch, loaded.step, loaded.progress) == (7, 0, None)


def test_on_a_full_disk_nothing_half_written_stays(small_disk):
    checkpoint.save(LOCAL, str(small_disk), example(1))
    big = dataclasses.replace(example(2), model={"w": torch.zeros(2**20)})
    with pytest.raises(OSError, match="No space left on device"):
        checkpoint.save(LOCAL, str(small_disk), big)
    assert [p.name for p in small_disk.iterdir()] == ["epoch-0001"]
    assert checkpoint.load_newest(LOCAL, str(small_disk)).epoch == 1


def test_remove(tmp_path):
    path = checkpoint.save(LOCAL, str(tmp_path), example())
    checkpoint.remove(LOCAL, path)
    checkpoint.remove(LOCAL, path)
    assert list(tmp_path.iterdir()) == []
