"""The all-convolutional network of Springenberg et al. 2015 (arXiv:1412.6806), in the form of AugMix's experiments."""

import torch
from torch import nn
from torch.nn import functional as F

from mollify_core.networks.layers import he_init


def allconvnet10(num_classes: int, image_shape: tuple[int, int, int]) -> nn.Module:
    """Nine convolutions with bias, batch norm and GELU, pooled in 8x8 windows, He initialisation.

    The linear layer sees 192 features at 32 pixels and 768 at 64 pixels.

    Args:
        num_classes: number of outputs.
        image_shape: (channels, height, width).
    """
    last_side = image_shape[1] // 4 + 2
    return he_init(
        nn.Sequential(
            *_conv_bn_gelu(image_shape[0], 96, 3, 1),
            *_conv_bn_gelu(96, 96, 3, 1),
            *_conv_bn_gelu(96, 96, 3, 1),
            nn.MaxPool2d(2),
            nn.Dropout(0.5),
            *_conv_bn_gelu(96, 192, 3, 1),
            *_conv_bn_gelu(192, 192, 3, 1),
            *_conv_bn_gelu(192, 192, 3, 1),
            nn.MaxPool2d(2),
            nn.Dropout(0.5),
            *_conv_bn_gelu(192, 192, 3, 0),
            # Padded 1x1 convolutions, each enlarging the map by 2, are the released code's: parity needs them.
            *_conv_bn_gelu(192, 192, 1, 1),
            *_conv_bn_gelu(192, 192, 1, 1),
            nn.AvgPool2d(8),
            nn.Flatten(),
            nn.Linear(192 * (last_side // 8) ** 2, num_classes),
        )
    )


class _SigmoidGELU(nn.Module):
    """x sigmoid(1.702 x) (Hendrycks and Gimpel 2016, arXiv:1606.08415), overwriting x.

    Written through SiLU, which keeps one tensor for the backward pass where the plain product keeps two.
    """

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.silu(x.mul_(1.702)).mul_(1 / 1.702)


def _conv_bn_gelu(in_channels: int, out_channels: int, kernel: int, padding: int) -> list[nn.Module]:
    convolution = nn.Conv2d(in_channels, out_channels, kernel, padding=padding)
    return [convolution, nn.BatchNorm2d(out_channels), _SigmoidGELU()]
