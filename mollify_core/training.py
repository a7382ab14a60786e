"""The whole training story, top to bottom: data, network, step, epoch, and the state that goes in and out.

training = Training(recipe, data)
for epoch in training.run():
    print(epoch.metrics)
files = checkpoint.to_files(training.state())
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from mollify_core import checkpoint, optimisation, rng
from mollify_core.amount import IMAGES, mean_strength
from mollify_core.augment import augment
from mollify_core.batch import Batch, losses, make_batch
from mollify_core.classifier import Classifier, build_network, start_network
from mollify_core.datasets import ImageSet
from mollify_core.errors import CheckpointError, NonFiniteLossError, Preempted, first_line
from mollify_core.labels import outputs
from mollify_core.looks import Looks, Stop, check_finite
from mollify_core.measure.metrics import class_weights
from mollify_core.measure.validation import image_values, validation_means
from mollify_core.networks import is_builtin
from mollify_core.normalise import Normalise
from mollify_core.precision import arithmetic, autocast
from mollify_core.recipe import Recipe
from mollify_core.steps import Parts, Steps, check_steps, split
from mollify_core.training_data import TrainingData
from mollify_core.worker import Worker


@dataclass(frozen=True)
class Epoch:
    """What one finished epoch reports.

    Attributes:
        index: epoch index, from 0.
        metrics: train_loss, train_error, lr, images_per_second, clean_* and corrupted_* on the subsample of
            validation where images are held out, and seconds (all of it).
    """

    index: int
    metrics: dict[str, float]


class Training:
    """One model in training: the network, its optimiser and the next epoch.

    Args:
        recipe: what to train.
        data: what to train on.
        worker: this process among its peers.
        state: a checkpoint of the same recipe to go on from.
        accumulate: parts in which the network sees a batch from now on, for less memory; or how many it has at each
            step. Images, degradations and steps stay the same, and the gradient is that of the whole batch up to
            rounding; but the statistics of BatchNorm are those of a part, and the masks of dropout are drawn for each.

    Raises:
        ConfigError: the recipe does not fit the data or the workers.
        CheckpointError: the checkpoint belongs to another recipe or data set.
    """

    def __init__(
        self,
        recipe: Recipe,
        data: TrainingData,
        worker: Worker | None = None,
        state: checkpoint.Checkpoint | None = None,
        accumulate: int | Parts = 1,
    ) -> None:
        self.recipe, self.data, self.worker = recipe, data, worker or Worker()
        self.parts = accumulate if isinstance(accumulate, Parts) else Parts.read(accumulate)
        if state is not None and not isinstance(accumulate, Parts):
            self.parts = Parts.read(state.meta.get("accumulate", 1)).then(state.epoch, state.step, accumulate)
        world, device = self.worker.world, self.worker.device
        check_steps(recipe, len(data.fit), (world,), data.classes, data.image_shape)
        self._steps = Steps.of(recipe, len(data.fit), world, data.classes, data.image_shape)
        with torch.random.fork_rng(devices=[]):
            rng.reseed(torch.default_generator, recipe.seed, "init")
            shown = (recipe, data.classes, data.image_shape)
            network = start_network(*shown)[0] if state is None else build_network(*shown)
        # It has no CPU kernels, and parts may differ in number.
        if world > 1 and device.type == "cuda" and self.parts.most == 1:
            network = nn.SyncBatchNorm.convert_sync_batchnorm(network)
        self.network = network.to(device).to(memory_format=torch.channels_last)
        self._outputs = outputs(data.classes, recipe.mollify.label_mode)
        self.optimizer = optimisation.optimizer(recipe, self.network, self._outputs)
        self.average = optimisation.Average(self.network, recipe.optim.ema) if recipe.optim.ema else None
        self.epoch = 0
        self.progress: checkpoint.Progress | None = None  # of an epoch that was stopped
        if state is not None:
            self._restore(state)
        self._distribute()
        self._normalise = Normalise.make(recipe.data.scaling, data.mean, data.std, device)
        self._looks = Looks(self.worker)
        self._weights: Tensor | None = None  # of the classes, in the loss
        if recipe.data.balance == "loss":
            self._weights = class_weights(data.fit.labels, data.classes).float().to(device)
        self._uncoupled: float | None = None
        if recipe.label == "uncoupled":
            some = data.sample(IMAGES).to(device)
            self._uncoupled = mean_strength(recipe, some.images, data.classes, self._normalise)

    def _distribute(self) -> None:
        """Says which layers learn from the next epoch on, and joins the workers in these."""
        recipe, device = self.recipe, self.worker.device
        optimisation.set_learning(recipe, self.network, self._outputs, self.epoch)
        self._parallel: nn.Module = self.network
        self._apart: Callable[[], Any] = contextlib.nullcontext  # a backward pass that exchanges no gradients
        if self.worker.world > 1:
            self._parallel = distributed = DistributedDataParallel(
                self.network,
                [device] if device.type == "cuda" else None,
                find_unused_parameters=recipe.model.network == "nasnet" or not is_builtin(recipe.model.network),
            )
            self._apart = distributed.no_sync
        self._compiled: Callable[[Tensor], Tensor] | None = (
            torch.compile(self._parallel) if recipe.optim.compile else None
        )

    @property
    def images_per_step(self) -> int:
        """Different images of a full step, over all workers."""
        return self._steps.size

    def run(self, stop: Stop | None = None) -> Iterator[Epoch]:
        """Trains the epochs that are left, one report after each; the caller may stop at any of them."""
        while self.epoch < self.recipe.optim.epochs:
            yield self.run_epoch(stop)

    def run_epoch(self, stop: Stop | None = None) -> Epoch:
        """Trains one epoch, or what is left of it, over the fit images and measures it on validation.

        Args:
            stop: asked after each step whether to stop there; several workers stop when one of them is told to.

        Raises:
            NonFiniteLossError: the loss, or what validation measures, became NaN or infinite.
            Preempted: `stop` said so; `state` is then that after the last step, and training goes on from it as if
                it had never stopped.
        """
        before = self.progress.seconds if self.progress else 0.0
        started = time.perf_counter() - before
        loss, errors = self._train_epoch(started, stop)
        trained = time.perf_counter() - started
        index, self.epoch, self.progress = self.epoch, self.epoch + 1, None
        n_fit, repeat = len(self.data.fit), self.recipe.mollify.repeat
        held_out = self.data.validation
        k = 0 if held_out is None else held_out.of_epoch(n_fit)
        metrics = {
            "train_loss": loss / (n_fit * repeat),
            "train_error": errors / (n_fit * repeat),
            "lr": optimisation.learning_rate(self.recipe, index),
            "images_per_second": n_fit / trained,
            **({} if held_out is None else validation_means(self.validate(k), held_out.labels[:k])),
            "seconds": time.perf_counter() - started,
        }
        return Epoch(index, metrics)

    def rehearse(self, seconds: float, steps: int = 10**9, warm_up: int = 1) -> list[float]:
        """Seconds that real steps take here, on the first images; the model is of no use for anything else then.

        Args:
            seconds: when to stop, by the clock.
            steps: when to stop at the latest, by count.
            warm_up: further steps that come first and do not count.
        """
        size = min(len(self.data.fit), self.images_per_step)
        images, times = self.data.sample(size).select(torch.arange(size)).to(self.worker.device), list[float]()
        while len(times) < warm_up + steps and sum(times[warm_up:]) < seconds:
            started = time.perf_counter()
            self._step(len(times), images, size, 1.0)[0].item()  # waits for the device
            times.append(time.perf_counter() - started)
        return times[warm_up:]

    def final(self) -> tuple[dict[str, float], dict[str, np.ndarray]]:
        """(clean_* and corrupted_* of the images that choose, `image_values` of those that judge), in one pass."""
        assert self.data.validation is not None
        values, labels = self.validate(), self.data.validation.labels[None]
        (choosing, judging), (chosen, judged) = self.data.halves(values), self.data.halves(labels)
        return validation_means(choosing, chosen[0]), image_values(judging, judged[0], self.data.judged_groups)

    def _train_epoch(self, started: float, stop: Stop | None) -> tuple[float, float]:
        """(sum of losses, number of errors) over all fit images of all workers.

        Args:
            started: when the epoch started, by `time.perf_counter`.
            stop: see `run_epoch`.
        """
        recipe, worker, steps = self.recipe, self.worker, self._steps
        known = recipe, self.epoch, steps, self.data.image_shape, worker
        if self.epoch and self.epoch == recipe.optim.frozen_epochs:
            self._distribute()
        optimisation.train_mode(recipe, self._parallel, self.epoch)
        sums = torch.zeros(len(steps), device=worker.device)
        errors = torch.zeros((), device=worker.device)
        done = self.progress.step if self.progress else 0
        if self.progress and worker.rank == 0:  # they are of all workers
            sums[:done] = torch.tensor(self.progress.losses)
            errors += self.progress.errors
        # Networks with dropout draw from the global generators: they too must depend on the step only.
        devices = [worker.device] if worker.device.type == "cuda" else []
        generators = [torch.default_generator, *(torch.cuda.default_generators[_index(d)] for d in devices)]
        batches = self.data.batches(recipe, self.epoch, steps, worker, done)
        with torch.random.fork_rng(devices=devices), contextlib.closing(batches):
            for step, images in enumerate(batches, done):
                for generator in generators:
                    rng.reseed(generator, recipe.seed, self.epoch, step, steps.drawing(step, worker.rank), "network")
                weight = 1 / worker.world if steps.whole(step) else 1.0
                rate = optimisation.learning_rate(recipe, self.epoch, (step + 1) / len(steps))
                optimisation.set_rate(recipe, self.optimizer, rate)
                sums[step], wrong = self._step(step, images, steps.among(step), weight)
                errors += wrong
                bad, stopped = self._looks.after(step, sums, stop)
                if bad or stopped:
                    check_finite(sums, *known)
                if stopped:
                    self._looks = Looks(worker)
                    each = worker.sum(sums[: step + 1].cpu()).tolist()
                    wrong_total = worker.sum(errors.cpu()).item()
                    self.progress = checkpoint.Progress(step + 1, each, wrong_total, time.perf_counter() - started)
                    raise Preempted(f"Training stopped in epoch {self.epoch} after step {step}")
        total_loss, total_errors = worker.sum(torch.stack([sums.sum(), errors]).cpu().double()).tolist()
        if not math.isfinite(total_loss):
            check_finite(sums, *known)
        return total_loss, total_errors

    def _step(self, step: int, shown: ImageSet, in_step: int, weight: float) -> tuple[Tensor, Tensor]:
        """One optimiser step; returns (sum of losses, number of errors), not synchronised.

        Args:
            step: step index in the epoch.
            shown: this worker's images of it.
            in_step: number of images of this step over all workers.
            weight: of its losses; below 1 where every worker takes the same images, by the same draws.
        """
        recipe, worker, data = self.recipe, self.worker, self.data
        key = (recipe.seed, self.epoch, step, worker.rank if weight == 1 else 0)
        drawn = rng.generator(*key, "augment")
        images, kept = augment(shown.images, recipe.augmentations, drawn, recipe.soft, data.classes)
        labels, mean = shown.labels, self._uncoupled
        batch = make_batch(images, labels, data.classes, recipe, self._normalise, *key, kept=kept, uncoupled=mean)
        # Workers' gradients are averaged, so each scales its sum to make the average that of the joined batch.
        scale = worker.world / (in_step * recipe.mollify.repeat)
        self.optimizer.zero_grad(set_to_none=True)
        of_step = max(recipe.optim.batch_size, in_step * recipe.mollify.repeat)  # more where the last images joined it
        most = -(-of_step // ((worker.world if weight == 1 else 1) * self.parts.at(self.epoch, step)))
        parts = split(batch, most, rng.generator(*key, "parts"))
        results = []
        with arithmetic(recipe.optim.precision, worker.device):
            for part in parts:
                with contextlib.nullcontext() if part is parts[-1] else self._apart():
                    results.append(self._backward(step, part, weight, scale))
        if recipe.optim.clip_norm is not None:
            nn.utils.clip_grad_norm_(self.network.parameters(), recipe.optim.clip_norm)
        self.optimizer.step()
        if self.average is not None:
            self.average.update(self.network)
        loss, wrong = (torch.stack(values).sum() for values in zip(*results, strict=True))
        return loss, wrong

    def _forward(self, step: int, x: Tensor) -> Tensor:
        """The network's outputs. Compiled code is of one size of batch, of all full steps, or else of any size: it is
        compiled once, and the last step, where it is smaller, goes without.
        """
        if self._compiled is None:
            return self._parallel(x)
        share, uneven = divmod(self._steps.size, self.worker.world)
        part, parts_differ = divmod(share * self.recipe.mollify.repeat, self.parts.at(self.epoch, step))
        if uneven or parts_differ:
            torch._dynamo.maybe_mark_dynamic(x, 0)
        elif len(x) != part:
            return self._parallel(x)
        return self._compiled(x)

    def _backward(self, step: int, batch: Batch, weight: float, scale: float) -> tuple[Tensor, Tensor]:
        """Adds the gradient of `scale` times the sum of losses; returns (sum of losses, number of errors)."""
        recipe, classes = self.recipe, self.data.classes
        with autocast(recipe.optim.precision, self.worker.device):
            logits = self._forward(step, batch.x.contiguous(memory_format=torch.channels_last))
        each = losses(logits, batch, classes, recipe)
        if self._weights is not None:
            each = each * (self._weights[batch.labels] if batch.soft is None else batch.soft @ self._weights)
        loss = weight * each.sum()
        (loss * scale).backward()
        guess = logits.detach()[:, :classes].argmax(dim=1)
        return loss.detach(), weight * (guess != batch.labels).sum()

    def validate(self, k: int | None = None) -> Tensor:
        """(cells, k, 5) values of the first k validation images (None: all), the same on every worker.

        Raises:
            NonFiniteLossError: one of them is NaN or infinite.
        """
        validation = self.data.validation
        assert validation is not None
        k = len(validation) if k is None else k
        # Each worker's batch norm has seen its own images: all measure with what worker 0 keeps.
        self.worker.spread(self.evaluated.buffers())
        classifier = Classifier(self.evaluated.eval(), self._normalise, self.recipe, self.data.classes)
        with torch.inference_mode():
            values = self.worker.sum(validation.measure(classifier, self.worker.share(k)))[:, :k]
        bad = values[~torch.isfinite(values)]
        if len(bad):
            epoch = max(self.epoch - 1, 0)
            raise NonFiniteLossError(
                f"Expected finite outputs in validation after epoch {epoch}, but got {float(bad[0])}",
                epoch=epoch,
                step=len(self._steps) - 1,
            )
        return values

    @property
    def evaluated(self) -> nn.Module:
        """The network that is measured: the average of the weights where there is one."""
        return self.network if self.average is None else self.average.module

    def state(self, **meta: Any) -> checkpoint.Checkpoint:
        """The state after the steps so far, copied to the CPU, so that training may go on while it is written."""
        optimizer = {index: _on_cpu(state) for index, state in self.optimizer.state_dict()["state"].items()}
        model = _on_cpu(self.network.state_dict())
        average = {} if self.average is None else _on_cpu(self.average.state_dict())
        if self.worker.device.type == "cuda":  # once, for all of them
            torch.cuda.current_stream(self.worker.device).synchronize()
        known = {"recipe": self.recipe.to_dict(), "fingerprint": self.data.fingerprint, "final": self.data.final}
        known |= {"accumulate": self.parts.written, "feed": self.data.feed, "data": self.data.about}
        return checkpoint.Checkpoint(self.epoch, model, optimizer, {**known, **meta}, average, self.progress)

    def _restore(self, state: checkpoint.Checkpoint) -> None:
        if Recipe.from_dict(state.meta.get("recipe")).hash != self.recipe.hash:  # which says plain training in one way
            raise CheckpointError("Expected a checkpoint of this recipe, but got one of another recipe")
        if state.meta.get("fingerprint") != self.data.fingerprint:
            raise CheckpointError("Expected a checkpoint of this data set, but got one of another data set")
        if state.meta.get("final", False) != self.data.final:
            raise CheckpointError("Expected a checkpoint of the same images, but one of the two is for use (--final)")
        feed = state.meta.get("feed", "resident")
        if feed != self.data.feed:
            raise CheckpointError(f"Expected a checkpoint of {self.data.feed} images, but got one of --feed {feed}")
        try:
            self.network.load_state_dict(state.model)
            if self.average is not None:
                self.average.load_state_dict(state.average)
            optimizer = self.optimizer.state_dict()
            self.optimizer.load_state_dict({**optimizer, "state": state.optimizer})
        except (RuntimeError, ValueError, KeyError) as error:  # other names or shapes
            raise CheckpointError(f"Expected a checkpoint of this network, but {first_line(error)}") from None
        # Stored row-major; the fused step wants the memory layout of its parameter.
        for parameter, entry in self.optimizer.state.items():
            for key, value in entry.items():
                if isinstance(value, Tensor) and value.shape == parameter.shape:
                    entry[key] = torch.empty_like(parameter).copy_(value)
        self.epoch, self.progress = state.epoch, state.progress


def _on_cpu(values: dict[str, Any]) -> dict[str, Any]:
    """Copies of tensors on the CPU, which come while this process goes on; other values as they are."""
    return {
        name: value.detach().to("cpu", non_blocking=True, copy=True) if isinstance(value, Tensor) else value
        for name, value in values.items()
    }


def _index(device: torch.device) -> int:
    return torch.cuda.current_device() if device.index is None else device.index
