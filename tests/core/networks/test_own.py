"""Networks of one's own: what a user names is run, what a file names is not; every mistake is one sentence."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from mollify_core import given, networks
from mollify_core.classifier import build_network
from mollify_core.errors import ConfigError, MollifyError
from mollify_core.networks import own
from mollify_core.networks.costs import cost
from mollify_core.recipe import Recipe
from mollify_core.settings import Model

CODE = """
import pathlib
import torch
from torch import nn

pathlib.Path(__file__).parent.joinpath("ran").touch()


class Net(nn.Module):
    def __init__(self, num_classes, width):
        super().__init__()
        assert float(torch.ones(1)) == 1  # impossible on the meta device
        self.linear = nn.Linear(3 * width, num_classes)

    def forward(self, x):
        return self.linear(x.mean(dim=(2, 3)).repeat(1, self.linear.in_features // 3))


def net(num_classes, *, width=1):
    return Net(num_classes, width)


def number(num_classes):
    return 3


def breaks(num_classes):
    raise RuntimeError("no \\x1b[31mway\\nat all")


answer = 42
"""


@pytest.fixture
def code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MOLLIFY_CACHE", str(tmp_path / "cache"))
    file = tmp_path / "net.py"
    file.write_text(CODE)
    return file


def test_a_named_file_is_a_network_wherever_it_lies(code: Path, tmp_path: Path) -> None:
    recipe = Recipe().with_(own.named(f"{code}:net")).with_(network_kwargs=("width=2",))
    code.rename(tmp_path / "elsewhere.py")
    assert recipe.model.network == "net.py:net"
    assert Recipe.from_json(recipe.to_json()) == recipe
    network = build_network(recipe, 7, (3, 8, 8))
    assert network(torch.rand(2, 3, 8, 8)).shape == (2, 7)
    assert network.linear.in_features == 6
    outline = build_network(recipe, 7, (3, 8, 8), networks.outline)
    assert {p.device.type for p in outline.parameters()} == {"meta"}
    assert cost("net.py:net", 7, (3, 8, 8), ("width=2",), recipe.model.network_sha256).parameters == 6 * 7 + 7
    assert given.of(recipe.model) == {"network.py": (recipe.model.network_sha256, ".py")}


def test_code_that_nobody_has_named_here_is_not_run(code: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code.write_text(CODE + "# that no other test has run in this process\n")
    sha256 = given.digest(code.read_bytes())
    monkeypatch.chdir(code.parent)
    for where in ("net.py", "net"):
        with pytest.raises(ConfigError, match=f"sha256 {sha256[:12]}.*--network-code {where}"):
            networks.build(f"{where}:net", 7, (3, 8, 8), sha256=sha256)
    with pytest.raises(ConfigError, match="says no sha256"):
        networks.build("os:system", 7, (3, 8, 8))
    assert not list(code.parent.rglob("ran"))
    own.admit(str(code))
    assert networks.build("net.py:net", 7, (3, 8, 8), sha256=sha256)
    assert list(code.parent.rglob("ran"))


def test_what_lies_in_the_cache_is_compared_with_its_name(code: Path) -> None:
    sha256 = own.admit(str(code))
    given.place(sha256, ".py").write_text("raise SystemExit")
    assert given.get(sha256, ".py") is None
    with pytest.raises(ConfigError, match="never named on this machine"):
        networks.build("net.py:net", 7, (3, 8, 8), sha256=sha256)
    assert own.admit(str(code)) == sha256
    assert given.get(sha256, ".py") == code.read_bytes()


def test_an_installed_module_has_to_be_the_very_same(
    code: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "site" / "my_nets"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    code.rename(package / "nets.py")
    monkeypatch.syspath_prepend(str(package.parent))
    settings = own.named("my_nets.nets:net")
    assert settings["network"] == "my_nets.nets:net"
    network = networks.build("my_nets.nets:net", 7, (3, 8, 8), sha256=settings["network_sha256"])
    assert type(network) is sys.modules["my_nets.nets"].Net
    (package / "nets.py").write_text(CODE + "\n")
    with pytest.raises(ConfigError, match=r"'my_nets.nets' with sha256 .*here it is another"):
        networks.build("my_nets.nets:net", 7, (3, 8, 8), sha256=settings["network_sha256"])


@pytest.mark.parametrize(
    ("network", "kwargs", "said"),
    [
        ("net.py:nett", (), "'nett' is not in it; did you mean 'net'"),
        ("net.py:answer", (), "'answer' is not callable"),
        ("net.py:", (), "FILE.py:FACTORY or MODULE:FACTORY, but got"),
        ("net.py:number", (), "return a torch.nn.Module, but got int$"),
        ("net.py:breaks", (), r"cannot be built: RuntimeError: no \\x1b\[31mway \(line 28\)$"),
        ("net.py:net", ("widht=2",), "unexpected keyword argument 'widht'"),
        ("other.py:net", (), "Cannot read the network's code .*No such file"),
        ("broken.py:net", (), r"Cannot run 'broken.py': SyntaxError: .*\(line 2\)$"),
        ("needs.py:net", (), "No module named 'layers_of_mine'.*a file travels alone"),
        ("quits.py:net", (), "Cannot run 'quits.py': SystemExit: 3"),
        ("nonesuch:net", (), "no module 'nonesuch' installed here"),
        ("a b:net", (), "a .py file or a module's name, but got 'a b'"),
        ("json:loads", (), "cannot be built: TypeError"),
    ],
)
def test_every_mistake_is_one_sentence(
    network: str, kwargs: tuple[str, ...], said: str, code: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(code.parent)
    Path("broken.py").write_text("import os\ndef net(:\n")
    Path("needs.py").write_text("import layers_of_mine\n")
    Path("quits.py").write_text("raise SystemExit(3)\n")
    with pytest.raises(MollifyError, match=said) as raised:
        build_network(Recipe().with_(own.named(network)).with_(network_kwargs=kwargs), 7, (3, 8, 8))
    assert "\n" not in str(raised.value)
    assert "\x1b" not in str(raised.value)


def test_a_sha256_is_one(code: Path) -> None:
    with pytest.raises(ConfigError, match="network_sha256` to be 64 hexadecimal digits"):
        Model(network_sha256="../../x")


def test_a_name_of_a_library_is_never_code() -> None:
    with pytest.raises(ConfigError, match="timm has no network"):
        networks.build("timm/os:system", 7, (3, 8, 8))
    assert isinstance(networks.build("resnet8", 7, (3, 8, 8)), nn.Module)
