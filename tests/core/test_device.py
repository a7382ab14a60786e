"""Training as on a GPU: no step waits for it, float32 is no TF32, and what belongs to the caller is as it was.

Without a GPU its tensors are fake: they have a device, a shape and a type, but no numbers. Whoever asks them for one,
or mixes devices, fails as on a GPU or sooner.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import torch.multiprocessing as mp
from torch import Tensor, nn
from torch._subclasses.fake_tensor import DataDependentOutputException, DynamicOutputShapeException, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import tree_leaves

from mollify_core import rng
from mollify_core.errors import NonFiniteLossError
from mollify_core.mollification.degrade import heat_blur
from mollify_core.optimisation import train_mode
from mollify_core.precision import in_float32
from mollify_core.recipe import Recipe
from mollify_core.training import Training
from mollify_core.training_data import training_data
from mollify_core.worker import Worker

pytestmark = pytest.mark.usefixtures("one_thread")
CPU, GPU = torch.device("cpu"), torch.device("cuda", 0)
SMALL = Recipe().with_(
    dataset="digits",
    network="resnet8",
    augment=("crop",),
    validation_fraction=0.01,
    train_fraction=0.06,
    batch_size=32,
    epochs=2,
    precision="float32",
)
VARIANTS: dict[str, dict[str, Any]] = {
    "all roles": {"noise_share": 0.3, "both_share": 0.3, "pure_share": 0.2},
    "ragged, clipped": {"batch_size": 50, "clip_norm": 1.0},
    "repeated": {"repeat": 4, "augment": ("flip", "mixup")},
    "sink, mixed": {"label_mode": "lm", "augment": ("flip", "crop", "trivialaugment", "cutmix")},
    "likelihood": {"loss": "nce", "augment": ("rotate", "resized_crop", "augmix")},
    "by information": {"label_source": "nmi", "bins": 16, "augment": ("autoaugment",)},
    "matching": {"method": "matching", "p_undistorted": 0.2, "corrected": True},
    "soft": {"method": "soft-crop", "augment": ("soft-erasing", "soft-noise"), "reweight": True},
    "soft, mixed": {"method": "soft-trivialaugment", "augment": ("flip", "mixup"), "label_mode": "ld"},
    "averaged": {"ema": 0.9, "label_smoothing": 0.1, "optimizer": "adamw", "augment": ("erasing", "patch_noise")},
    "dropout": {"network": "allconvnet10"},
}


class AsOnGpu(TorchDispatchMode):
    """Above a FakeTensorMode: what touches a GPU is fake, all else is real; with `strict` no copy may wait."""

    strict = False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        devices = [value.device.type for value in tree_leaves((args, kwargs)) if isinstance(value, Tensor)]
        to = torch.device(kwargs.get("device") or "cpu").type
        if "cuda" not in (*devices, to):
            with _disable_current_modes():
                return func(*args, **kwargs)
        if func is torch.ops.aten._to_copy.default and self.strict:
            from_, to = devices[0], torch.device(kwargs.get("device") or args[0].device).type
            assert from_ == to or (to == "cuda" and kwargs.get("non_blocking")), "waits for a copy"
        if func is torch.ops.aten.copy_.default and self.strict:
            assert devices[0] == devices[1] or (args[2:] and args[2]), "waits for a copy"
        return None if func is torch.ops.aten._fused_sgd_.default else func(*args, **kwargs)  # of fakes there is none


def _moved(network: nn.Module, device: Any = None, memory_format: Any = None) -> nn.Module:
    """`nn.Module.to`, which cannot swap a real parameter for a fake one."""
    for module in network.modules() if device is not None else ():
        for name, parameter in module._parameters.items():
            module._parameters[name] = None if parameter is None else nn.Parameter(parameter.detach().to(device))
        for name, buffer in module._buffers.items():
            module._buffers[name] = None if buffer is None else buffer.to(device)
    return network


@contextlib.contextmanager
def as_on_gpu() -> Iterator[AsOnGpu]:
    draw = rng.generator
    rng.generator = lambda *key, device="cpu": draw(*key)  # type: ignore[assignment]
    nn.Module.to = _moved  # type: ignore[assignment]
    with FakeTensorMode(allow_non_fake_inputs=True), AsOnGpu() as mode:
        yield mode


def apart(test: Callable[..., None]) -> Callable[..., None]:
    """A test in a process of its own: one that has met fakes of a GPU starts threads for it, and cannot fork after."""

    @functools.wraps(test)
    def forked(**given: Any) -> None:
        process = mp.get_context("fork").Process(target=test, kwargs=given)
        process.start()
        process.join(120)
        assert process.exitcode == 0

    return forked


@pytest.mark.filterwarnings("ignore:Accessing the data pointer of FakeTensor")  # a copy of the network asks for it
@pytest.mark.parametrize("variant", VARIANTS)
@apart
def test_no_step_waits_for_the_gpu(variant: str, digits: Any) -> None:
    """All but the backward pass, whose streams need a GPU."""
    recipe = SMALL.with_(VARIANTS[variant])
    data = training_data(recipe, digits)
    with as_on_gpu() as mode:
        data = dataclasses.replace(data, fit=data.fit.to(GPU), validation=None)
        training = Training(recipe, data, Worker(device=GPU), accumulate=1 + (variant == "repeated"))

        def backward(loss: Tensor) -> None:
            for parameter in training.network.parameters():
                parameter.grad = torch.empty_like(parameter)

        Tensor.backward = backward  # type: ignore[assignment]
        train_mode(recipe, training.network, 0)
        for training.epoch in (0, 1):  # at first constants are put on the device, and kept there
            mode.strict = training.epoch == 1
            for step, images in enumerate(data.batches(recipe, training.epoch, training._steps, training.worker)):
                loss, wrong = training._step(step, images, training._steps.among(step), 1.0)
                assert loss.device == wrong.device == images.images.device == GPU


@pytest.mark.parametrize(
    "wait",
    [
        lambda x: x.sum().item(),
        lambda x: float(x[0]),
        lambda x: x[x > 0],
        lambda x: x.nonzero(),
        lambda x: 1 if x.any() else 0,
        lambda x: x.cpu(),
        lambda x: x.tolist(),
        lambda x: torch.ones(3).to(GPU),
        lambda x: x.copy_(torch.ones(3)),
        lambda x: torch.tensor([1.0, 2.0], device=GPU),
    ],
)
@apart
def test_what_waits_is_seen(wait: Callable[[Tensor], Any]) -> None:
    with as_on_gpu() as mode:
        x = torch.ones(3, device=GPU)
        mode.strict = True
        with pytest.raises((AssertionError, DataDependentOutputException, DynamicOutputShapeException)):
            wait(x)
        x.add_(torch.ones(3).to(GPU, non_blocking=True)).mul_(2)


def settings() -> list[str | bool]:
    """Everything that says how float32 is rounded; "?" where PyTorch refuses to say."""
    b = torch.backends
    found: list[str | bool] = [
        place.fp32_precision
        for place in (b.cuda.matmul, b.cudnn.conv, b.cudnn.rnn, b.mkldnn.matmul, b.mkldnn.conv, b.cudnn, b.mkldnn)
    ]
    for ask in (
        torch.get_float32_matmul_precision,
        lambda: b.cuda.matmul.allow_tf32,
        lambda: b.cudnn.allow_tf32,
    ):
        try:
            found.append(ask())
        except RuntimeError:
            found.append("?")
    return found


EXACT = ["ieee"] * 5


@pytest.fixture
def default_settings() -> Iterator[None]:
    yield
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = True
    for place in (torch.backends.cuda.matmul, torch.backends.mkldnn.matmul, torch.backends.mkldnn.conv):
        place.fp32_precision = "none"


SET: dict[str, Callable[[], Any]] = {
    "as it is": lambda: None,
    "medium": lambda: torch.set_float32_matmul_precision("medium"),
    "high": lambda: torch.set_float32_matmul_precision("high"),
    "by its new name": lambda: setattr(torch.backends.cuda.matmul, "fp32_precision", "tf32"),
    "convolutions exact": lambda: setattr(torch.backends.cudnn.conv, "fp32_precision", "ieee"),
    "all exact": lambda: setattr(torch.backends.cudnn, "allow_tf32", False),
}


@pytest.mark.parametrize("how", SET)
@pytest.mark.usefixtures("default_settings")
def test_float32_is_float32_whatever_the_caller_has_set(how: str, digits: Any) -> None:
    data = training_data(SMALL, digits)
    training, seen = Training(SMALL, data), []
    training.network.register_forward_hook(lambda *_: seen.append(settings()))
    SET[how]()
    before = settings()
    training._weights = torch.ones(10)
    training._weights.requires_grad_().register_hook(lambda _: seen.append(settings()))  # in the backward pass
    training._step(0, data.fit.select(torch.arange(8)), 8, 1.0)
    assert settings() == before
    training.validate(4)
    assert settings() == before
    assert len(seen) > 2
    for inside in seen:
        assert not {"tf32", "bf16"} & set(inside[:5])
        assert "?" not in inside  # PyTorch's compiler asks by the older names
    degraded: list[Any] = []
    in_float32(lambda x: degraded.append(settings()))(torch.zeros(1))
    assert not {"tf32", "bf16"} & {degraded[0][0], degraded[0][3]}
    assert settings() == before


@pytest.mark.usefixtures("default_settings")
def test_a_blur_is_the_same_under_a_callers_setting() -> None:
    """On a CPU with units for bf16 the setting would make it wrong by 1e-3."""
    x, scale = torch.rand(4, 3, 96, 96, generator=rng.generator("x")), torch.tensor([0.0, 1.0, 4.0, 20.0])
    expected = heat_blur(x, scale)
    torch.set_float32_matmul_precision("medium")
    assert torch.equal(heat_blur(x, scale), expected)


@apart
def test_a_blur_is_traced_in_one_piece() -> None:
    x, scale = torch.rand(2, 3, 16, 16, generator=rng.generator("x")), torch.tensor([0.5, 4.0])
    torch._dynamo.reset()
    assert torch.equal(torch.compile(heat_blur, backend="eager", fullgraph=True)(x, scale), heat_blur(x, scale))


def test_the_callers_generator_is_as_it_was(digits: Any) -> None:
    recipe = SMALL.with_(network="allconvnet10", augment=("erasing",), train_fraction=0.03)  # with dropout
    before = torch.get_rng_state()
    training = Training(recipe, training_data(recipe, digits))
    training.run_epoch()
    training.state()
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.slow
@pytest.mark.parametrize(("batch_size", "parts"), [(32, 1), (25, 2)])
def test_a_network_is_compiled_once(batch_size: int, parts: int, digits: Any) -> None:
    """The last step is smaller; a batch of 25 has parts of 12 and 13 images."""
    recipe = SMALL.with_(compile=True, batch_size=batch_size)
    data = training_data(recipe, digits)
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    compiled = [e.metrics["train_loss"] for e in Training(recipe, data, accumulate=parts).run()]
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1
    plain = Training(recipe.with_(compile=False), data, accumulate=parts)
    assert compiled == pytest.approx([e.metrics["train_loss"] for e in plain.run()], rel=1e-3)


# ---- on a GPU

on_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")


@contextlib.contextmanager
def no_waiting() -> Iterator[None]:
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


@on_gpu
@pytest.mark.parametrize("variant", VARIANTS)
def test_no_step_waits_for_a_real_gpu(variant: str, digits: Any) -> None:
    recipe = SMALL.with_({**VARIANTS[variant], "train_fraction": 0.3, "batch_size": 8})
    data = training_data(recipe, digits, GPU)
    training = Training(recipe, data, Worker(device=GPU))
    before = torch.get_rng_state(), torch.cuda.get_rng_state(GPU)
    training.run_epoch()
    assert torch.equal(torch.get_rng_state(), before[0])
    assert torch.equal(torch.cuda.get_rng_state(GPU), before[1])
    steps, errors = training._steps, torch.zeros((), device=GPU)
    sums = torch.zeros(len(steps), device=GPU)
    train_mode(recipe, training.network, 1)
    with no_waiting():
        for step, images in enumerate(data.batches(recipe, 1, steps, training.worker)):
            sums[step], wrong = training._step(step, images, steps.among(step), 1.0)
            errors += wrong
            training._looks.after(step, sums, lambda: False)
    assert torch.isfinite(sums).all()


@on_gpu
def test_a_gpu_tells_a_loss_that_is_no_number_and_resumes(digits: Any) -> None:
    recipe = SMALL.with_(batch_size=8, train_fraction=0.5)
    data = training_data(recipe, digits, GPU)
    with pytest.raises(NonFiniteLossError, match="epoch 0, step"):
        Training(recipe.with_(lr=1e30), data, Worker(device=GPU)).run_epoch()
    training = Training(recipe, data, Worker(device=GPU))
    training.run_epoch()
    state = training.state()
    assert all(tensor.device == CPU for tensor in state.model.values())
    again = Training(recipe, data, Worker(device=GPU), state)
    for name, value in again.network.state_dict().items():
        assert torch.equal(value.cpu(), state.model[name]), name
