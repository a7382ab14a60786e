"""Weights to start from: the formats, the head that stays, what is refused, and those that libraries publish."""

from __future__ import annotations

from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import nn

from mollify_core import given, networks
from mollify_core.classifier import keep_weights, start_network
from mollify_core.errors import ConfigError, DataError
from mollify_core.networks import libraries, weights
from mollify_core.normalise import Normalise
from mollify_core.recipe import Recipe

SHAPE = (3, 32, 32)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MOLLIFY_CACHE", str(tmp_path / "cache"))


def resnet8(outputs: int) -> nn.Module:
    return networks.build("resnet8", outputs, SHAPE)


@pytest.mark.parametrize("form", ["safetensors", "state dict", "lightning", "parallel", "compiled"])
def test_a_file_in_any_usual_form_is_the_same_weights(form: str, tmp_path: Path) -> None:
    source = resnet8(10).state_dict()
    file = tmp_path / "some weights.bin"
    if form == "safetensors":
        safetensors.torch.save_file(source, file)
    elif form == "lightning":
        torch.save({"epoch": 3, "state_dict": source}, file)
    else:
        prefix = {"parallel": "module.", "compiled": "_orig_mod.module."}.get(form, "")
        torch.save({prefix + name: value for name, value in source.items()}, file)
    recipe = Recipe().with_(network="resnet8")
    recipe = recipe.with_(keep_weights(str(file), recipe, 10, SHAPE))
    assert (recipe.model.weights, len(recipe.model.weights_sha256)) == ("some weights.bin", 64)
    assert recipe.model.weights_sha256 == given.put(weights._written(source), ".safetensors")
    assert Recipe.from_json(recipe.to_json()) == recipe
    file.unlink()
    network, new = start_network(recipe, 10, SHAPE)
    assert new == ""
    assert all(torch.equal(value, network.state_dict()[name]) for name, value in source.items())


@pytest.mark.parametrize("stripped", [False, True])
def test_a_head_of_another_size_or_none_stays_as_it_is(stripped: bool, tmp_path: Path) -> None:
    source = resnet8(10)
    head = weights.head_of(source, 10)
    tensors = {k: v for k, v in source.state_dict().items() if not (stripped and k == f"{head}.bias")}
    safetensors.torch.save_file(tensors, tmp_path / "w.safetensors")
    outputs = 10 if stripped else 7
    recipe = Recipe().with_(network="resnet8")
    recipe = recipe.with_(keep_weights(str(tmp_path / "w.safetensors"), recipe, outputs, SHAPE))
    torch.manual_seed(3)
    fresh = resnet8(outputs).state_dict()
    torch.manual_seed(3)
    network, new = start_network(recipe, outputs, SHAPE)
    assert new == head
    for name, value in network.state_dict().items():
        assert torch.equal(value, fresh[name] if name.startswith(f"{head}.") else tensors[name]), name


class _Evil:
    def __reduce__(self) -> tuple:
        return Path.touch, (Path("owned"),)


def test_what_is_no_weights_of_this_network_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    recipe = Recipe().with_(network="resnet8")
    torch.save({"state_dict": {"x": _Evil()}}, "evil.pt")
    torch.save([torch.ones(3)], "list.pt")
    torch.save({"a": 1}, "number.pt")
    safetensors.torch.save_file(resnet8(10).state_dict(), "good")
    whole = Path("good").read_bytes()
    Path("half").write_bytes(whole[: len(whole) // 2])
    Path("empty").touch()
    for name in ("evil.pt", "list.pt", "number.pt", "half", "empty", "."):
        with pytest.raises(DataError, match=r"^(Expected weights as safetensors|Cannot read the weights)") as raised:
            keep_weights(name, recipe, 10, SHAPE)
        assert "\n" not in str(raised.value)
    assert not Path("owned").exists()
    recipe = recipe.with_(keep_weights("good", recipe, 10, SHAPE))
    for network, said in (("resnet20", "they lack .* and [0-9]+ more differ"), ("densenet40", "another network")):
        with pytest.raises(DataError, match=said):
            start_network(recipe.with_(network=network), 10, SHAPE)
    with pytest.raises(DataError, match=r"0.weight. is 16x3x3x3, not 16x1x3x3"):
        start_network(recipe, 10, (1, 32, 32))
    given.place(recipe.model.weights_sha256, ".safetensors").unlink()
    with pytest.raises(ConfigError, match=r"'good' with sha256 .* not here: name their file by --weights"):
        start_network(recipe, 10, SHAPE)


def test_published_weights_come_from_torchs_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file in the hub folder is used; no file or a damaged one is a DataError."""
    from torchvision import models

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")  # nothing listens on the discard port: no network
    monkeypatch.delenv("no_proxy", raising=False)
    recipes = [Recipe().with_(network=name) for name in ("tvresnet18", "torchvision/resnet18")]
    for recipe in recipes:
        with pytest.raises(DataError, match=r"Cannot get the published weights of .*hub.* or name a file"):
            keep_weights("default", recipe, 7, SHAPE)
    cached = tmp_path / "hub" / "checkpoints" / Path(models.ResNet18_Weights.IMAGENET1K_V1.url).name
    source = models.resnet18()
    torch.save(source.state_dict(), cached)
    for recipe in recipes:
        settings = keep_weights("default", recipe, 7, SHAPE)
        network, new = start_network(recipe.with_(settings), 7, SHAPE)
        assert new == "fc"
        state = network.state_dict()
        assert all(torch.equal(state[k], v) for k, v in source.state_dict().items() if not k.startswith("fc."))
    cached.write_bytes(b"not weights")
    with pytest.raises(DataError, match="Cannot get the published weights"):
        keep_weights("default", recipes[0], 7, SHAPE)
    with pytest.raises(ConfigError, match="nobody has published weights of 'resnet8'"):
        keep_weights("default", Recipe().with_(network="resnet8"), 7, SHAPE)


def test_images_are_scaled_as_the_weights_expect() -> None:
    assert libraries.scaling_of("torchvision/resnet18") == "imagenet"
    assert libraries.scaling_of("timm/resnet18") == "imagenet"
    assert libraries.scaling_of("timm/vit_tiny_patch16_224") == "uniform"
    assert libraries.scaling_of("timm/vit_base_patch16_clip_224") == "clip"
    made = Normalise.make("imagenet", (0.1,) * 3, (0.2,) * 3, "cpu")
    expected = (torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225]))
    torch.testing.assert_close((made.mean.flatten(), made.std.flatten()), expected)
    with pytest.raises(ConfigError, match="3 channels for scaling 'imagenet', but got 1"):
        Normalise.make("imagenet", (0.1,), (0.2,), "cpu")
