"""Fine-tuning: the layers that learn, when and how fast; stopped anywhere it goes on bit-equal."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from mollify_core import checkpoint, networks
from mollify_core.classifier import keep_weights
from mollify_core.errors import ConfigError, Preempted
from mollify_core.networks.contract import check_network
from mollify_core.networks.weights import head_of
from mollify_core.optimisation import Average, optimizer
from mollify_core.recipe import Recipe
from mollify_core.training import Training
from mollify_core.training_data import TrainingData, training_data
from mollify_core.worker import Worker

pytestmark = pytest.mark.usefixtures("one_thread")
SMALL = Recipe().with_(
    dataset="digits",
    network="resnet8",
    augment=(),
    validation_fraction=0.01,
    train_fraction=0.06,
    batch_size=32,
    epochs=3,
    lr=0.05,
    precision="float32",
)


def weights_of(training: Training) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in training.network.state_dict().items()}


def moved(before: dict[str, Tensor], after: dict[str, Tensor]) -> set[str]:
    return {name for name, value in after.items() if not torch.equal(value, before[name])}


def statistics(names: set[str]) -> set[str]:
    return {name for name in names if name.endswith(("running_mean", "running_var", "num_batches_tracked"))}


def test_in_frozen_epochs_the_last_layer_learns_alone(digits: Any) -> None:
    training = Training(SMALL.with_(frozen_epochs=2), training_data(SMALL, digits))
    head, start = head_of(training.network, 10), weights_of(training)
    for _ in range(2):
        before = weights_of(training)
        training.run_epoch()
        assert moved(before, weights_of(training)) == {f"{head}.weight", f"{head}.bias"}
    training.run_epoch()
    assert moved(start, weights_of(training)) == set(start)


def test_frozen_batch_norm_keeps_its_statistics(digits: Any) -> None:
    training = Training(SMALL.with_(frozen_bn=True), training_data(SMALL, digits))
    before = weights_of(training)
    training.run_epoch()
    changed = moved(before, weights_of(training))
    assert changed == set(before) - statistics(set(before))


def test_the_last_layer_has_a_learning_rate_of_its_own(digits: Any) -> None:
    """In one step without momentum or decay an update is the rate times the gradient, which the factor leaves alone."""
    recipe = SMALL.with_(batch_size=128, train_fraction=0.05, momentum=0.0, weight_decay=0.0, augment=())
    data, updates = training_data(recipe, digits), []
    for factor in (1.0, 4.0):
        training = Training(recipe.with_(head_lr_factor=factor), data)
        before = weights_of(training)
        training.run_epoch()
        after = weights_of(training)
        updates.append({name: after[name] - before[name] for name in dict(training.network.named_parameters())})
    head = head_of(training.network, 10)
    for name, update in updates[0].items():
        expected = update * (4 if name.startswith(f"{head}.") else 1)
        torch.testing.assert_close(updates[1][name], expected, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize(
    ("stop", "optimizer", "factor"),
    [((0, 1), "sgd", 3.0), ((1, 0), "sgd", 1.0), ((1, 0), "adamw", 3.0), ((1, 1), "sgd", 1.0)],
)
def test_stopped_anywhere_it_goes_on_bit_equal(
    stop: tuple[int, int], optimizer: str, factor: float, digits: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MOLLIFY_CACHE", str(tmp_path))
    safetensors.torch.save_file(networks.build("resnet8", 7, (3, 32, 32)).state_dict(), tmp_path / "w")
    tuning = {"frozen_epochs": 1, "head_lr_factor": factor, "frozen_bn": True, "ema": 0.5, "epochs": 2, "lr": 0.01}
    recipe = SMALL.with_(keep_weights(str(tmp_path / "w"), SMALL, 10, (3, 32, 32))).with_(tuning, optimizer=optimizer)
    data = training_data(recipe, digits)
    whole = Training(recipe, data)
    reports = [epoch.metrics["corrupted_nll"] for epoch in whole.run()]
    part, (epochs, steps) = Training(recipe, data), stop
    for _ in range(epochs):
        part.run_epoch()
    if steps:
        with pytest.raises(Preempted):
            part.run_epoch(lambda: True)
    state = checkpoint.from_files(checkpoint.to_files(part.state()).__getitem__)
    last = Training(recipe, data, state=state)
    resumed = [epoch.metrics["corrupted_nll"] for epoch in last.run()]
    assert resumed == reports[epochs:]
    assert not moved(weights_of(whole), weights_of(last))


def test_the_average_is_that_of_pytorch(digits: Any) -> None:
    """Bit for bit, in a form that either can read, but for counts of batches, which are copied."""
    recipe = SMALL.with_(train_fraction=0.03)
    training = Training(recipe, training_data(recipe, digits))
    own, theirs = (
        Average(training.network, 0.9),
        AveragedModel(training.network, multi_avg_fn=get_ema_multi_avg_fn(0.9), use_buffers=True),
    )
    for _ in training.run():
        own.update(training.network)
        theirs.update_parameters(training.network)
        known = theirs.state_dict()
        assert own.state_dict().keys() == known.keys()
        for name, value in own.state_dict().items():
            exact = (
                training.network.state_dict()[name.removeprefix("module.")] if "num_batches" in name else known[name]
            )
            assert torch.equal(value, exact), name
    again = Average(training.network, 0.9)
    again.load_state_dict(known)
    again.update(training.network)
    own.update(training.network)
    assert not moved(own.state_dict(), again.state_dict())
    theirs.load_state_dict(own.state_dict())


def _rank(rank: int, recipe: Recipe, data: TrainingData, out: Path) -> None:
    torch.set_num_threads(1)
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29517"}
    dist.init_process_group("gloo", rank=rank, world_size=2)
    training = Training(recipe, data, Worker(rank, 2))
    states = [weights_of(training)]
    for _ in training.run():
        states.append(weights_of(training))
    torch.save(states, out / f"{rank}.pt")
    dist.destroy_process_group()


def together(target: Callable[..., None], *args: Any) -> None:
    processes = [mp.get_context("fork").Process(target=target, args=(rank, *args)) for rank in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
        assert process.exitcode == 0


def test_two_workers_thaw_at_the_same_epoch(digits: Any, tmp_path: Path) -> None:
    recipe = SMALL.with_(frozen_epochs=1, epochs=2)
    together(_rank, recipe, training_data(recipe, digits), tmp_path)
    first, second = (torch.load(tmp_path / f"{rank}.pt") for rank in range(2))
    own = statistics(set(first[0]))  # each worker's BatchNorm has seen images of its own
    head = head_of(networks.build("resnet8", 10, (3, 32, 32)), 10)
    assert moved(first[0], first[1]) == {f"{head}.weight", f"{head}.bias"}
    assert moved(first[1], first[2]) == set(first[0])
    for one, other in zip(first, second, strict=True):
        assert moved(one, other) <= own


def test_a_network_without_a_last_layer_cannot_treat_it_otherwise(digits: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    class Means(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = torch.nn.Parameter(torch.ones(10))

        def forward(self, x: Tensor) -> Tensor:
            return x.mean(dim=(1, 2, 3))[:, None] * self.scale

    monkeypatch.setattr(networks, "build", lambda *_, **__: Means())
    images = digits.tensors("train").images[:9]
    check_network(SMALL, images, 10)
    with pytest.raises(ConfigError, match="a last layer with 10 outputs in resnet8 for frozen_epochs or head_lr"):
        check_network(SMALL.with_(frozen_epochs=1), images, 10)


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_steps_are_those_of_pytorch(name: str) -> None:
    recipe = SMALL.with_(optimizer=name, head_lr_factor=2.0, frozen_epochs=1)
    config = recipe.optim
    ours, theirs = (networks.build("resnet8", 10, (3, 32, 32)) for _ in range(2))
    theirs.load_state_dict(ours.state_dict())
    one = optimizer(recipe, ours, 10)
    groups = [{**g, "params": p} for g, p in zip(one.param_groups, ([], []), strict=True)]
    twins = dict(zip(ours.parameters(), theirs.parameters(), strict=True))
    for mine, group in zip(one.param_groups, groups, strict=True):
        group["params"] = [twins[parameter] for parameter in mine["params"]]
    kind = torch.optim.SGD if name == "sgd" else torch.optim.AdamW
    other = kind(groups, lr=config.lr)
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(4, 3, 32, 32, generator=generator)
    for _ in range(3):
        target = torch.randn(4, 10, generator=generator)
        for network, optim in ((ours, one), (theirs, other)):
            optim.zero_grad()
            (network(images) - target).square().mean().backward()
            optim.step()
    assert all(torch.equal(a, b) for a, b in zip(ours.state_dict().values(), theirs.state_dict().values(), strict=True))
    assert not any(p.grad_fn for p in ours.parameters())
    other.load_state_dict(one.state_dict())
    one.load_state_dict(other.state_dict())
