"""A trained network with what belongs to it: images in, probabilities of the classes out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from mollify_core import labels, networks
from mollify_core.checkpoint import Checkpoint
from mollify_core.errors import CheckpointError, first_line
from mollify_core.networks import weights
from mollify_core.networks.registry import arguments
from mollify_core.networks.weights import NONE
from mollify_core.normalise import Normalise
from mollify_core.precision import arithmetic, autocast
from mollify_core.recipe import Recipe
from mollify_core.settings import SINK_MODES


def build_network(
    recipe: Recipe, classes: int, image_shape: tuple[int, int, int], make: Callable[..., nn.Module] | None = None
) -> nn.Module:
    """The network of a recipe, freshly initialised from the global generator.

    Args:
        recipe: its `model` section counts, and whether its label mode has a sink class.
        classes: number of classes of the data.
        image_shape: (channels, height, width).
        make: `networks.build`, by default; or `networks.outline`, which takes no memory.
    """
    model, outputs = recipe.model, labels.outputs(classes, recipe.mollify.label_mode)
    how: dict[str, Any] = {"given": model.network_kwargs, "sha256": model.network_sha256}
    how |= {"final_bn": model.final_bn, "published": model.published}
    return (make or networks.build)(model.network, outputs, image_shape, **how)


def start_network(recipe: Recipe, classes: int, image_shape: tuple[int, int, int]) -> tuple[nn.Module, str]:
    """The network from which training starts, with the weights that the recipe names; and which layer they leave new.

    Raises:
        ConfigError, DataError: the network cannot be built, or the weights are not here or do not fit.
    """
    network, model = build_network(recipe, classes, image_shape), recipe.model
    if model.weights == NONE:
        return network, ""
    outputs = labels.outputs(classes, recipe.mollify.label_mode)
    return network, weights.load(network, model.weights_sha256, outputs, model.weights)


def keep_weights(text: str, recipe: Recipe, classes: int, image_shape: tuple[int, int, int]) -> dict[str, str]:
    """The settings of a recipe that mean the weights `text` for its network, see `networks.weights.named`."""
    outputs, kwargs = labels.outputs(classes, recipe.mollify.label_mode), arguments(recipe.model.network_kwargs)
    return weights.named(text, recipe.model.network, outputs, image_shape, kwargs)


@dataclass(frozen=True)
class Classifier:
    """Images -> log-probabilities, with the scaling, the precision and the loss of a recipe.

    Attributes:
        network: in evaluation mode, on its device, channels_last.
        normalise: network input from images.
        recipe: what it was trained by.
        classes: number of classes, a sink not counted.
    """

    network: nn.Module
    normalise: Normalise
    recipe: Recipe
    classes: int

    @classmethod
    def load(
        cls,
        state: Checkpoint,
        classes: int,
        image_shape: tuple[int, int, int],
        mean: tuple[float, ...],
        std: tuple[float, ...],
        device: torch.device | str = "cpu",
    ) -> Classifier:
        """The classifier in a checkpoint; the average of the weights where there is one.

        Args:
            state: the checkpoint.
            classes, image_shape, mean, std: of the data set it was trained on.
            device: where it runs.

        Raises:
            CheckpointError: the weights do not fit the network that the checkpoint's recipe names.
        """
        recipe = Recipe.from_dict(state.meta["recipe"])
        if recipe.optim.ema and not state.average:
            raise CheckpointError("Expected the average of the weights, by which its recipe is judged, but it has none")
        network = build_network(recipe, classes, image_shape)
        tensors = state.model
        if state.average:
            prefix = "module."
            tensors = {k.removeprefix(prefix): v for k, v in state.average.items() if k.startswith(prefix)}
        try:
            network.load_state_dict(tensors)
        except RuntimeError as error:
            raise CheckpointError(
                f"The weights do not fit {recipe.model.network} with {classes} classes: {first_line(error)}"
            ) from None
        network = network.to(device).to(memory_format=torch.channels_last).eval()
        return cls(network, Normalise.make(recipe.data.scaling, mean, std, device), recipe, classes)

    @property
    def has_sink(self) -> bool:
        """Whether the last output is a sink class."""
        return self.recipe.mollify.label_mode in SINK_MODES

    def logits(self, x: Tensor) -> Tensor:
        """(batch, outputs) of network input (batch, channels, height, width), under the recipe's precision."""
        precision = self.recipe.optim.precision
        with arithmetic(precision, x.device), autocast(precision, x.device):
            return self.network(x.contiguous(memory_format=torch.channels_last))

    def __call__(self, images: Tensor) -> Tensor:
        """(batch, classes) float32 log-probabilities of images, uint8 or float in [0, 1]."""
        return self._log_probabilities(self.logits(self.normalise(images)))

    def with_sink(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """As `__call__`, and the (batch,) probability of the sink class, of a network that has one."""
        logits = self.logits(self.normalise(images))
        return self._log_probabilities(logits), labels.sink_mass(logits, self.recipe.mollify.loss)

    def with_energy(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """As `__call__`, and (batch, 2): the sink's probability, NaN without one, and logsumexp of the class logits."""
        logits = self.logits(self.normalise(images))
        energy = logits.float()[:, : self.classes].logsumexp(dim=1)
        sink = (
            labels.sink_mass(logits, self.recipe.mollify.loss) if self.has_sink else torch.full_like(energy, torch.nan)
        )
        return self._log_probabilities(logits), torch.stack([sink, energy], dim=1)

    def _log_probabilities(self, logits: Tensor) -> Tensor:
        return labels.log_probabilities(logits, self.classes, self.recipe.mollify.loss)
