"""What a training step costs on a GPU beside its network: under five minutes, compilation included.

    uv run python benchmarks/gpu_step.py [--small]

(a) the share of augmentation and mollification in a presnet18 step at batch 512, (b) presnet18's images a second
against the same network's bare compiled step, (c) resnet20 against plain PyTorch that looks at its loss after each
step, (d) waits for the device in the steps of an epoch, (e) the share of the time in which the GPU has nothing to do.

Wall time between two synchronisations, sides interleaved, medians; the ratio's spread in brackets. `--small` runs all
of it with a small network on whatever there is.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mollify_core import networks, rng
from mollify_core.augment import augment
from mollify_core.batch import losses, make_batch
from mollify_core.classifier import build_network
from mollify_core.datasets import ImageSet
from mollify_core.normalise import Normalise
from mollify_core.precision import autocast
from mollify_core.recipe import Recipe
from mollify_core.training import Training
from mollify_core.training_data import TrainingData
from mollify_core.worker import Worker

CLASSES, SHAPE = 10, (3, 32, 32)
STEPS = 10  # of which waits are counted, and that are profiled


@dataclass(frozen=True)
class Size:
    """How much is measured.

    Attributes:
        device: where.
        batch: images a step.
        rounds: of each comparison.
        repeat: steps a round.
    """

    device: torch.device
    batch: int
    rounds: int
    repeat: int

    def seconds(self, action: Callable[[], object]) -> float:
        """Of one call."""
        self.wait()
        start = time.perf_counter()
        for _ in range(self.repeat):
            action()
        self.wait()
        return (time.perf_counter() - start) / self.repeat

    def wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def compare(self, ours: Callable[[], object], other: Callable[[], object]) -> tuple[float, float, str]:
        """(seconds of ours, seconds of the other, other / ours in words)."""
        for action in (ours, other):
            self.seconds(action)  # compiles, and allocates
        pairs = [(self.seconds(ours), self.seconds(other)) for _ in range(self.rounds)]
        ratios = [b / a for a, b in pairs]
        mine, others = (statistics.median(side) for side in zip(*pairs, strict=True))
        return mine, others, f"{statistics.median(ratios):.3f} ({min(ratios):.3f} to {max(ratios):.3f})"


class Case:
    """A training of random images, and its parts.

    Args:
        network: by name.
        size: how much is measured.
        compiled: whether its network is.
    """

    def __init__(self, network: str, size: Size, compiled: bool) -> None:
        g, self.size = rng.generator("gpu step"), size
        images = torch.randint(0, 256, (size.batch * STEPS, *SHAPE), dtype=torch.uint8, generator=g)
        labels = torch.randint(CLASSES, (len(images),), generator=g)
        fit = ImageSet(images, labels).to(size.device)
        self.data = TrainingData(fit, None, CLASSES, (0.5,) * 3, (0.25,) * 3, "")
        self.recipe = Recipe().with_(network=network, batch_size=size.batch, augment=("flip", "crop"), compile=compiled)
        self.training = Training(self.recipe, self.data, Worker(device=size.device))
        self.training.network.train()
        self.shown = ImageSet(fit.images[: size.batch], fit.labels[: size.batch])
        self.normalise = Normalise.make("normal", self.data.mean, self.data.std, size.device)

    def step(self) -> Tensor:
        """A whole step of ours, which waits for nothing."""
        return self.training._step(0, self.shown, self.size.batch, 1.0)[0]

    def prepare(self) -> Tensor:
        """Its augmentation and mollification alone."""
        shown, key = self.shown, (0, 0, 0, 0)
        images, kept = augment(shown.images, self.recipe.augmentations, rng.generator(*key), self.recipe.soft, CLASSES)
        return make_batch(images, shown.labels, CLASSES, self.recipe, self.normalise, *key, kept=kept).x

    def bare(self, looks: bool, compiled: bool) -> Callable[[], None]:
        """A step of the same network in plain PyTorch, of images that are ready.

        Args:
            looks: whether it reads its loss.
            compiled: whether its network is.
        """
        recipe, device = self.recipe, self.size.device
        network: nn.Module = build_network(recipe, CLASSES, SHAPE, networks.build)
        network = network.to(device).to(memory_format=torch.channels_last)
        optimizer = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4, fused=True)
        forward = torch.compile(network) if compiled else network
        batch = make_batch(self.shown.images, self.shown.labels, CLASSES, recipe, self.normalise, 0, 0, 0, 0)
        x = batch.x.contiguous(memory_format=torch.channels_last)

        def step() -> None:
            with autocast(recipe.optim.precision, device):
                logits = forward(x)
            loss = losses(logits, batch, CLASSES, recipe).mean()
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            if looks:
                loss.item()

        return step

    def steps(self) -> None:
        """Steps as an epoch has them: order, shares, looks."""
        training = self.training
        sums = torch.zeros(len(training._steps), device=self.size.device)
        for step, images in enumerate(self.data.batches(self.recipe, 1, training._steps, training.worker)):
            sums[step] = training._step(step, images, training._steps.among(step), 1.0)[0]
            training._looks.after(step, sums, lambda: False)

    def waits(self) -> str:
        """How often these wait for the device, and where first."""
        if self.size.device.type != "cuda":
            return "cannot be counted without a GPU"
        torch.cuda.set_sync_debug_mode("warn")
        try:
            with warnings.catch_warnings(record=True) as met:
                warnings.simplefilter("always")
                self.steps()
        finally:
            torch.cuda.set_sync_debug_mode("default")
        found = [str(warning.message) for warning in met if "synchroniz" in str(warning.message)]
        return f"{len(found)}" + (f", the first: {found[0]}" if found else "")

    def idle(self) -> str:
        """The share of the wall time of these in which no kernel runs; on a CPU, no operation."""
        cuda = self.size.device.type == "cuda"
        kinds = [torch.profiler.ProfilerActivity.CPU] + [torch.profiler.ProfilerActivity.CUDA] * cuda
        self.size.wait()
        with torch.profiler.profile(activities=kinds) as profile:
            self.steps()
            self.size.wait()
        kind = torch.autograd.DeviceType.CUDA if cuda else torch.autograd.DeviceType.CPU
        spans = sorted(
            (event.time_range.start, event.time_range.end)
            for event in profile.events()
            if event.device_type == kind and (not event.is_user_annotation if cuda else event.cpu_parent is None)
        )
        busy, until = 0.0, spans[0][0]
        for start, end in spans:
            busy += max(0.0, end - max(start, until))
            until = max(until, end)
        return f"{1 - busy / (until - spans[0][0]):.1%}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--small", action="store_true", help="a small network and small batches, on whatever there is")
    args = parser.parse_args()
    gpu = torch.cuda.is_available()
    if not gpu and not args.small:
        print("Expected a GPU, but there is none; --small shows on a CPU that this program works", file=sys.stderr)
        return 2
    started, device = time.perf_counter(), torch.device("cuda", torch.cuda.current_device()) if gpu else None
    name = torch.cuda.get_device_name() if gpu else "a CPU"
    if not gpu:
        torch.set_num_threads(1)
        print("There is no GPU: these figures are a CPU's and say nothing of one.")
    size = Size(device or torch.device("cpu"), *((32, 2, 1) if args.small else (512, 5, 10)))
    large, little = ("resnet8", "resnet8") if args.small else ("presnet18", "resnet20")
    print(f"{name}, torch {torch.__version__}, batch {size.batch}, 32 px, bf16 where there are units, channels_last")

    case = Case(large, size, compiled=True)
    whole, part, ratio = size.compare(case.step, case.prepare)
    print(f"(a) {large}: augmentation and mollification {1e3 * part:.2f} ms, a step {1e3 * whole:.2f} ms: {ratio}")
    whole, bare, ratio = size.compare(case.step, case.bare(looks=False, compiled=True))
    print(f"(b) {large}: {size.batch / whole:.0f} images/s, bare {size.batch / bare:.0f}: {ratio} of the bare step")
    print(f"(d) {large}: waits in {STEPS} steps: {case.waits()}")
    print(f"(e) {large}: idle {case.idle()}")
    case = Case(little, size, compiled=False)
    whole, plain, ratio = size.compare(case.step, case.bare(looks=True, compiled=False))
    print(f"(c) {little}: a step {1e3 * whole:.2f} ms, in plain PyTorch, images ready, {1e3 * plain:.2f} ms: {ratio}")
    print(f"(d) {little}: waits in {STEPS} steps: {case.waits()}")
    print(f"(e) {little}: idle {case.idle()}")
    print(f"took {time.perf_counter() - started:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
