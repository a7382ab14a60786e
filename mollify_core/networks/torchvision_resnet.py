"""torchvision's ResNets: with their ImageNet stem, and with the small stem of information matching."""

import pickle

import torch
from torch import nn

from mollify_core.errors import ConfigError, DataError


def tvresnet(depth: int, num_classes: int, image_shape: tuple[int, int, int], *, pretrained: bool = False) -> nn.Module:
    """torchvision's ResNet with its 7x7 stem of stride 2 and its max pool, torchvision's initialisation.

    Args:
        depth: 18, 34 or 50.
        num_classes: number of outputs.
        image_shape: (channels, height, width).
        pretrained: start from torchvision's ImageNet weights (version 1), all but the linear layer; downloads them
            unless they are in torch's hub folder.

    Raises:
        ConfigError: `pretrained` with other than 3 channels.
        DataError: the weights cannot be had.
    """
    from torchvision import models

    net = models.get_model(f"resnet{depth}", weights=None)
    if pretrained:
        if image_shape[0] != 3:
            raise ConfigError(f"Expected images of 3 channels for pretrained weights, but got {image_shape[0]}")
        weights = models.get_model_weights(f"resnet{depth}")["IMAGENET1K_V1"]
        try:
            net.load_state_dict(weights.get_state_dict(progress=False, check_hash=True, weights_only=True))
        except OSError as error:
            raise DataError(f"Cannot download the ImageNet weights of resnet{depth}: {error}") from error
        except (RuntimeError, EOFError, pickle.UnpicklingError) as error:
            where = f"downloaded or found in {torch.hub.get_dir()!r}"
            raise DataError(
                f"Expected the ImageNet weights of resnet{depth}, but the file {where} is damaged"
            ) from error
    elif image_shape[0] != 3:
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
