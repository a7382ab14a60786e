"""Networks against the released code's counts and fingerprints (fixtures/params.json), and against the papers."""

import inspect
import json
import runpy
import sys

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from mollify_core import networks
from mollify_core.errors import ConfigError
from mollify_core.networks.nasnet import _drop_first
from mollify_core.networks.registry import NETWORKS
from places import FIXTURES

PARAMS = {k: v for k, v in json.loads((FIXTURES / "params.json").read_text()).items() if k != "_note"}
HEAVY = {"wrn40_10", "densenet100"}
SOME = (
    "presnet18",
    "resnet20",
    "wrn40",
    "densenet40",
    "resnext29",
    "allconvnet10",
    "googlenet",
    "nasnet",
    "tvresnet18",
)


pytestmark = pytest.mark.usefixtures("one_thread")


def heavy_are_slow(names):
    return [pytest.param(n, marks=pytest.mark.slow) if n in HEAVY else n for n in names]


def on_meta(name, num_classes, image_shape, **options):
    with torch.device("meta"):
        return networks.build(name, num_classes, image_shape, **options)


def layers(net, kind):
    return [m for m in net.modules() if isinstance(m, kind)]


def test_every_network_of_the_fixture_is_registered():
    assert set(networks.NAMES) == {*PARAMS, "resnet8", "resnet20"}
    assert list(networks.NAMES) == sorted(networks.NAMES)


@pytest.mark.parametrize("side", [32, 64])
@pytest.mark.parametrize("name", PARAMS)
def test_parameter_and_layer_counts(name, side):
    for num_classes in (10, 100, 200):
        expected = PARAMS[name]["params"][str(num_classes)]
        net = on_meta(name, num_classes, (3, side, side))
        parameters = sum(p.numel() for p in net.parameters() if p.requires_grad)
        assert parameters == (expected[f"{side}px"] if isinstance(expected, dict) else expected)
    assert len(layers(net, nn.Conv2d)) == PARAMS[name]["conv_layers"]
    assert len(layers(net, nn.BatchNorm2d)) == PARAMS[name]["batchnorm_layers"]


@pytest.mark.parametrize(("name", "side"), [(n, s) for n in PARAMS for s in (32, 64) if PARAMS[n][f"macs_{s}px"]])
def test_multiply_adds(name, side):
    outputs = 200 if name == "im_resnet18" else 10  # this figure of the fixture was taken with 200 outputs
    assert networks.cost(name, outputs, (3, side, side)).multiply_adds == PARAMS[name][f"macs_{side}px"]


@pytest.mark.parametrize("side", [32, 64])
@pytest.mark.parametrize(
    ("name", "options", "key"),
    [pytest.param(n, {}, "fingerprint", marks=[pytest.mark.slow] * (n in HEAVY)) for n in PARAMS if n != "googlenet"]
    + [("googlenet", {}, "fingerprint_with_all_bn_eps_1e-5"), ("googlenet", {"published": True}, "fingerprint")],
)
def test_fingerprint(name, options, key, side):
    net = on_meta(name, 10, (3, side, side), **options).to_empty(device="cpu").double().eval()
    with torch.no_grad():
        for m in net.modules():
            if isinstance(m, nn.BatchNorm2d):
                m.reset_parameters()
            elif isinstance(m, (nn.Conv2d, nn.Linear)):
                m.weight.fill_(1 / m.weight[0].numel())
                if m.bias is not None:
                    m.bias.zero_()
        with np.load(FIXTURES / "golden.npz") as golden:
            images = torch.from_numpy(golden[f"u{side}"]).double() / 255
        logits = net(images)[:, 0].numpy()
    expected = PARAMS[name][key][f"{side}px"]
    np.testing.assert_allclose(logits, expected[: len(images)], rtol=1e-6)


def test_published_googlenet_has_the_published_eps():
    published = on_meta("googlenet", 10, (3, 32, 32), published=True)
    assert {m.eps for m in layers(published, nn.BatchNorm2d)} == set(PARAMS["googlenet"]["bn_eps_values"])
    assert {m.eps for m in layers(on_meta("googlenet", 10, (3, 32, 32)), nn.BatchNorm2d)} == {1e-5}


