"""The registry: name -> network."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from mollify_core.documents import json_of
from mollify_core.errors import ConfigError, DataError, nearest
from mollify_core.foreign import shown
from mollify_core.networks import libraries, own
from mollify_core.networks.allconv import allconvnet10
from mollify_core.networks.densenet import densenet
from mollify_core.networks.googlenet import googlenet
from mollify_core.networks.nasnet import nasnet
from mollify_core.networks.presnet import presnet
from mollify_core.networks.resnet import cifar_resnet, resnet
from mollify_core.networks.resnext import resnext29
from mollify_core.networks.torchvision_resnet import im_resnet18, tvresnet
from mollify_core.networks.wide_resnet import wide_resnet28, wide_resnet40


@dataclass(frozen=True)
class Network:
    """How one network is built.

    Attributes:
        factory: called with (num_classes, image_shape, **options).
        min_side: smallest image side in pixels that leaves the network a map to pool.
        options: names of the switches that the factory takes, all off by default.
    """

    factory: Callable[..., nn.Module]
    min_side: int
    options: tuple[str, ...] = ()


NETWORKS: dict[str, Network] = {
    **{f"presnet{d}": Network(partial(presnet, d), 8, ("final_bn",)) for d in (18, 34, 50, 101)},
    **{f"resnet{d}": Network(partial(resnet, d), 8) for d in (18, 34, 50, 101)},
    **{f"resnet{d}": Network(partial(cifar_resnet, d), 4) for d in (8, 20)},
    "wrn28_4": Network(partial(wide_resnet28, 4), 4, ("published",)),
    "wrn40": Network(partial(wide_resnet40, 2), 4),
    "wrn40_10": Network(partial(wide_resnet40, 10), 4),
    **{f"densenet{d}": Network(partial(densenet, d), 4) for d in (40, 100)},
    "resnext29": Network(resnext29, 4),
    "allconvnet10": Network(allconvnet10, 24),
    "googlenet": Network(googlenet, 8, ("published",)),
    "nasnet": Network(nasnet, 4),
    **{f"tvresnet{d}": Network(partial(tvresnet, d), 32) for d in (18, 34, 50)},
    "im_resnet18": Network(im_resnet18, 8),
}
_FOREIGN = Network(libraries.build, 1)
NAMES: tuple[str, ...] = tuple(sorted(NETWORKS))
OPTIONS: tuple[str, ...] = tuple(sorted({option for network in NETWORKS.values() for option in network.options}))


def is_builtin(name: str) -> bool:
    """Whether a network is one of this package's; else it is a library's or the user's own."""
    return name in NETWORKS


def build(
    name: str,
    num_classes: int,
    image_shape: tuple[int, int, int],
    *,
    given: Sequence[str] = (),
    sha256: str = "",
    **options: bool,
) -> nn.Module:
    """A freshly initialised network, in training mode: (batch, *image_shape) float -> (batch, num_classes) logits.

    Args:
        name: one of `NAMES`; `torchvision/NAME` or `timm/NAME` of these libraries; `FILE.py:FACTORY` or
            `MODULE:FACTORY` of one's own.
        num_classes: number of outputs, at least 2.
        image_shape: (channels, height, width), height equal to width.
        given: further arguments of a library's network or one's own, each as "name=value", see `arguments`.
        sha256: of the code of a network of one's own.
        **options: switches of this network, off by default: `final_bn` (presnet: batch norm and ReLU before pooling),
            `published` (googlenet, wrn28_4: the batch norm eps or momentum of the released code). A switch that is off
            may be given to every network.

    Raises:
        ConfigError: the name or an option is unknown, the network lacks the option, or the shape does not fit it.
    """
    library, foreign = libraries.is_foreign(name), libraries.is_foreign(name) or own.is_own(name)
    if not foreign and not is_builtin(name):
        others = "torchvision/NAME, timm/NAME, FILE.py:FACTORY, MODULE:FACTORY"
        raise ConfigError(f"Unknown network {shown(name)}{nearest(name, NAMES)} (or {others})")
    if given and not foreign:
        raise ConfigError(f"Expected no `network_kwargs` for {name!r}, but got {shown(given[0])}")
    network = _FOREIGN if foreign else NETWORKS[name]
    for option, value in options.items():
        if option not in OPTIONS:
            raise ConfigError(f"Unknown network option {option!r}{nearest(option, OPTIONS)}")
        if not isinstance(value, bool):
            raise ConfigError(f"Expected network option `{option}` to be true or false, but got {value!r}")
        if value and option not in network.options:
            having = ", ".join(n for n in NAMES if option in NETWORKS[n].options)
            raise ConfigError(f"Expected a network with option `{option}` ({having}), but got {name!r}")
    if num_classes < 2:
        raise ConfigError(f"Expected `num_classes` to be at least 2, but got {num_classes!r}")
    if len(image_shape) != 3 or image_shape[0] < 1 or image_shape[1] != image_shape[2]:
        raise ConfigError(f"Expected `image_shape` to be (channels, side, side), but got {tuple(image_shape)!r}")
    if image_shape[1] < network.min_side:
        raise ConfigError(
            f"Expected images of at least {network.min_side} pixels for {name!r}, but got {image_shape[1]}"
        )
    if library:
        return libraries.build(name, num_classes, image_shape, arguments(given))
    if foreign:
        return own.build(name, sha256, num_classes, arguments(given))
    return network.factory(num_classes, image_shape, **{option: True for option, value in options.items() if value})


class _NothingToFill(TorchFunctionMode):
    """Weights without memory are not drawn: nothing would come of it, and PyTorch's way there imports its compiler."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in _FILLS and args and isinstance(args[0], Tensor) and args[0].is_meta:
            return args[0]
        return func(*args, **(kwargs or {}))


_FILLS = {Tensor.normal_, Tensor.uniform_, Tensor.fill_, Tensor.zero_, Tensor.bernoulli_, Tensor.random_}


def outline(name: str, num_classes: int, image_shape: tuple[int, int, int], **how: Any) -> nn.Module:
    """The same on the meta device: shapes without memory. Arguments and errors are those of `build`."""
    try:
        with torch.device("meta"), _NothingToFill():
            return build(name, num_classes, image_shape, **how)
    except ConfigError:
        if is_builtin(name) or libraries.is_foreign(name):
            raise
        # Code of one's own may look at values while it builds, which nothing on the meta device has.
        with torch.random.fork_rng(devices=[]):
            return build(name, num_classes, image_shape, **how).to("meta")


def arguments(given: Sequence[str]) -> dict[str, Any]:
    """Arguments by name, of texts "name=value": a number, true, false, null, or else a word.

    Raises:
        ConfigError: a text is none, or a name stands twice.
    """
    found: dict[str, Any] = {}
    for text in given:
        name, equals, value = text.partition("=")
        if not equals or not name.isidentifier():
            raise ConfigError(f"Expected `network_kwargs` to be name=value, but got {shown(text)}")
        if name in found:
            raise ConfigError(f"Expected `network_kwargs` to name {name} once, but got it twice")
        try:
            found[name] = json_of(value.lower() if value.lower() in ("true", "false", "null") else value)
        except DataError:
            found[name] = value
    return found
