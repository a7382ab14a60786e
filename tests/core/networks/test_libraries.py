"""Networks of other libraries: built by their names there, checked before any trial, trained as the built-in ones."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import nn

from mollify_core import networks
from mollify_core.errors import ConfigError, Preempted
from mollify_core.networks.contract import check_network
from mollify_core.networks.registry import arguments
from mollify_core.recipe import Recipe
from mollify_core.training import Training
from mollify_core.training_data import training_data

timm = pytest.importorskip("timm", reason="needs `timm`")
SHAPE = (3, 32, 32)
TINY_VIT = ("embed_dim=32", "depth=2", "num_heads=2", "patch_size=8", "drop_path_rate=0.2")


@pytest.mark.parametrize(
    "name", ["torchvision/shufflenet_v2_x0_5", "torchvision/googlenet", "timm/resnet10t", "timm/vit_tiny_patch16_224"]
)
def test_it_gives_logits_of_the_classes(name):
    torch.manual_seed(0)
    network = networks.build(name, 7, (3, 64, 64))
    assert network(torch.rand(2, 3, 64, 64)).shape == (2, 7)


def test_a_library_gets_the_arguments_that_are_given():
    network = networks.build("timm/vit_tiny_patch16_224", 10, SHAPE, given=TINY_VIT)
    assert (len(network.blocks), network.embed_dim, network.patch_embed.img_size) == (2, 32, (32, 32))
    assert arguments(("a=1", "b=true", "c=gelu", "d=null", "e=1e-3")) == {
        "a": 1,
        "b": True,
        "c": "gelu",
        "d": None,
        "e": 1e-3,
    }


@pytest.mark.parametrize(
    ("name", "given", "said"),
    [
        ("timm/resnet17", (), r"^timm has no network 'resnet17'"),
        ("torchvision/resnet19", (), r"^torchvision has no network 'resnet19'; did you mean 'resnet18'\?$"),
        ("timm/resnet18", ("bogus=1",), r"^Cannot build 'timm/resnet18' for images of 32x32 pixels: .*'bogus'"),
        ("timm/resnet18", ("bogus",), r"^Expected `network_kwargs` to be name=value, but got 'bogus'$"),
        ("timm/resnet18", ("a=1", "a=2"), r"to name a once, but got it twice$"),
        ("resnet20", ("a=1",), r"^Expected no `network_kwargs` for 'resnet20', but got 'a=1'$"),
        ("tim/resnet18", (), r"^Unknown network 'tim/resnet18'.*torchvision/NAME, timm/NAME"),
    ],
)
def test_what_cannot_be_built_is_one_sentence(name, given, said):
    with pytest.raises(ConfigError, match=said) as raised:
        networks.build(name, 10, SHAPE, given=given)
    assert "\n" not in str(raised.value)


class _Odd(nn.Module):
    """Breaks one thing at a time."""

    made = itertools.count()

    def __init__(self, what: str, outputs: int) -> None:
        super().__init__()
        self.what, self.linear = what, nn.Linear(3, outputs + (what == "outputs"))
        if what == "seed":
            nn.init.constant_(self.linear.bias, float(next(self.made)))
        if what == "gradient":
            nn.init.zeros_(self.linear.weight)

    def forward(self, x: torch.Tensor) -> object:
        if self.what == "size":
            raise RuntimeError("Kernel size can't be greater than actual input size\nat line 3")
        if self.what == "pair":
            return x, x
        logits = self.linear(x.mean(dim=(2, 3)))
        if self.what == "nan" and not self.training:
            return logits / 0 * 0
        return logits + (self.linear.weight.sum().abs().sqrt() if self.what == "gradient" else 0)


@pytest.mark.parametrize(
    ("what", "said"),
    [
        ("outputs", r"to give logits of shape \(8, 10\) in training, but got \(8, 11\)$"),
        ("pair", r"to give logits of shape \(8, 10\) in training, but got tuple$"),
        ("size", r"takes no images of 32x32 pixels in training: Kernel size can't be greater"),
        ("nan", r"to give finite logits in evaluation, but got NaN or infinity$"),
        ("seed", r"the same when it is built twice from one seed, but linear.bias differs"),
        ("gradient", r"^Expected finite gradients of odd, but got NaN or infinity in linear.weight$"),
        ("", None),
    ],
)
def test_a_network_that_breaks_the_contract_is_one_sentence(what, said, digits, monkeypatch):
    monkeypatch.setattr(networks, "build", lambda name, outputs, shape, **options: _Odd(what, outputs))
    recipe, images = Recipe().with_(network="odd"), digits.tensors("train").images[:9]
    if said is None:
        check_network(recipe, images, 10)
        return
    with pytest.raises(ConfigError, match=said) as raised:
        check_network(recipe, images, 10)
    assert "\n" not in str(raised.value)


def test_a_network_with_batch_norm_keeps_the_contract(digits):
    images = digits.tensors("train").images[:9]
    assert check_network(Recipe().with_(network="torchvision/resnet18", dataset="digits"), images, 10) == ""


@pytest.mark.parametrize(
    ("name", "given"),
    [("timm/vit_tiny_patch16_224", TINY_VIT), ("timm/test_convnext", ("drop_path_rate=0.3",))],
)
def test_layer_norm_and_stochastic_depth_resume_bit_equal(name, given, digits):
    recipe = Recipe().with_(
        dataset="digits",
        network=name,
        network_kwargs=given,
        epochs=1,
        batch_size=64,
        train_fraction=0.3,
        method="mollification",
    )
    data = training_data(recipe, digits)
    check_network(recipe, data.fit.images[:8], 10)
    whole = Training(recipe, data)
    (expected,) = whole.run()
    part, steps = Training(recipe, data), itertools.count()
    with pytest.raises(Preempted):
        part.run_epoch(lambda: next(steps) == 2)
    last = Training(recipe, data, state=part.state())
    assert last.run_epoch().metrics["train_loss"] == expected.metrics["train_loss"]
    assert all(torch.equal(v, last.network.state_dict()[k]) for k, v in whole.network.state_dict().items())
    assert Recipe.from_dict(recipe.to_dict()).hash == recipe.hash
