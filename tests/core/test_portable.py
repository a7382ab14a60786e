"""What the core imports is there on every system."""

from __future__ import annotations

import subprocess
import sys

import pytest

from places import ROOT

WITHOUT = """
import os, pkgutil, sys
for name in ("fcntl", "grp", "pwd", "resource", "termios"):
    sys.modules[name] = None
import importlib, torch, torchvision, PIL.Image, pyarrow.parquet, sklearn.datasets, filelock  # theirs need not be told
for name in ("O_NONBLOCK", "O_CLOEXEC", "geteuid", "sched_getaffinity", "sysconf"):
    delattr(os, name)
import mollify_core
for module in pkgutil.walk_packages(mollify_core.__path__, "mollify_core."):
    if not module.name.endswith("__main__") and ".compiled" not in module.name:
        importlib.import_module(module.name)
mollify, x = mollify_core.transforms.Mollify(10), torch.randint(0, 256, (4, 3, 8, 8), dtype=torch.uint8)
assert mollify(x, torch.arange(4))[1].shape == (4, 10)
assert not {"ray", "optuna", "wandb"} & sys.modules.keys()
"""

TRAINED = """
import sys
from mollify_core.datasets import prepare
from mollify_core.recipe import Recipe
from mollify_core.training import Training
from mollify_core.training_data import training_data
recipe = Recipe().with_(dataset="digits", network="resnet8", epochs=1, train_fraction=0.2)
training = Training(recipe, training_data(recipe, prepare("digits")))
list(training.run()), training.final(), training.state()
assert "torch._dynamo" not in sys.modules  # PyTorch's compiler, which takes as long to import as PyTorch
"""


@pytest.mark.slow
def test_it_imports_without_what_windows_and_macos_lack() -> None:
    run(WITHOUT)


@pytest.mark.slow
def test_a_training_imports_no_compiler() -> None:
    run(TRAINED)


def run(code: str) -> None:
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]
