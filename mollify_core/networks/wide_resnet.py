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


def wide_resnet28(
    widening: int, num_classes: int, image_shape: tuple[int, int, int], *, published: bool = False
) -> nn.Module:
    """WRN-28-`widening` with dropout 0.3 in its blocks, in the form of the released code of Siedel et al. 2025.

    Three stages of four blocks. Unlike in `wide_resnet40` all convolutions have biases and PyTorch's initialisation,
    a block subsamples in its second convolution, and its projection sees what comes in before it is activated. Images
    of 64 pixels or more are subsampled in the first stage too.

    Args:
        widening: the paper's k; the stages are 16k, 32k and 64k wide.
        num_classes: number of outputs.
        image_shape: (channels, height, width).
        published: the last batch norm forgets at 0.9 a step, as in the released code, in place of 0.1.
    """
    widths = [width * widening for width in (16, 32, 64)]
    return nn.Sequential(
        _biased(image_shape[0], 16, 3),
        stage(_dropping, 16, widths[0], 4, stride=2 if image_shape[1] >= 64 else 1),
        stage(_dropping, widths[0], widths[1], 4, stride=2),
        stage(_dropping, widths[1], widths[2], 4, stride=2),
        nn.BatchNorm2d(widths[2], momentum=0.9 if published else 0.1),
        nn.ReLU(inplace=True),
        *classifier(widths[2], num_classes),
    )


def _biased(in_channels: int, out_channels: int, kernel: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(in_channels, out_channels, kernel, stride, kernel // 2)


def _dropping(in_channels: int, out_channels: int, stride: int) -> nn.Module:
    path = [
        *bn_relu(in_channels),
        _biased(in_channels, out_channels, 3),
        nn.Dropout(0.3),
        *bn_relu(out_channels),
        _biased(out_channels, out_channels, 3, stride),
    ]
    same = in_channels == out_channels and stride == 1
    return Residual(path, nn.Identity() if same else _biased(in_channels, out_channels, 1, stride), relu=False)


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
