"""Networks of other libraries, by their names there: `torchvision/NAME` and, with the extra `timm`, `timm/NAME`."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from mollify_core.errors import ConfigError, DataError, first_line, nearest
from mollify_core.foreign import clean, shown
from mollify_core.settings import CONSTANTS

SOURCES = ("torchvision", "timm")


def is_foreign(name: str) -> bool:
    """Whether a network's name says another library."""
    return name.partition("/")[0] in SOURCES and "/" in name


def build(name: str, num_classes: int, image_shape: tuple[int, int, int], given: dict[str, Any]) -> nn.Module:
    """A freshly initialised network of another library, without weights; its own initialisation.

    Args:
        name: as `torchvision/convnext_tiny`.
        num_classes: number of outputs.
        image_shape: (channels, side, side).
        given: further arguments of the library's function.

    Raises:
        ConfigError: the library is not installed or has no such network, or cannot build it so.
    """
    source, _, called = name.partition("/")
    make, names = _torchvision(called, image_shape) if source == "torchvision" else _timm(called, image_shape)
    if make is None:
        raise ConfigError(f"{source} has no network {shown(called)}{nearest(called, names)}")
    try:
        return make(num_classes, given)
    except Exception as error:  # whatever a constructor may raise over arguments that it does not expect
        raise ConfigError(
            f"Cannot build {shown(name)} for images of {_size(image_shape)}: {first_line(error)}"
        ) from None


Found = tuple[Callable[[int, dict[str, Any]], nn.Module] | None, Sequence[str]]
"""What builds a network, None where there is no such one; and the names that there are."""


def _torchvision(called: str, image_shape: tuple[int, int, int]) -> Found:
    from torchvision import models

    names, (channels, side, _) = models.list_models(module=models), image_shape
    if called not in names:
        return None, names

    def make(num_classes: int, given: dict[str, Any]) -> nn.Module:
        if channels != 3:
            raise ValueError(f"it takes 3 channels, not {channels}")
        own: dict[str, Any] = {}
        if called.startswith("vit_"):
            own["image_size"] = side
        elif called.startswith("maxvit"):
            own["input_size"] = (side, side)
        elif called in ("googlenet", "inception_v3"):  # their auxiliary outputs are no logits
            own |= {"aux_logits": False, "init_weights": True}
        return models.get_model(called, weights=None, num_classes=num_classes, **{**own, **given})

    return make, names


def _timm(called: str, image_shape: tuple[int, int, int]) -> Found:
    try:
        import timm
    except ImportError:
        raise ConfigError(
            f"Expected timm for network 'timm/{called}', but it is not installed: pip install timm, or the extra `timm`"
        ) from None
    if not timm.is_model(called):
        return None, timm.list_models()
    channels, side, _ = image_shape
    known = timm.models.get_pretrained_cfg(called)
    own = {"img_size": side} if known is not None and known.fixed_input_size else {}

    def make(num_classes: int, given: dict[str, Any]) -> nn.Module:
        return timm.create_model(called, num_classes=num_classes, in_chans=channels, **{**own, **given})

    return make, ()


def _size(image_shape: tuple[int, int, int]) -> str:
    return f"{image_shape[2]}x{image_shape[1]} pixels"


def published(name: str, outputs: int, image_shape: tuple[int, int, int], given: dict[str, Any]) -> dict[str, Tensor]:
    """The weights that a library has published for its network, by name; from its local cache, or downloaded.

    Args:
        name: as `torchvision/convnext_tiny`; of the built-in networks the tvresnets have torchvision's.
        outputs: of the network that starts from them; the head is left out unless it has as many.
        image_shape: (channels, side, side), to which timm fits position embeddings and the first convolution.
        given: further arguments of the network.

    Raises:
        ConfigError: there are none.
        DataError: they cannot be had here, or are damaged.
    """
    called = name.rpartition("/")[2]
    if name.startswith("tvresnet"):
        called = name.removeprefix("tv")
    elif not is_foreign(name):
        raise ConfigError(f"Expected a file for --weights, since nobody has published weights of {shown(name)}")
    try:
        if name.startswith("timm/"):
            return _published_by_timm(called, outputs, image_shape, given)
        from torchvision import models

        weights = models.get_model_weights(called).DEFAULT
        return dict(weights.get_state_dict(progress=False, check_hash=True, weights_only=True))
    except ConfigError:
        raise
    except (OSError, RuntimeError, EOFError, ValueError, AttributeError, pickle.UnpicklingError) as error:
        raise DataError(
            f"Cannot get the published weights of {shown(name)} ({clean(first_line(error), 200, '')}); they are looked "
            f"for in {_cache(name)} and else downloaded; or name a file of them by --weights"
        ) from None


def _published_by_timm(
    called: str, outputs: int, image_shape: tuple[int, int, int], given: dict[str, Any]
) -> dict[str, Tensor]:
    make, names = _timm(called, image_shape)
    if make is None:
        raise ConfigError(f"timm has no network {shown(called)}{nearest(called, names)}")
    import timm

    config = timm.models.get_pretrained_cfg(called)
    if config is None or not config.has_weights:
        raise ConfigError(f"Expected a file for --weights, since timm has no weights of {shown(called)}")
    with torch.random.fork_rng(devices=[]):
        same = config.num_classes == outputs
        return dict(make(outputs if same else 0, {"pretrained": True, **given}).state_dict())


def scaling_of(name: str) -> str | None:
    """The scaling of images for which a library's published weights were made; None where it is none that we have."""
    if not name.startswith("timm/"):
        return "imagenet"
    import timm

    config = timm.models.get_pretrained_cfg(name.partition("/")[2])
    known = {(mean, std): scaling for scaling, (mean, std) in CONSTANTS.items()} | {((0.5,) * 3, (0.5,) * 3): "uniform"}
    return None if config is None else known.get((tuple(config.mean), tuple(config.std)))


def _cache(name: str) -> str:
    return "Hugging Face's cache (HF_HOME)" if name.startswith("timm/") else repr(torch.hub.get_dir())
