"""What a network of another library has to keep, found out before any trial."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mollify_core import labels, rng
from mollify_core.classifier import start_network
from mollify_core.errors import ConfigError, first_line
from mollify_core.optimisation import check_tuning
from mollify_core.recipe import Recipe

_IMAGES = 8  # that it is shown


def check_network(recipe: Recipe, images: Tensor, classes: int) -> str:
    """Checks that a recipe's network can be trained: it is built alike from one seed, takes a batch, gives logits, and
    has a finite loss with finite gradients.

    Args:
        recipe: names it.
        images: (n, channels, height, width) uint8 of the data set, two at least.
        classes: of the data set.

    Returns:
        The layer that its weights leave new; "" where there is none.

    Raises:
        ConfigError: it does not; what came is named.
        DataError: its weights are of another network.
    """
    name, shape = recipe.model.network, (images.shape[1], images.shape[2], images.shape[3])
    x = images[:_IMAGES].cpu().float() / 255
    with torch.random.fork_rng(devices=[]):
        (network, head), (again, _) = (_built(recipe, classes, shape) for _ in range(2))
        _check_equal(name, network, again)
        outputs = labels.outputs(classes, recipe.mollify.label_mode)
        for mode in ("training", "evaluation"):
            logits = _shown(name, network.train(mode == "training"), x, mode)
            if not isinstance(logits, Tensor) or logits.shape != (len(x), outputs):
                came = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
                raise ConfigError(
                    f"Expected {name} to give logits of shape {(len(x), outputs)} in {mode}, but got {came}"
                )
            if not logits.isfinite().all():
                raise ConfigError(f"Expected {name} to give finite logits in {mode}, but got NaN or infinity")
            if mode == "training":
                F.cross_entropy(logits.float(), torch.zeros(len(x), dtype=torch.int64)).backward()
        bad = [key for key, p in network.named_parameters() if p.grad is not None and not p.grad.isfinite().all()]
        if bad:
            raise ConfigError(f"Expected finite gradients of {name}, but got NaN or infinity in {bad[0]}")
        check_tuning(recipe, network, outputs)
    return head


def _built(recipe: Recipe, classes: int, shape: tuple[int, int, int]) -> tuple[nn.Module, str]:
    rng.reseed(torch.default_generator, recipe.seed, "init")
    return start_network(recipe, classes, shape)


def _check_equal(name: str, one: nn.Module, other: nn.Module) -> None:
    first, second = one.state_dict(), other.state_dict()
    different = [key for key in first.keys() & second.keys() if not torch.equal(first[key], second[key])]
    if first.keys() != second.keys() or different:
        what = min(different) if different else "its parameters"
        raise ConfigError(
            f"Expected {name} to be the same when it is built twice from one seed, but {what} differs: it draws from a "
            "generator other than PyTorch's"
        )


def _shown(name: str, network: nn.Module, x: Tensor, mode: str) -> object:
    try:
        return network(x)
    except Exception as error:  # whatever a network may raise over an image that is too small for it
        size = f"{x.shape[3]}x{x.shape[2]}"
        raise ConfigError(f"Network {name} takes no images of {size} pixels in {mode}: {first_line(error)}") from None
