"""DenseNets without bottleneck and compression (Huang et al. 2017, arXiv:1608.06993)."""

import torch
from torch import nn

from mollify_core.networks.layers import bn_relu, bn_relu_conv, classifier, conv, he_init

GROWTH = 12


def densenet(depth: int, num_classes: int, image_shape: tuple[int, int, int]) -> nn.Module:
    """DenseNet of growth rate 12 with three dense blocks, He initialisation.

    Args:
        depth: 3 n + 4 for n layers per block: 40 or 100.
        num_classes: number of outputs.
        image_shape: (channels, height, width).
    """
    layers: list[nn.Module] = [conv(image_shape[0], 24, 3)]
    channels = 24
    for block in range(3):
        if block > 0:
            layers += [*bn_relu_conv(channels, channels, 1), nn.AvgPool2d(2)]
        for _ in range((depth - 4) // 3):
            layers.append(_DenseLayer(channels))
            channels += GROWTH
    return he_init(nn.Sequential(*layers, *bn_relu(channels), *classifier(channels, num_classes)))


class _DenseLayer(nn.Module):
    """Appends `GROWTH` feature maps to its input."""

    def __init__(self, in_channels: int) -> None:
        super().__init__()
        self.path = nn.Sequential(*bn_relu_conv(in_channels, GROWTH, 3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([x, self.path(x)], dim=1)
