"""Weights to start from: a file, or those that a library has published for its network.

They are kept as safetensors under their sha256, see `mollify_core.given`; a recipe says the sha256 and a name to show.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn

from mollify_core import given
from mollify_core.errors import ConfigError, DataError, first_line
from mollify_core.foreign import clean, expanded, shown
from mollify_core.networks import libraries

NONE, DEFAULT = "none", "default"
_WHAT = "weights as safetensors or a state dict"
_SUFFIX = ".safetensors"
_WRAPPED = ("state_dict", "model_state_dict", "model", "state_dict_ema", "net")  # where training scripts put it
_PREFIX = re.compile(r"^((module|_orig_mod)\.)+")  # of DataParallel and torch.compile


def named(
    text: str, network: str, outputs: int, image_shape: tuple[int, int, int], kwargs: dict[str, Any]
) -> dict[str, str]:
    """The settings of a recipe that mean weights as a user names them; they are kept from now on.

    Args:
        text: "none", "default", or a file: safetensors, or a state dict of `torch.save`.
        network: the name of the network that starts from them.
        outputs: how many it has.
        image_shape: (channels, side, side).
        kwargs: its further arguments.

    Raises:
        ConfigError: the network has no published weights.
        DataError: the weights cannot be had, or are none.
        StorageError: the cache cannot be written.
    """
    if text == NONE:
        return {"weights": NONE, "weights_sha256": ""}
    if text == DEFAULT:
        found = libraries.published(network, outputs, image_shape, kwargs)
        name = DEFAULT
    else:
        path = expanded(text)
        found, name = read(path), path.name
    return {"weights": name, "weights_sha256": given.put(_written(found), _SUFFIX)}


def read(path: Any) -> dict[str, Tensor]:
    """The tensors of a file of weights, by name; nothing is unpickled but tensors.

    Raises:
        DataError: it cannot be read, or holds something else.
    """
    said = shown(str(path), 200)
    try:
        with open(path, "rb") as file:
            start = file.read(16)
    except OSError as error:
        raise DataError(f"Cannot read the weights {said}: {error.strerror}") from None
    try:
        if start[8:9] == b"{":
            tree: Any = safetensors.torch.load_file(path)
        else:
            with warnings.catch_warnings(action="ignore"):
                tree = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # of torch's readers, which raise nearly anything over a damaged file
        told = "it holds more than tensors, or is damaged" if "nsupported" in str(error) else first_line(error)
        raise DataError(
            f"Expected weights as safetensors or a state dict in {said}, but {clean(told, 200, '')}"
        ) from None
    for key in _WRAPPED:
        if isinstance(tree, Mapping) and isinstance(tree.get(key), Mapping):
            tree = tree[key]
            break
    if not isinstance(tree, Mapping) or not tree or not all(isinstance(v, Tensor) for v in tree.values()):
        raise DataError(f"Expected {_WHAT} in {said}, but it holds something else")
    return {_PREFIX.sub("", str(name)): tensor for name, tensor in tree.items()}


def load(network: nn.Module, sha256: str, outputs: int, name: str) -> str:
    """Gives a network the weights with this sha256. Its head stays as it is where theirs is of another size or missing.

    Returns:
        The name of the head that stayed; "" where none did.

    Raises:
        ConfigError: they are not on this machine.
        DataError: they are of another network.
    """
    data = given.get(sha256, _SUFFIX)
    if data is None:
        raise ConfigError(
            f"Expected the weights {shown(name)} with sha256 {sha256[:12]}…, which are not here: name their file by "
            "--weights"
        )
    try:
        found = safetensors.torch.load(data)
    except safetensors.SafetensorError as error:
        raise DataError(f"Cannot read the weights {shown(name)}: {first_line(error)}") from None
    own, head = network.state_dict(), head_of(network, outputs)
    of_head = {key for key in own if head and key.startswith(f"{head}.")}
    kept = {key for key in of_head if key not in found or found[key].shape != own[key].shape}
    missing = sorted(own.keys() - found.keys() - kept - _counters(own))
    extra = sorted(found.keys() - own.keys())
    other = sorted(key for key in own.keys() & found.keys() - kept if own[key].shape != found[key].shape)
    if missing or extra or other:
        if other:
            what = f"{shown(other[0])} is {_shape(found[other[0]])}, not {_shape(own[other[0]])}"
        else:
            what = f"they lack {shown(missing[0])}" if missing else f"they have {shown(extra[0])}"
        count = len(missing) + len(extra) + len(other)
        more = f" and {count - 1} more differ" if count > 1 else ""
        raise DataError(f"The weights {shown(name)} are of another network: {what}{more}")
    kept = of_head if kept else set()  # a weight without its bias would be of no use
    network.load_state_dict({key: value for key, value in found.items() if key not in kept}, strict=False)
    return head if kept else ""


def head_of(network: nn.Module, outputs: int) -> str:
    """The name of the last layer with a weight of so many rows, which gives the logits; "" where there is none."""
    named = [(name, vars(m)["_parameters"].get("weight")) for name, m in network.named_modules()]
    heads = [name for name, weight in named if weight is not None and weight.ndim > 1 and len(weight) == outputs]
    return heads[-1] if heads else ""


def _written(tensors: dict[str, Tensor]) -> bytes:
    """The same bytes for the same tensors, whatever file they came in."""
    return safetensors.torch.save({name: tensors[name].contiguous().clone() for name in sorted(tensors)})


def _counters(own: Mapping[str, Tensor]) -> set[str]:
    """Counts of batches, which only BatchNorm with a momentum of None uses, and old files lack."""
    return {key for key in own if key.endswith("num_batches_tracked")}


def _shape(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "a number"
