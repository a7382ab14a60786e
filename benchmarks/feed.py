"""Streamed images against resident ones, a bare decoder and a plain DataLoader.

Ratios of rounds in turn; the images are smooth random pictures in JPEG, as files of a folder of one's own.
`--rows` chooses: epoch, decode, loader, first, memory.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import logging
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
import torchvision
from PIL import Image
from torchvision.io import ImageReadMode, decode_jpeg

from mollify_core.datasets import Prepared, prepare, shards
from mollify_core.recipe import Recipe
from mollify_core.steps import Steps
from mollify_core.stream import Stream
from mollify_core.training import Training
from mollify_core.training_data import training_data

CORES = os.cpu_count() or 1
RECIPE = Recipe().with_(dataset="photographs", network="resnet20", batch_size=128, epochs=100, augment=("flip", "crop"))


def folder(path: Path, images: int, side: int, detail: int = 8) -> Path:
    """Ten classes of JPEG files; with a detail of 8 pixels of about as many bytes as photographs of that size."""

    def save(number: int) -> None:
        generator = np.random.default_rng(number)
        coarse = generator.integers(0, 256, (side // detail, side // detail, 3), dtype=np.uint8)
        picture = Image.fromarray(coarse).resize((side, side), Image.Resampling.BICUBIC)
        target = path / f"class{number % 10}" / f"{number}.jpg"
        target.parent.mkdir(parents=True, exist_ok=True)
        picture.save(target, quality=90)

    with ThreadPoolExecutor(CORES) as pool:
        list(pool.map(save, range(images)))
    return path


def made(place: Path, images: int, side: int, image_size: int) -> Callable[[str], Prepared]:
    """feed -> a folder of JPEG files, prepared for it."""
    files = folder(place / f"{side}-{images}", images, side)
    return functools.partial(_prepared, files, place / "cache", image_size)


def _prepared(files: Path, cache: Path, image_size: int, feed: str) -> Prepared:
    return prepare(str(files), image_size=image_size, cache_dir=cache, feed=feed)


def ratio(name: str, ours: Callable[[], float], other: Callable[[], float], rounds: int, want: str) -> None:
    """Prints ours / other of interleaved rounds of rates."""
    pairs = [(ours(), other()) for _ in range(rounds)]
    each = [a / b for a, b in pairs]
    mine, theirs = (statistics.median(values) for values in zip(*pairs, strict=True))
    print(
        f"{name}: {mine:,.0f} against {theirs:,.0f} a second, ratio {statistics.median(each):.2f} "
        f"({min(each):.2f} to {max(each):.2f}; wanted: {want})",
        flush=True,
    )


def epoch(place: Path, images: int, rounds: int) -> None:
    """A warm epoch of training, streamed through Ray Data, against a resident one."""
    of = made(place, images, 64, 64)
    with fetching() as fetch:
        resident = Training(RECIPE, training_data(RECIPE, of("resident")))
        streamed = Training(RECIPE, fetch(training_data(RECIPE, of("stream"))))
        for training in (resident, streamed):
            training.run_epoch()

        def rate(training: Training) -> float:
            return training.run_epoch().metrics["images_per_second"]

        ratio(
            "warm epoch, stream / resident (64 px JPEG, resnet20, images)",
            lambda: rate(streamed),
            lambda: rate(resident),
            rounds,
            "0.9",
        )


def drained(fit: Stream, steps: Steps, epochs: Iterator[int]) -> float:
    """Images a second of an epoch that nobody trains on."""
    started = time.perf_counter()
    for _ in fit.batches(0, 1, next(epochs), steps, 0):
        pass
    return len(fit) / (time.perf_counter() - started)


def alone(place: Path, images: int, rounds: int, rows: list[str]) -> None:
    """The stream alone, from 256 px JPEG to 64 px, against a bare decoder and a DataLoader."""
    of = made(place, images, 256, 64)
    streamed = of("stream")
    files = sorted((place / f"256-{images}").rglob("*.jpg"))
    with fetching() as fetch:
        data = fetch(training_data(RECIPE, streamed), threads=CORES)
        assert isinstance(data.fit, Stream)
        fit, steps, epochs = data.fit, Steps(len(data.fit), 128, 1), iter(range(10**6))
        drained(fit, steps, epochs)

        def bare() -> float:
            torch.set_num_threads(1)
            started = time.perf_counter()
            for file in files:
                raw = torch.from_numpy(np.fromfile(file, np.uint8))
                decode_jpeg(raw, ImageReadMode.RGB)[:, 96:160, 96:160].contiguous()
            return len(files) / (time.perf_counter() - started)

        def loader() -> float:
            from torchvision import transforms as t

            steps = t.Compose([t.Resize(64), t.CenterCrop(64), t.PILToTensor()])
            source = torchvision.datasets.ImageFolder(str(place / f"256-{images}"), steps)
            batches = torch.utils.data.DataLoader(source, 128, shuffle=True, num_workers=CORES)
            started = time.perf_counter()
            for _ in batches:
                pass
            return len(source) / (time.perf_counter() - started)

        if "decode" in rows:
            ratio(
                "stream alone, a core / decode_jpeg and crop in one bare thread (256 px JPEG to 64 px, images)",
                lambda: drained(fit, steps, epochs) / CORES,
                bare,
                rounds,
                "0.8",
            )
        if "loader" in rows:
            ratio(
                "stream alone / DataLoader over an ImageFolder, the same cores (images)",
                lambda: drained(fit, steps, epochs),
                loader,
                rounds,
                "1.2",
            )
        if "first" in rows:
            waits = []
            for number in range(rounds):
                for _ in fit.batches(1, 10**6, 2 * number, steps, 0):
                    pass
                time.sleep(1)  # validation
                started = time.perf_counter()
                batches = fit.batches(1, 10**6, 2 * number + 1, steps, 0)
                next(batches)
                waits.append(time.perf_counter() - started)
                batches.close()
            print(f"first batch of a later epoch: {statistics.median(waits):.3f} s (wanted: under 0.5)", flush=True)


def memory(place: Path, images: int) -> None:
    """What a streamed training takes of memory with a set four times as large, object store included."""
    peaks = [_peak(place, count) for count in (images, 4 * images)]
    print(f"memory, a set four times as large: {peaks[1] / peaks[0]:.2f} of {peaks[0] / 1e6:,.0f} MB (wanted: 1.2)")


def _peak(place: Path, images: int) -> float:
    files = folder(place / f"64-{images}-fine", images, 64, detail=1)  # more bytes than half of their pixels
    code = f"from benchmarks import feed; feed.hold({str(files)!r}, {str(place / 'cache')!r})"
    printed = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    return float(printed.split()[-1])


def hold(files: str, cache: str) -> None:
    """Prints the most bytes that this process and the object store have held in two streamed epochs.

    Windows are of 16 MB: a set of 300 MB is as many of them as one of 2.4 GB is of those that there are else.
    """
    shards.GROUP_BYTES = 1 << 20
    streamed = prepare(files, image_size=64, cache_dir=cache, feed="stream")
    shared = shutil.disk_usage("/dev/shm").used
    with fetching() as fetch:
        data = fetch(training_data(RECIPE, streamed))
        assert isinstance(data.fit, Stream)
        most = 0.0
        for number in range(2):
            for step, _ in enumerate(data.fit.batches(0, 2, number, Steps(len(data.fit), 128, 1), 0)):
                if step % 10 == 0:
                    own = re.search(r"RssAnon:\s+(\d+) kB", Path("/proc/self/status").read_text())
                    assert own is not None
                    store = shutil.disk_usage("/dev/shm").used - shared
                    most = max(most, int(own[1]) * 1024 + store)
    print(most)


@contextlib.contextmanager
def fetching() -> Iterator[Callable]:
    """A function that has a training's images fetched through Ray Data, as in a sweep."""
    import dataclasses

    import ray

    from mollify_sweeps.cluster.connection import connect
    from mollify_sweeps.trial.feed import windows

    connect(None)

    def through_ray(data, threads: int = 1):  # type: ignore[no-untyped-def]
        fetch = windows(data.fit.shards, ray.get_runtime_context().get_node_id())
        return dataclasses.replace(data, fit=dataclasses.replace(data.fit, fetch=fetch, threads=threads))

    yield through_ray
    ray.shutdown()


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("--images", type=int, default=4000)
    p.add_argument("--rounds", type=int, default=3)
    p.add_argument("--rows", nargs="*", default=["epoch", "decode", "loader", "first", "memory"])
    args = p.parse_args()
    torch.set_num_threads(1)
    logging.getLogger("ray.data").setLevel(logging.WARNING)
    with tempfile.TemporaryDirectory() as place:
        if "epoch" in args.rows:
            epoch(Path(place), args.images, args.rounds)
        if {"decode", "loader", "first"} & set(args.rows):
            alone(Path(place), args.images, args.rounds, args.rows)
        if "memory" in args.rows:
            memory(Path(place), 6 * args.images)


if __name__ == "__main__":
    main()
