"""The whole training story, top to bottom: data, network, step, epoch, and the state that goes in and out.

training = Training(recipe, data)
for epoch in training.run():
    print(epoch.metrics)
files = checkpoint.to_files(training.state())
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from mollify_core import checkpoint, labels, networks, rng
from mollify_core.augment import augment
from mollify_core.datasets.load import ImageSet
from mollify_core.datasets.split import stratified_split, stratified_subset
from mollify_core.errors import CheckpointError, ConfigError, NonFiniteLossError
from mollify_core.recipe import Recipe
from mollify_core.targets import Normalise, losses, prepare
from mollify_core.validation import ValidationSet, epoch_images, image_values, summarise
from mollify_core.worker import Worker

_CHECK_EVERY = 50  # steps between looks at the losses: each look waits for the device


@dataclass(frozen=True)
class TrainingData:
    """What a model is trained on.

    Attributes:
        fit: this worker's images (all of them when it is alone), on its device.
        fit_total: number of fit images over all workers.
        validation: held-out images, clean and corrupted, on the device.
        classes: number of classes.
        mean, std: per channel, of images in [0, 1].
        fingerprint: of the data set's content; a resumed run must see the same.
    """

    fit: ImageSet
    fit_total: int
    validation: ValidationSet
    classes: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    fingerprint: str


@dataclass(frozen=True)
class Epoch:
    """What one finished epoch reports.

    Attributes:
        index: epoch index, from 0.
        metrics: train_loss, train_error, lr, images_per_second, clean_* and corrupted_* on the subsample of
            validation, and seconds (all of it).
    """

    index: int
    metrics: dict[str, float]


def split_rows(labels: np.ndarray, recipe: Recipe, fingerprint: str) -> tuple[np.ndarray, np.ndarray]:
    """(fit, validation): sorted row numbers of the official training images that a recipe trains and validates on."""
    config = recipe.data
    fit, validation = stratified_split(labels, config.validation_fraction, config.split_seed, fingerprint)
    subset = stratified_subset(labels[fit], config.train_fraction, config.split_seed, fingerprint)
    return fit[subset], validation


def learning_rate(recipe: Recipe, epoch: int, share: float = 1.0) -> float:
    """Cosine decay per epoch from `lr` towards `final_lr`, as both papers' code does, after a linear warm-up.

    Args:
        recipe: its `optim` section counts.
        epoch: epoch index, from 0.
        share: part of the epoch that is done after this step, in (0, 1]; matters during warm-up only.
    """
    config = recipe.optim
    if epoch < config.warmup_epochs:
        return config.lr * (epoch + share) / config.warmup_epochs
    done = (epoch - config.warmup_epochs) / (config.epochs - config.warmup_epochs)
    return config.final_lr + (config.lr - config.final_lr) * 0.5 * (1 + math.cos(math.pi * done))


class Training:
    """One model in training: the network, its optimiser and the next epoch.

    Args:
        recipe: what to train.
        data: what to train on.
        worker: this process among its peers.
        state: a checkpoint of the same recipe to go on from.

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
    ) -> None:
        self.recipe, self.data, self.worker = recipe, data, worker or Worker()
        world, repeat = self.worker.world, recipe.mollify.repeat
        if recipe.optim.batch_size % (world * repeat):
            parts = f"the {world} workers" + (f" times repeat {repeat}" if repeat > 1 else "")
            raise ConfigError(f"Expected batch_size to be a multiple of {parts}, but got {recipe.optim.batch_size}")
        device = self.worker.device
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(rng.derive(recipe.seed, "init"))
            channels, height, width = data.fit.images.shape[1:]
            options = {"final_bn": recipe.model.final_bn, "published": recipe.model.published}
            outputs = labels.outputs(data.classes, recipe.mollify.label_mode)
            network = networks.build(recipe.model.network, outputs, (channels, height, width), **options)
        self.network = network.to(device).to(memory_format=torch.channels_last)
        self.optimizer = _optimizer(recipe, self.network)
        self.average: AveragedModel | None = None
        if recipe.optim.ema:
            update = get_ema_multi_avg_fn(recipe.optim.ema)
            self.average = AveragedModel(self.network, multi_avg_fn=update, use_buffers=True)
        self.epoch = 0
        if state is not None:
            self._restore(state)
        self._parallel: nn.Module = self.network
        if self.worker.world > 1:
            self._parallel = DistributedDataParallel(
                self.network,
                [device] if device.type == "cuda" else None,
                find_unused_parameters=recipe.model.network == "nasnet",
            )
        if recipe.optim.compile:
            self._parallel = torch.compile(self._parallel)  # type: ignore[assignment]
        self._normalise = Normalise.make(recipe.data.scaling, data.mean, data.std, device)

    def run(self) -> Iterator[Epoch]:
        """Trains the epochs that are left, one report after each; the caller may stop at any of them."""
        while self.epoch < self.recipe.optim.epochs:
            yield self.run_epoch()

    def run_epoch(self) -> Epoch:
        """Trains one epoch over the fit images and measures it on validation.

        Raises:
            NonFiniteLossError: the loss became NaN or infinite.
        """
        started = time.perf_counter()
        loss, errors = self._train_epoch()
        trained = time.perf_counter() - started
        index, self.epoch = self.epoch, self.epoch + 1
        values = self.validate(epoch_images(self.data.fit_total, len(self.data.validation)))
        metrics = {
            "train_loss": loss / (self.data.fit_total * self.recipe.mollify.repeat),
            "train_error": errors / (self.data.fit_total * self.recipe.mollify.repeat),
            "lr": learning_rate(self.recipe, index),
            "images_per_second": self.data.fit_total / trained,
            **summarise(values),
            "seconds": time.perf_counter() - started,
        }
        return Epoch(index, metrics)

    def final(self) -> tuple[dict[str, float], dict[str, np.ndarray]]:
        """What a finished model is judged by, on all of validation: (clean_* and corrupted_*, values per image)."""
        values = self.validate()
        return summarise(values), image_values(values)

    def _train_epoch(self) -> tuple[float, float]:
        """(sum of losses, number of errors) over all fit images of all workers."""
        recipe, worker, total = self.recipe, self.worker, self.data.fit_total
        self._parallel.train()
        shard = len(self.data.fit)
        order = torch.randperm(shard, generator=rng.generator(recipe.seed, self.epoch, worker.rank, "order"))
        order = order.to(worker.device)
        batch = recipe.optim.batch_size // (worker.world * recipe.mollify.repeat)
        steps = math.ceil(len(range(0, total, worker.world)) / batch)  # rank 0 has the largest shard
        sums = torch.zeros(steps, device=worker.device)
        errors = torch.zeros((), device=worker.device)
        # Networks with dropout draw from the global generator: it too must depend on the epoch only.
        devices = [worker.device] if worker.device.type == "cuda" else []
        with torch.random.fork_rng(devices=devices):
            torch.manual_seed(rng.derive(recipe.seed, self.epoch, worker.rank, "network"))
            for step in range(steps):
                rows = order[step * batch : (step + 1) * batch]
                # Shards differ by one image at most, so at the last step a worker may have nothing left. It still
                # has to take part in the exchange of gradients: one image, weight 0.
                weight = 1.0 if len(rows) else 0.0
                rows = rows if len(rows) else order[:1]
                in_step = min((step + 1) * batch * worker.world, total) - step * batch * worker.world
                for group in self.optimizer.param_groups:
                    group["lr"] = learning_rate(recipe, self.epoch, (step + 1) / steps)
                sums[step], wrong = self._step(step, rows, in_step, weight)
                errors += wrong
                if step % _CHECK_EVERY == _CHECK_EVERY - 1 or step == steps - 1:
                    self._check_finite(sums[: step + 1])
        total_loss, total_errors = worker.sum(torch.stack([sums.sum().cpu(), errors.cpu()]).double()).tolist()
        return total_loss, total_errors

    def _step(self, step: int, rows: Tensor, in_step: int, weight: float) -> tuple[Tensor, Tensor]:
        """One optimiser step on `rows` of the shard; returns (sum of losses, number of errors), not synchronised.

        Args:
            step: step index in the epoch.
            rows: (batch,) indices into the shard.
            in_step: number of images of this step over all workers.
            weight: 0 for a filler image.
        """
        recipe, worker, data = self.recipe, self.worker, self.data
        key = (recipe.seed, self.epoch, step, worker.rank)
        images = augment(data.fit.images[rows], recipe.data.augment, rng.generator(*key, "augment"))
        batch = prepare(images, data.fit.labels[rows], data.classes, recipe, self._normalise, *key)
        with torch.autocast(worker.device.type, torch.bfloat16, enabled=recipe.optim.precision == "bf16"):
            logits = self._parallel(batch.x.contiguous(memory_format=torch.channels_last))
        loss = weight * losses(logits, batch, data.classes, recipe).sum()
        self.optimizer.zero_grad(set_to_none=True)
        # Workers' gradients are averaged, so each scales its sum to make the average that of the joined batch.
        (loss * (worker.world / (in_step * recipe.mollify.repeat))).backward()
        if recipe.optim.clip_norm is not None:
            nn.utils.clip_grad_norm_(self.network.parameters(), recipe.optim.clip_norm)
        self.optimizer.step()
        if self.average is not None:
            self.average.update_parameters(self.network)
        guess = logits.detach()[:, : data.classes].argmax(dim=1)
        return loss.detach(), weight * (guess != batch.labels).sum()

    def _check_finite(self, losses: Tensor) -> None:
        bad = (~torch.isfinite(losses)).nonzero()
        if len(bad):
            step = int(bad[0])
            raise NonFiniteLossError(
                f"Expected a finite loss, but got {float(losses[step])} in epoch {self.epoch}, step {step}",
                epoch=self.epoch,
                step=step,
            )

    @torch.inference_mode()
    def validate(self, k: int | None = None) -> Tensor:
        """(cells, k, 5) values of the first k validation images (None: all), the same on every worker."""
        validation = self.data.validation
        k = len(validation) if k is None else k
        self.evaluated.eval()
        values = validation.measure(self.forward, self.worker.share(k))
        return self.worker.sum(values)[:, :k]

    @property
    def evaluated(self) -> nn.Module:
        """The network that is measured: the average of the weights where there is one."""
        return self.network if self.average is None else self.average.module

    def forward(self, images: Tensor) -> Tensor:
        """Log-probabilities (batch, classes) of uint8 images (batch, channels, height, width), in evaluation mode."""
        x = self._normalise(images).contiguous(memory_format=torch.channels_last)
        with torch.autocast(self.worker.device.type, torch.bfloat16, enabled=self.recipe.optim.precision == "bf16"):
            logits = self.evaluated(x)
        return labels.log_probabilities(logits, self.data.classes, self.recipe.mollify.loss)

    def state(self, **meta: Any) -> checkpoint.Checkpoint:
        """The state after the epochs so far, copied to the CPU, so that training may go on while it is written."""
        optimizer = {
            index: {k: v.detach().cpu().clone() if isinstance(v, Tensor) else v for k, v in state.items()}
            for index, state in self.optimizer.state_dict()["state"].items()
        }
        model = _on_cpu(self.network.state_dict())
        average = {} if self.average is None else _on_cpu(self.average.state_dict())
        meta = {"recipe": self.recipe.to_dict(), "fingerprint": self.data.fingerprint, **meta}
        return checkpoint.Checkpoint(self.epoch, model, optimizer, meta, average)

    def _restore(self, state: checkpoint.Checkpoint) -> None:
        if Recipe.from_dict(state.meta["recipe"]) != self.recipe:
            raise CheckpointError("Expected a checkpoint of this recipe, but got one of another recipe")
        if state.meta["fingerprint"] != self.data.fingerprint:
            raise CheckpointError("Expected a checkpoint of this data set, but got one of another data set")
        self.network.load_state_dict(state.model)
        if self.average is not None:
            self.average.load_state_dict(state.average)
        optimizer = self.optimizer.state_dict()
        self.optimizer.load_state_dict({**optimizer, "state": state.optimizer})
        # Stored row-major; the fused step wants the memory layout of its parameter.
        for parameter, entry in self.optimizer.state.items():
            for key, value in entry.items():
                if isinstance(value, Tensor) and value.shape == parameter.shape:
                    entry[key] = torch.empty_like(parameter).copy_(value)
        self.epoch = state.epoch


def _on_cpu(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().cpu().clone() for name, tensor in tensors.items()}


def _optimizer(recipe: Recipe, network: nn.Module) -> torch.optim.Optimizer:
    config = recipe.optim
    shared: dict[str, Any] = {"lr": config.lr, "weight_decay": config.weight_decay, "fused": True}
    if config.optimizer == "adamw":
        return torch.optim.AdamW(network.parameters(), **shared)
    return torch.optim.SGD(network.parameters(), momentum=config.momentum, nesterov=config.nesterov, **shared)
