"""Wide ResNets (Zagoruyko and Komodakis 2016, arXiv:1605.07146)."""

import torch
from torch import nn

from mollify_core.networks.layers import Residual, bn_relu, bn_relu_conv, classifier, conv, he_init, stage


def wide_resnet40(widening: int, num_classes: int, image_shape: tuple[int, int, int]) -> nn.Module:
    """WRN-40-`widening`: three stages of six pre-activation basic blocks, no dropout, He initialisation.

    Args:
        widening: the paper's k; the stages are 16k, 32k and 64k wide.
        num_classes: number of outputs.
        image_shape: (channels, height, width).
    """
    widths = [width * widening for width in (16, 32, 64)]
    return he_init(
        nn.Sequential(
            conv(image_shape[0], 16, 3),
            stage(_block, 16, widths[0], 6, stride=1),
            stage(_block, widths[0], widths[1], 6, stride=2),
            stage(_block, widths[1], widths[2], 6, stride=2),
            *bn_relu(widths[2]),
            *classifier(widths[2], num_classes),
        )
    )


class _Widening(nn.Module):
    """A block that changes the width: its path and its projection both see the activated input."""

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.activate = nn.Sequential(*bn_relu(in_channels))
        path = [conv(in_channels, out_channels, 3, stride), *bn_relu_conv(out_channels, out_channels, 3)]
        self.residual = Residual(path, conv(in_channels, out_channels, 1, stride), relu=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.residual(self.activate(x))


def _block(in_channels: int, out_channels: int, stride: int) -> nn.Module:
    if in_channels != out_channels:
        return _Widening(in_channels, out_channels, stride)
    path = [*bn_relu_conv(in_channels, out_channels, 3), *bn_relu_conv(out_channels, out_channels, 3)]
    return Residual(path, nn.Identity(), relu=False)
