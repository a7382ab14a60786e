"""Pieces that several networks share: convolutions, residual blocks, stages, the classifier head, He initialisation.

ReLU works in place wherever its input is the output of a convolution, batch norm or sum: none of these needs its
output in the backward pass.
"""

from collections.abc import Callable

import torch
from torch import nn

Block = Callable[[int, int, int], nn.Module]
"""Builds one residual block from (input channels, output channels, stride)."""

# Depth -> blocks per stage (He et al. 2016, arXiv:1512.03385, Table 1).
RESNET_BLOCKS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3)}


def conv(in_channels: int, out_channels: int, kernel: int, stride: int = 1, groups: int = 1) -> nn.Conv2d:
    """A convolution without bias; `kernel` is odd, and stride 1 keeps the map size."""
    return nn.Conv2d(in_channels, out_channels, kernel, stride, kernel // 2, groups=groups, bias=False)


def conv_bn(in_channels: int, out_channels: int, kernel: int, stride: int = 1, groups: int = 1) -> list[nn.Module]:
    return [conv(in_channels, out_channels, kernel, stride, groups), nn.BatchNorm2d(out_channels)]


def conv_bn_relu(in_channels: int, out_channels: int, kernel: int, stride: int = 1, groups: int = 1) -> list[nn.Module]:
    return [*conv_bn(in_channels, out_channels, kernel, stride, groups), nn.ReLU(inplace=True)]


def bn_relu(channels: int) -> list[nn.Module]:
    return [nn.BatchNorm2d(channels), nn.ReLU(inplace=True)]


def bn_relu_conv(in_channels: int, out_channels: int, kernel: int, stride: int = 1) -> list[nn.Module]:
    return [*bn_relu(in_channels), conv(in_channels, out_channels, kernel, stride)]


class Residual(nn.Module):
    """`path(x) + shortcut(x)`, rectified when `relu`. `path` ends in a convolution or a batch norm."""

    def __init__(self, path: list[nn.Module], shortcut: nn.Module, *, relu: bool) -> None:
        super().__init__()
        self.path = nn.Sequential(*path)
        self.shortcut = shortcut
        self.relu = relu

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.path(x)
        y += self.shortcut(x)
        return y.relu_() if self.relu else y


def stage(block: Block, in_channels: int, out_channels: int, blocks: int, stride: int) -> nn.Sequential:
    """A chain of blocks, of which the first changes the width and the map size."""
    first = block(in_channels, out_channels, stride)
    return nn.Sequential(first, *(block(out_channels, out_channels, 1) for _ in range(blocks - 1)))


def resnet_stages(depth: int, basic: Block, bottleneck: Block) -> tuple[list[nn.Module], int]:
    """The four stages of a ResNet after a stem of 64 channels, and the channels that they end with.

    Base widths 64, 128, 256, 512 and strides 1, 2, 2, 2; bottlenecks, four times as wide, from depth 50.
    """
    block, expansion = (basic, 1) if depth < 50 else (bottleneck, 4)
    stages: list[nn.Module] = []
    channels = 64
    for i, blocks in enumerate(RESNET_BLOCKS[depth]):
        width = 64 * 2**i * expansion
        stages.append(stage(block, channels, width, blocks, stride=1 if i == 0 else 2))
        channels = width
    return stages, channels


def classifier(features: int, num_classes: int) -> list[nn.Module]:
    """Global average pool and linear layer: (batch, features, height, width) -> (batch, num_classes)."""
    return [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(features, num_classes)]


def he_init(net: nn.Module) -> nn.Module:
    """`net` with convolution weights ~ N(0, 2 / (kernel area * output channels)) and linear biases 0, set in place.

    Batch norm starts at weight 1 and bias 0 by itself; convolution biases and linear weights keep PyTorch's default
    (He et al. 2015, arXiv:1502.01852, section 2.2, the backward form).
    """
    for module in net.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        elif isinstance(module, nn.Linear):
            nn.init.zeros_(module.bias)
    return net
