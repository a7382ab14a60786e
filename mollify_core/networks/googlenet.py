"""GoogLeNet with batch norm for small images (Szegedy et al. 2015, arXiv:1409.4842)."""

import torch
from torch import nn

from mollify_core.networks.layers import conv_bn_relu


def googlenet(num_classes: int, image_shape: tuple[int, int, int], *, published: bool = False) -> nn.Module:
    """GoogLeNet with a stem of three 3x3 convolutions, "5x5" as two 3x3, PyTorch's default initialisation.

    Args:
        num_classes: number of outputs.
        image_shape: (channels, height, width).
        published: as in the released code of Heinonen et al. 2025, where the first batch norm of each 5x5 branch has
            its channel count (32 to 128) as eps, which nearly silences the branch; otherwise eps is 1e-5.
    """

    def inception(in_channels: int, *widths: int) -> nn.Module:
        return _Inception(in_channels, *widths, published=published)

    return nn.Sequential(
        *conv_bn_relu(image_shape[0], 64, 3),
        *conv_bn_relu(64, 64, 3),
        *conv_bn_relu(64, 192, 3),
        nn.MaxPool2d(3, 2, 1),
        inception(192, 64, 96, 128, 16, 32, 32),
        inception(256, 128, 128, 192, 32, 96, 64),
        nn.MaxPool2d(3, 2, 1),
        inception(480, 192, 96, 208, 16, 48, 64),
        inception(512, 160, 112, 224, 24, 64, 64),
        inception(512, 128, 128, 256, 24, 64, 64),
        inception(512, 112, 144, 288, 32, 64, 64),
        inception(528, 256, 160, 320, 32, 128, 128),
        nn.MaxPool2d(3, 2, 1),
        inception(832, 256, 160, 320, 32, 128, 128),
        inception(832, 384, 192, 384, 48, 128, 128),
        nn.AdaptiveAvgPool2d(1),
        nn.Dropout2d(0.4),
        nn.Flatten(),
        nn.Linear(1024, num_classes),
    )


class _Inception(nn.Module):
    """Four parallel branches, concatenated: 1x1; 1x1, 3x3; 1x1, 3x3, 3x3 ("5x5"); max pool, 1x1."""

    def __init__(
        self, in_channels: int, n1: int, n3_reduce: int, n3: int, n5_reduce: int, n5: int, pool: int, *, published: bool
    ) -> None:
        super().__init__()
        five = [*_conv_bn_relu(n5_reduce, n5, 3, eps=n5 if published else 1e-5), *_conv_bn_relu(n5, n5, 3)]
        self.branches = nn.ModuleList(
            [
                nn.Sequential(*_conv_bn_relu(in_channels, n1, 1)),
                nn.Sequential(*_conv_bn_relu(in_channels, n3_reduce, 1), *_conv_bn_relu(n3_reduce, n3, 3)),
                nn.Sequential(*_conv_bn_relu(in_channels, n5_reduce, 1), *five),
                nn.Sequential(nn.MaxPool2d(3, 1, 1), *_conv_bn_relu(in_channels, pool, 1)),
            ]
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([branch(x) for branch in self.branches], dim=1)


def _conv_bn_relu(in_channels: int, out_channels: int, kernel: int, eps: float = 1e-5) -> list[nn.Module]:
    """Unlike the stem's, the convolutions of an inception module have a bias."""
    convolution = nn.Conv2d(in_channels, out_channels, kernel, padding=kernel // 2)
    return [convolution, nn.BatchNorm2d(out_channels, eps), nn.ReLU(inplace=True)]
