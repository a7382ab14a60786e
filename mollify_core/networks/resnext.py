"""ResNeXt-29 for small images (Xie et al. 2017, arXiv:1611.05431)."""

from torch import nn

from mollify_core.networks.layers import Residual, conv_bn, conv_bn_relu, he_init, stage

CARDINALITY = 4


def resnext29(num_classes: int, image_shape: tuple[int, int, int]) -> nn.Module:
    """ResNeXt-29 (4x32d), He initialisation, of the linear weight too.

    The last map is pooled to one cell per 8x8 pixels of it (32 pixels of the image), so the linear layer sees 1024
    features at 32 pixels and 4096 at 64 pixels (released code of Heinonen et al. 2025).

    Args:
        num_classes: number of outputs.
        image_shape: (channels, height, width).
    """
    cells = max(1, image_shape[1] // 32)
    linear = nn.Linear(1024 * cells**2, num_classes)
    nn.init.kaiming_normal_(linear.weight)
    return he_init(
        nn.Sequential(
            *conv_bn_relu(image_shape[0], 64, 3),
            stage(_block, 64, 256, 3, stride=1),
            stage(_block, 256, 512, 3, stride=2),
            stage(_block, 512, 1024, 3, stride=2),
            nn.AdaptiveAvgPool2d(cells),
            nn.Flatten(),
            linear,
        )
    )


def _block(in_channels: int, out_channels: int, stride: int) -> nn.Module:
    width = out_channels // 2
    path = [
        *conv_bn_relu(in_channels, width, 1),
        *conv_bn_relu(width, width, 3, stride, CARDINALITY),
        *conv_bn(width, out_channels, 1),
    ]
    same = in_channels == out_channels
    shortcut = nn.Identity() if same else nn.Sequential(*conv_bn(in_channels, out_channels, 1, stride))
    return Residual(path, shortcut, relu=True)
