"""Files damaged, torn or behind: found, said once, and never trusted."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from pyarrow import fs

from harness import SHORT, Sweep, in_trial
from mollify_core import checkpoint

LOCAL = fs.LocalFileSystem()
Make = Callable[..., Sweep]
slow = [pytest.mark.slow, pytest.mark.timeout(7200)]


def state(epoch: int) -> checkpoint.Checkpoint:
    g = torch.Generator().manual_seed(epoch)
    model = {"conv": torch.randn(4, 3, 3, 3, generator=g), "count": torch.tensor(epoch)}
    momentum = {0: {"momentum_buffer": torch.randn(4, 3, 3, 3, generator=g), "step": epoch}}
    return checkpoint.Checkpoint(
        epoch, model, momentum, {"recipe": {"seed": 0}, "fingerprint": "f"}, {"a": model["conv"]}
    )


def test_a_thousand_random_flips_of_the_newest_checkpoint(tmp_path):
    """Set-up: a folder with two checkpoints; one random bit of the newer one is flipped, or a file of it is cut.

    900 flips anywhere in its bytes and 100 truncations, one at a time. Minimum time: 2 s.

    1. Every one of them is detected, whichever file it hits.
    2. The checkpoint before is loaded.
    3. The damaged one is set aside, and said once: the next look is silent.
    """
    for epoch in (6, 7):
        checkpoint.save(LOCAL, str(tmp_path), state(epoch))
    rand = random.Random(0)
    newest, aside = tmp_path / "epoch-0007", tmp_path / "bad-epoch-0007"
    files = {path.name: path.read_bytes() for path in newest.iterdir()}
    for number in range(1000):
        (name,) = rand.choices(list(files), [len(data) for data in files.values()])
        data = bytearray(files[name])
        place = rand.randrange(len(data))
        if number % 10:
            data[place] ^= 1 << rand.randrange(8)
        else:
            del data[place:]
        (newest / name).write_bytes(data)
        what = f"{name}, byte {place} of {len(files[name])}"
        warnings: list[str] = []
        for _ in range(2):
            loaded = checkpoint.load_newest(LOCAL, str(tmp_path), warnings.append)
            assert loaded is not None
            assert loaded.epoch == 6, what
            assert torch.equal(loaded.model["conv"], state(6).model["conv"])
        (warning,) = warnings
        assert warning.startswith("Set aside the checkpoint of epoch 7")
        assert not newest.exists()
        assert (aside / name).read_bytes() == data
        aside.rename(newest)
        (newest / name).write_bytes(files[name])


def hurt(path: Path, rand: random.Random, *, cut: bool) -> None:
    data = bytearray(path.read_bytes())
    place = rand.randrange(len(data))
    if cut:
        del data[place:]
    else:
        data[place] ^= 1 << rand.randrange(8)
    path.write_bytes(data)


class TestInASweep:
    pytestmark = slow

    def test_torn_files_of_a_killed_sweep(self, sweep: Make, unbroken: Make):
        """Set-up: a sweep is killed by SIGKILL in two trials, with all its processes.

        The first time, a bit of the trial's newest checkpoint is flipped and the last line of its metrics.jsonl is half
        written; the second time, the newest checkpoint is cut and a line of metrics.jsonl is not JSON. Minimum time:
        1 min 15 s.

        1. The same command continues from the checkpoint before; the damaged one is set aside, and said once.
        2. The result equals that of an unbroken sweep, bit for bit.
        3. The checker finds nothing: every epoch stands in metrics.jsonl once and in order.
        """
        rand = random.Random(1)
        one = sweep(*SHORT)
        for number, cut in ((0, False), (1, True)):
            one.start().wait(in_trial(number, epochs=3))
            one.kill(power=True)
            (live,) = [n for n, (s, _) in one.progress().items() if s == "RUNNING"]
            folder = one.local / f"trials/{live:05d}"
            newest = max(folder.glob(f"checkpoints/epoch-*/{checkpoint.MANIFEST}"))
            hurt(newest.with_name("model.safetensors"), rand, cut=cut)
            metrics = folder / "metrics.jsonl"
            lines = metrics.read_bytes().splitlines(True)
            metrics.write_bytes(b"".join([*lines[:-1], b"\xff{]\n" if cut else lines[-1][: len(lines[-1]) // 2]]))
        one.start().finish()
        assert one.said("Set aside the checkpoint of epoch") == 2
        assert len(list(one.local.glob("trials/*/checkpoints/bad-*"))) == 2
        assert one.told() == unbroken(*SHORT).told()
        one.sound()

    def test_a_study_that_is_behind_its_trials(self, sweep: Make, unbroken: Make):
        """Set-up: a sweep is killed, and its study put back to what it was some epochs and a trial's end before.

        That is what is left of it when a disk loses its last writes, or a backup is restored. Minimum time: 1 min.

        1. The same command continues; what the study has forgotten is reported to it again, in order.
        2. The result equals that of an unbroken sweep, bit for bit.
        3. The checker finds nothing.
        """
        one = sweep(*SHORT).start()
        one.wait(in_trial(0, epochs=4))
        os.kill(one.pids[0], 19)  # SIGSTOP: nobody writes while the file is copied
        shutil.copy(one.study, one.folder / "old.sqlite")
        os.kill(one.pids[0], 18)
        one.wait(in_trial(1, epochs=3))
        one.kill()
        shutil.copy(one.folder / "old.sqlite", one.study)
        one.start().finish()
        assert one.told() == unbroken(*SHORT).told()
        one.sound()

    def test_the_clock_is_set(self, sweep: Make, unbroken: Make):
        """Set-up: while a sweep runs, the clock jumps a day back for all its processes; then it is killed, and
        continued a day ahead. Minimum time: 45 s.

        A library between the processes and the C library shifts what they are told, and what they wait for: the
        machine's own clock is left alone.

        1. The sweep goes on after the jump, and the same command continues it.
        2. The result equals that of an unbroken sweep, bit for bit.
        3. The checker finds nothing.
        """
        one = sweep(*SHORT)
        flag = one.folder / "shifted"
        clock = {"LD_PRELOAD": built("clock.c", one.folder), "CLOCK_FLAG": str(flag)}
        one.start(CLOCK_OFFSET="-86400", **clock)
        one.wait(in_trial(0, epochs=2))
        flag.touch()
        reported = one.epochs()
        one.wait(lambda p: sum(e for _, e in p.values()) >= reported + 3)
        one.kill(linger=True)  # idle processes of Ray's, whose timers go by the clock, do not notice
        one.start(CLOCK_OFFSET="86400", **clock).finish()
        starts = [t.datetime_start for t in one.trials() if t.datetime_start]
        assert max(starts) - min(starts) > one.trials()[0].duration  # the clock was shifted indeed
        assert (max(starts) - min(starts)).days >= 1
        assert one.told() == unbroken(*SHORT).told()
        one.sound()

    def test_slow_disk(self, sweep: Make, unbroken: Make, figure):
        """Set-up: for all processes of a sweep, whatever must reach the disk, or renames a file, waits for 100 ms
        first; in mid-sweep the driver is killed, and the same command continues. Minimum time: 1 min 30 s.

        1. The sweep goes on, and says nothing of it: a slow disk is no failure.
        2. The result equals that of an unbroken sweep, bit for bit.
        3. The checker finds nothing.
        """
        one = sweep(*SHORT)
        slow = {"LD_PRELOAD": built("slow.c", one.folder), "SLOW_MILLISECONDS": "100"}
        started = time.monotonic()
        one.start(**slow)
        one.wait(in_trial(1, epochs=2))
        one.kill()
        one.start(**slow).finish()
        figure(f"disk of 100 ms a sync: a sweep of 5 trials of 6 epochs took {time.monotonic() - started:.0f} s")
        assert one.said("the storage") == one.said("the study cannot be written") == 0
        assert one.told() == unbroken(*SHORT).told()
        one.sound()


def built(source: str, folder: Path) -> str:
    """Compiles one of the libraries beside this file; returns its path."""
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip(f"there is no C compiler on this machine to build {source} with")
    library = (folder / source).with_suffix(".so")
    command = [compiler, "-shared", "-fPIC", "-O2", "-o", library, Path(__file__).with_name(source), "-ldl"]
    subprocess.run(command, check=True)
    return str(library)
