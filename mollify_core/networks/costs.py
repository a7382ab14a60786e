"""What each network costs: parameters, and multiply-adds per image."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from mollify_core.networks.registry import NETWORKS, outline


@dataclass(frozen=True)
class Cost:
    """The size of one network.

    Attributes:
        name: its name in the registry.
        parameters: trainable parameters.
        multiply_adds: of the convolutions and linear layers, in the forward pass of one image.
    """

    name: str
    parameters: int
    multiply_adds: int


def cost(
    name: str, num_classes: int, image_shape: tuple[int, int, int], given: Sequence[str] = (), sha256: str = ""
) -> Cost:
    """The size of one network, found without allocating it.

    Args:
        name: its name, see `registry.build`.
        num_classes: number of outputs.
        image_shape: (channels, height, width).
        given: further arguments of a library's network or one's own.
        sha256: of the code of a network of one's own.

    Raises:
        ConfigError: as `build`.
    """
    from torch.utils.flop_counter import FlopCounterMode  # imports a compiler

    net = outline(name, num_classes, image_shape, given=given, sha256=sha256).eval()
    with torch.device("meta"):
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            net(torch.empty(1, *image_shape))
    parameters = sum(p.numel() for p in net.parameters() if p.requires_grad)
    return Cost(name, parameters, counter.get_total_flops() // 2)


def describe(num_classes: int = 10, image_shape: tuple[int, int, int] = (3, 32, 32)) -> list[Cost]:
    """The size of every network that takes images of this shape, by name."""
    fitting = [name for name, network in sorted(NETWORKS.items()) if network.min_side <= image_shape[1]]
    return [cost(name, num_classes, image_shape) for name in fitting]
