"""Post-activation ResNets for small images (He et al. 2016, arXiv:1512.03385)."""

import torch
from torch import nn
from torch.nn import functional as F

from mollify_core.networks.layers import Residual, classifier, conv_bn, conv_bn_relu, he_init, resnet_stages, stage


def resnet(depth: int, num_classes: int, image_shape: tuple[int, int, int]) -> nn.Module:
    """ResNet with a 3x3 stem and projection shortcuts, PyTorch's default initialisation.

    Args:
        depth: 18 or 34 (basic blocks), 50 or 101 (bottlenecks).
        num_classes: number of outputs.
        image_shape: (channels, height, width).
    """
    stages, channels = resnet_stages(depth, _basic, _bottleneck)
    return nn.Sequential(*conv_bn_relu(image_shape[0], 64, 3), *stages, *classifier(channels, num_classes))


def cifar_resnet(depth: int, num_classes: int, image_shape: tuple[int, int, int]) -> nn.Module:
    """The CIFAR ResNet of the paper's section 4.2: widths 16, 32, 64, shortcuts without parameters.

    He initialisation, as the paper's.

    Args:
        depth: 6n + 2 for n basic blocks a stage: 8, or 20 as in the paper.
        num_classes: number of outputs.
        image_shape: (channels, height, width).
    """
    blocks = (depth - 2) // 6
    return he_init(
        nn.Sequential(
            *conv_bn_relu(image_shape[0], 16, 3),
            stage(_basic_padded, 16, 16, blocks, stride=1),
            stage(_basic_padded, 16, 32, blocks, stride=2),
            stage(_basic_padded, 32, 64, blocks, stride=2),
            *classifier(64, num_classes),
        )
    )


class _PadShortcut(nn.Module):
    """Option A of the paper's section 3.3: every `stride`-th row and column, then `extra` channels of zeros."""

    def __init__(self, stride: int, extra: int) -> None:
        super().__init__()
        self.stride, self.extra = stride, extra

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, 0, self.extra))


def _basic_path(in_channels: int, out_channels: int, stride: int) -> list[nn.Module]:
    return [*conv_bn_relu(in_channels, out_channels, 3, stride), *conv_bn(out_channels, out_channels, 3)]


def _basic_padded(in_channels: int, out_channels: int, stride: int) -> nn.Module:
    same = stride == 1 and in_channels == out_channels
    shortcut = nn.Identity() if same else _PadShortcut(stride, out_channels - in_channels)
    return Residual(_basic_path(in_channels, out_channels, stride), shortcut, relu=True)


def _basic(in_channels: int, out_channels: int, stride: int) -> nn.Module:
    path = _basic_path(in_channels, out_channels, stride)
    return Residual(path, _shortcut(in_channels, out_channels, stride), relu=True)


def _bottleneck(in_channels: int, out_channels: int, stride: int) -> nn.Module:
    width = out_channels // 4
    path = [
        *conv_bn_relu(in_channels, width, 1),
        *conv_bn_relu(width, width, 3, stride),
        *conv_bn(width, out_channels, 1),
    ]
    return Residual(path, _shortcut(in_channels, out_channels, stride), relu=True)


def _shortcut(in_channels: int, out_channels: int, stride: int) -> nn.Module:
    same = stride == 1 and in_channels == out_channels
    return nn.Identity() if same else nn.Sequential(*conv_bn(in_channels, out_channels, 1, stride))