@pytest.mark.parametrize(("depth", "parameters"), [(8, 75_290), (20, 269_722)])
def test_cifar_resnets_are_those_of_the_paper(depth, parameters):
    """Against a functional ResNet written from the paper, which only shares the order of the weights."""
    net = networks.build(f"resnet{depth}", 10, (3, 32, 32)).eval()
    assert sum(p.numel() for p in net.parameters()) == parameters
    blocks = (depth - 2) // 6
    further = 2 * blocks - 1  # convolutions of a stage after its first one
    stage_macs = (
        (16 + further * 16) * 16 * 9 * 32**2,
        (16 + further * 32) * 32 * 9 * 16**2,
        (32 + further * 64) * 64 * 9 * 8**2,
    )
    macs = 3 * 16 * 9 * 32**2 + sum(stage_macs) + 64 * 10
    assert networks.cost(f"resnet{depth}", 10, (3, 32, 32)).multiply_adds == macs
    convolutions, norms = iter(layers(net, nn.Conv2d)), iter(layers(net, nn.BatchNorm2d))
    for norm in layers(net, nn.BatchNorm2d):  # statistics as after training, so that batch norm is not the identity
        norm.running_mean.normal_()
        norm.running_var.uniform_(0.5, 2)
        nn.init.normal_(norm.weight)
        nn.init.normal_(norm.bias)

    def conv_bn(x, stride):
        c, n = next(convolutions), next(norms)
        y = F.conv2d(x, c.weight, stride=stride, padding=1)
        return F.batch_norm(y, n.running_mean, n.running_var, n.weight, n.bias)

    x = torch.randn(2, 3, 32, 32)
    y = conv_bn(x, 1).relu()
    for width in (16, 32, 64):
        for block in range(blocks):
            stride = 2 if width > 16 and block == 0 else 1
            shortcut = torch.zeros(2, width, y.shape[2] // stride, y.shape[3] // stride)
            shortcut[:, : y.shape[1]] = y[:, :, ::stride, ::stride]
            y = (conv_bn(conv_bn(y, stride).relu(), 1) + shortcut).relu()
    linear = layers(net, nn.Linear)[0]
    torch.testing.assert_close(net(x), y.mean((2, 3)) @ linear.weight.T + linear.bias)


@pytest.mark.parametrize("name", heavy_are_slow(networks.NAMES))
def test_one_step_of_training(name):
    """Every used parameter gets a gradient, the input stays as it was, and channels_last reaches every map."""
    # At the smallest side the last map is one pixel: too few for batch norm in a batch of one.
    side = 2 * NETWORKS[name].min_side
    net = networks.build(name, 10, (3, side, side)).to(memory_format=torch.channels_last)
    strided = []
    for child_name, child in net.named_modules():

        def check(module, args, output, child_name=child_name):
            if output.dim() == 4 and not output.is_contiguous(memory_format=torch.channels_last):
                strided.append(child_name)

        child.register_forward_hook(check)
    x = torch.randn(1, 3, side, side).contiguous(memory_format=torch.channels_last)
    before = x.clone()
    logits = net(x)
    assert logits.shape == (1, 10)
    assert strided == []
    torch.testing.assert_close(x, before, rtol=0, atol=0)
    logits[0, 0].backward()
    unused = sum(p.numel() for p in net.parameters() if p.grad is None)
    assert unused == PARAMS.get(name, {}).get("params_never_used_in_forward", 0)
    assert all(p.grad.isfinite().all() for p in net.parameters() if p.grad is not None)


@pytest.mark.parametrize("name", SOME)
def test_other_sides_and_channels(name):
    least = NETWORKS[name].min_side
    for side in {least, 28, 48, 96} - set(range(least)):
        with torch.device("meta"), torch.no_grad():
            net = networks.build(name, 11, (1, side, side)).eval()
            assert net(torch.empty(2, 1, side, side)).shape == (2, 11)


@pytest.mark.parametrize("side", [5, 6])
def test_nasnet_subsamples_odd_rows_with_zeros_beyond_the_border(side):
    x = torch.rand(1, 1, side, side)
    expected = F.pad(x, (0, 1, 0, 1))[:, :, 1::2, 1::2]
    assert torch.equal(_drop_first(x)[:, :, ::2, ::2], expected)


@pytest.mark.slow
@pytest.mark.parametrize("name", networks.NAMES)
def test_compiles_to_one_graph(name):
    torch.compiler.reset()
    net = networks.build(name, 10, (3, 32, 32)).eval()
    x = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(torch.compile(net, fullgraph=True, backend="eager")(x), net(x))


@pytest.mark.parametrize("name", ["resnet20", "wrn40", "densenet40", "resnext29", "allconvnet10"])
def test_he_initialisation(name):
    torch.manual_seed(0)
    net = networks.build(name, 10, (3, 32, 32))
    for m in layers(net, nn.Conv2d):
        expected = (2 / (m.kernel_size[0] ** 2 * m.out_channels)) ** 0.5
        assert m.weight.std().item() == pytest.approx(expected, rel=5 / (2 * m.weight.numel()) ** 0.5)
    linear = layers(net, nn.Linear)[0]
    assert not linear.bias.any()
    if name == "resnext29":
        assert linear.weight.std().item() == pytest.approx((2 / linear.in_features) ** 0.5, rel=0.05)
    else:
        assert linear.weight.abs().max() <= linear.in_features**-0.5


@pytest.mark.parametrize("name", ["presnet18", "resnet18", "googlenet", "nasnet"])
def test_default_initialisation(name):
    """PyTorch's default is uniform within 1 / sqrt(fan in)."""
    torch.manual_seed(0)
    for m in layers(networks.build(name, 10, (3, 32, 32)), (nn.Conv2d, nn.Linear)):
        bound = m.weight[0].numel() ** -0.5
        assert 0.9 * bound < m.weight.abs().max().item() <= bound


def test_torchvision_initialisation():
    torch.manual_seed(0)
    for net in (networks.build("im_resnet18", 10, (3, 32, 32)), networks.build("tvresnet18", 10, (1, 32, 32))):
        for m in layers(net, nn.Conv2d)[1:]:
            expected = (2 / (m.kernel_size[0] ** 2 * m.out_channels)) ** 0.5
            assert m.weight.std().item() == pytest.approx(expected, rel=5 / (2 * m.weight.numel()) ** 0.5)


def test_a_seed_determines_the_weights():
    def weights(seed):
        torch.manual_seed(seed)
        return torch.cat([p.flatten() for p in networks.build("resnet20", 10, (3, 32, 32)).parameters()])

    assert torch.equal(weights(1), weights(1))
    assert not torch.equal(weights(1), weights(2))


def test_final_bn_stands_before_the_pool():
    plain = networks.build("presnet18", 10, (3, 16, 16)).eval()
    final = networks.build("presnet18", 10, (3, 16, 16), final_bn=True).eval()
    norm, linear = layers(final, nn.BatchNorm2d)[-1], layers(final, nn.Linear)[0]
    norm.running_mean.normal_()
    nn.init.normal_(norm.weight)
    for target, source in zip(layers(plain, nn.Conv2d), layers(final, nn.Conv2d), strict=True):
        target.load_state_dict(source.state_dict())
    x = torch.randn(2, 3, 16, 16)
    features = []
    layers(plain, nn.AdaptiveAvgPool2d)[0].register_forward_hook(lambda module, args, output: features.append(args[0]))
    with torch.no_grad():
        plain(x)
        torch.testing.assert_close(final(x), linear(norm(features[0]).relu().mean((2, 3))))
    extra = sum(p.numel() for p in final.parameters()) - sum(p.numel() for p in plain.parameters())
    assert extra == 2 * 512


@pytest.mark.parametrize(
    ("args", "options", "message"),
    [
        (("presnet5", 10, (3, 32, 32)), {}, "did you mean 'presnet50'"),
        (("presnet18", 10, (3, 32, 32)), {"final_nb": True}, "did you mean 'final_bn'"),
        (("resnet18", 10, (3, 32, 32)), {"final_bn": True}, r"option `final_bn` \(presnet101, .*but got 'resnet18'"),
        (("presnet18", 10, (3, 32, 32)), {"final_bn": 1}, "true or false, but got 1"),
        (("presnet18", 1, (3, 32, 32)), {}, "at least 2, but got 1"),
        (("presnet18", 10, (32, 32)), {}, r"\(channels, side, side\)"),
        (("presnet18", 10, (32, 32, 3)), {}, r"but got \(32, 32, 3\)"),
        (("tvresnet18", 10, (3, 28, 28)), {}, "at least 32 pixels for 'tvresnet18', but got 28"),
        (("allconvnet10", 10, (3, 16, 16)), {}, "at least 24 pixels"),
    ],
)
def test_errors(args, options, message):
    with pytest.raises(ConfigError, match=message):
        networks.build(*args, **options)


def test_declared_options_are_those_of_the_factories():
    for network in NETWORKS.values():
        parameters = inspect.signature(network.factory).parameters.values()
        assert tuple(p.name for p in parameters if p.default is False) == network.options


def test_a_switch_that_is_off_suits_every_network():
    assert on_meta("resnet20", 10, (3, 32, 32), final_bn=False, published=False) is not None


def run_as_main(monkeypatch, *args):
    monkeypatch.setattr(sys, "argv", ["networks", *args])
    with pytest.raises(SystemExit) as stop:
        runpy.run_module("mollify_core.networks", run_name="__main__")
    return stop.value.code


def test_command_line_table(monkeypatch, capsys):
    assert run_as_main(monkeypatch, "--classes", "100", "--image-size", "24") == 0
    rows = {line.split()[0]: line.split()[1:] for line in capsys.readouterr().out.splitlines()[1:]}
    assert set(rows) == {n for n in networks.NAMES if not n.startswith("tvresnet")}
    assert rows["presnet50"][0] == "23,693,476"
    assert run_as_main(monkeypatch, "--classes", "1") == 2
    assert capsys.readouterr().err == "error: Expected `num_classes` to be at least 2, but got 1\n"
