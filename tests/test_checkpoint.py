"""A checkpoint is good only when its manifest verifies."""

from __future__ import annotations

import random

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
        try:
            loaded = checkpoint.from_files(lambda n, damaged=damaged: damaged[n])
        except CheckpointError:
            continue
        # The manifest also holds sizes and white space that nothing depends on; what is loaded must then be right.
        assert name == checkpoint.MANIFEST
        assert all(torch.equal(loaded.model[k], v) for k, v in example().model.items())


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


def test_remove(tmp_path):
    path = checkpoint.save(LOCAL, str(tmp_path), example())
    checkpoint.remove(LOCAL, path)
    checkpoint.remove(LOCAL, path)
    assert list(tmp_path.iterdir()) == []
