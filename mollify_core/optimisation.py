"""Which layers learn, when, and how fast; and the optimiser that does it."""

from __future__ import annotations

import copy
import inspect
import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from mollify_core.errors import ConfigError
from mollify_core.networks.weights import head_of
from mollify_core.recipe import Recipe


def check_tuning(recipe: Recipe, network: nn.Module, outputs: int) -> None:
    """Checks that the network has a last layer where a recipe treats it otherwise than the others.

    Raises:
        ConfigError: it has none.
    """
    if (recipe.optim.frozen_epochs or recipe.optim.head_lr_factor != 1) and not head_of(network, outputs):
        raise ConfigError(
            f"Expected a last layer with {outputs} outputs in {recipe.model.network} for frozen_epochs or "
            "head_lr_factor, but it has none"
        )


def optimizer(recipe: Recipe, network: nn.Module, outputs: int) -> torch.optim.Optimizer:
    """The recipe's optimiser; the last layer has a group of its own where it learns at another rate or begins alone.

    Fused SGD takes momenta of all of a group's parameters or of none.
    """
    config = recipe.optim
    shared: dict[str, Any] = {"lr": config.lr, "weight_decay": config.weight_decay, "fused": True}
    groups: Any = network.parameters()
    if config.head_lr_factor != 1 or config.frozen_epochs:
        body, head = _split(network, outputs)
        groups = [{"params": body}, {"params": head}]
    if config.optimizer == "adamw":
        return _AdamW(groups, **shared)
    return _SGD(groups, momentum=config.momentum, nesterov=config.nesterov, **shared)


class _Eager:
    """An optimiser whose first use does not import PyTorch's compiler, which takes a second or two.

    PyTorch does that to tell the compiler to leave these methods alone; no step of ours is compiled with its optimiser.
    """

    add_param_group = inspect.unwrap(torch.optim.Optimizer.add_param_group)
    zero_grad = inspect.unwrap(torch.optim.Optimizer.zero_grad)
    state_dict = inspect.unwrap(torch.optim.Optimizer.state_dict)
    load_state_dict = inspect.unwrap(torch.optim.Optimizer.load_state_dict)


class _SGD(_Eager, torch.optim.SGD):
    step = torch.no_grad()(inspect.unwrap(torch.optim.SGD.step))


class _AdamW(_Eager, torch.optim.AdamW):
    step = torch.no_grad()(inspect.unwrap(torch.optim.AdamW.step))


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


class Average:
    """An exponential moving average of a network's weights and buffers; before the first step it is the network itself.

    What PyTorch's `AveragedModel` computes, without its waits for the device: that keeps its count of steps in a
    tensor, and averages integers, as BatchNorm's counts of batches, one by one. Its state is of the same form.

    Args:
        network: what is averaged, step by step.
        decay: per step, in (0, 1).

    Attributes:
        module: the averaged network.
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        self.module, self._decay, self._steps = copy.deepcopy(network).requires_grad_(False), decay, 0

    @torch.no_grad()
    def update(self, network: nn.Module) -> None:
        """Takes in the weights after a step; the first ones are the average."""
        pairs = list(zip(_tensors(self.module), _tensors(network), strict=True))
        mixed = [(a, b) for a, b in pairs if a.is_floating_point() and self._steps]
        copied = [(a, b) for a, b in pairs if not (a.is_floating_point() and self._steps)]
        if mixed:
            torch._foreach_lerp_([a for a, _ in mixed], [b for _, b in mixed], 1 - self._decay)
        if copied:
            torch._foreach_copy_([a for a, _ in copied], [b for _, b in copied])
        self._steps += 1

    def state_dict(self) -> dict[str, Tensor]:
        """By the names that `AveragedModel` gives."""
        state = {f"module.{name}": tensor for name, tensor in self.module.state_dict().items()}
        return {"n_averaged": torch.tensor(self._steps), **state}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Raises as `torch.nn.Module.load_state_dict` does, and a KeyError without a count of steps."""
        self.module.load_state_dict({k.removeprefix("module."): v for k, v in state.items() if k != "n_averaged"})
        self._steps = int(state["n_averaged"])


def _tensors(network: nn.Module) -> list[Tensor]:
    return [*network.parameters(), *network.buffers()]


def set_rate(recipe: Recipe, optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Sets the learning rate of a step."""
    for index, group in enumerate(optimizer.param_groups):
        group["lr"] = rate * (recipe.optim.head_lr_factor if index else 1)


def is_frozen(recipe: Recipe, epoch: int) -> bool:
    """Whether the last layer learns alone in an epoch (index, from 0)."""
    return epoch < recipe.optim.frozen_epochs


def set_learning(recipe: Recipe, network: nn.Module, outputs: int, epoch: int) -> None:
    """Says which parameters have gradients in an epoch."""
    if recipe.optim.frozen_epochs:
        for parameter in _split(network, outputs)[0]:
            parameter.requires_grad_(not is_frozen(recipe, epoch))


def train_mode(recipe: Recipe, network: nn.Module, epoch: int) -> None:
    """Puts a network into training mode, but for the BatchNorm whose statistics stay in this epoch."""
    network.train()
    if recipe.optim.frozen_bn or is_frozen(recipe, epoch):
        for module in network.modules():
            if isinstance(module, _BatchNorm):
                module.eval()


def _split(network: nn.Module, outputs: int) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """(the parameters of the body, those of the last layer)."""
    head = f"{head_of(network, outputs)}."
    named = list(network.named_parameters())
    return [p for n, p in named if not n.startswith(head)], [p for n, p in named if n.startswith(head)]
