"""torchvision's ResNets: with their ImageNet stem, and with the small stem of information matching."""

from torch import nn


def tvresnet(depth: int, num_classes: int, image_shape: tuple[int, int, int]) -> nn.Module:
    """torchvision's ResNet with its 7x7 stem of stride 2 and its max pool, torchvision's initialisation.

    Args:
        depth: 18, 34 or 50.
        num_classes: number of outputs.
        image_shape: (channels, height, width).
    """
    from torchvision import models

    net = models.get_model(f"resnet{depth}", weights=None)
    if image_shape[0] != 3:
        net.conv1 = nn.Conv2d(image_shape[0], 64, 7, 2, 3, bias=False)
        nn.init.kaiming_normal_(net.conv1.weight, mode="fan_out", nonlinearity="relu")
    net.fc = nn.Linear(net.fc.in_features, num_classes)
    return net


def im_resnet18(num_classes: int, image_shape: tuple[int, int, int]) -> nn.Module:
    """torchvision's ResNet-18, its stem a 3x3 convolution of stride 1, no max pool (information matching).

    torchvision's initialisation, but of the replaced stem, which has PyTorch's default.
    """
    net = tvresnet(18, num_classes, image_shape)
    net.conv1 = nn.Conv2d(image_shape[0], 64, 3, padding=1, bias=False)
    net.maxpool = nn.Identity()
    return net
