"""Pre-activation ResNets for small images (He et al. 2016, arXiv:1603.05027), as supervised mollification has them."""

from torch import nn

from mollify_core.networks.layers import Residual, bn_relu, bn_relu_conv, classifier, conv, resnet_stages


def presnet(depth: int, num_classes: int, image_shape: tuple[int, int, int], *, final_bn: bool = False) -> nn.Module:
    """Pre-activation ResNet with a 3x3 stem, PyTorch's default initialisation.

    Unlike the paper's, the last stage is pooled without batch norm and ReLU, and a projection shortcut sees the raw
    block input (released code of Heinonen et al. 2025).

    Args:
        depth: 18 or 34 (basic blocks), 50 or 101 (bottlenecks).
        num_classes: number of outputs.
        image_shape: (channels, height, width).
        final_bn: batch norm and ReLU before pooling, as in the paper.
    """
    stages, channels = resnet_stages(depth, _basic, _bottleneck)
    final = bn_relu(channels) if final_bn else []
    return nn.Sequential(conv(image_shape[0], 64, 3), *stages, *final, *classifier(channels, num_classes))


def _basic(in_channels: int, out_channels: int, stride: int) -> nn.Module:
    path = [*bn_relu_conv(in_channels, out_channels, 3, stride), *bn_relu_conv(out_channels, out_channels, 3)]
    return Residual(path, _shortcut(in_channels, out_channels, stride), relu=False)


def _bottleneck(in_channels: int, out_channels: int, stride: int) -> nn.Module:
    width = out_channels // 4
    path = [
        *bn_relu_conv(in_channels, width, 1),
        *bn_relu_conv(width, width, 3, stride),
        *bn_relu_conv(width, out_channels, 1),
    ]
    return Residual(path, _shortcut(in_channels, out_channels, stride), relu=False)


def _shortcut(in_channels: int, out_channels: int, stride: int) -> nn.Module:
    same = stride == 1 and in_channels == out_channels
    return nn.Identity() if same else conv(in_channels, out_channels, 1, stride)
