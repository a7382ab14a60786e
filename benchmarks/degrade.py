"""Heat blur against the released code's way (torch-dct's linear layers), and bf16 against float32 training steps.

    uv run python benchmarks/degrade.py

One CPU thread, CPU time, both sides interleaved in one process, medians; the ratio's spread in brackets.
"""

from __future__ import annotations

import math

import torch
import torch_dct

from benchmarks.timing import compare
from mollify_core import networks, rng
from mollify_core.batch import losses, make_batch
from mollify_core.datasets import ImageSet
from mollify_core.measure.validation import ValidationSet
from mollify_core.mollification.degrade import heat_blur
from mollify_core.normalise import Normalise
from mollify_core.recipe import Recipe
from mollify_core.training import Training
from mollify_core.training_data import TrainingData

BATCH = 128


def blur(side: int) -> None:
    x = torch.randn(BATCH, 3, side, side, generator=rng.generator("x"))
    scale = torch.exp(torch.rand(BATCH, generator=rng.generator("scale")) * math.log(side / 0.3)) * 0.3
    forward, inverse = torch_dct.LinearDCT(side, "dct"), torch_dct.LinearDCT(side, "idct")
    frequency = (math.pi * torch.arange(side) / side).square()
    both = frequency[:, None] + frequency[None, :]

    def released() -> torch.Tensor:
        gain = torch.exp(-both * (scale.square() / 2)[:, None, None, None])
        return torch_dct.apply_linear_2d(torch_dct.apply_linear_2d(x, forward) * gain, inverse)

    with torch.inference_mode():
        torch.testing.assert_close(heat_blur(x, scale), released(), atol=1e-4, rtol=0)
        print(f"heat blur, batch {BATCH}, {side} px: {compare(lambda: heat_blur(x, scale), released)}")


def step(network: str) -> None:
    images = torch.randint(0, 256, (BATCH, 3, 32, 32), dtype=torch.uint8, generator=rng.generator("images"))
    labels = torch.randint(0, 10, (BATCH,), generator=rng.generator("labels"))
    data = TrainingData(
        ImageSet(images, labels), ValidationSet(images[None, :0], labels[:0], 0), 10, (0.5,) * 3, (0.25,) * 3, ""
    )
    shown = ImageSet(images, labels)
    recipe = Recipe().with_(network=network)
    training = Training(recipe, data)
    default = networks.build(network, 10, (3, 32, 32))
    optimizer = torch.optim.SGD(default.parameters(), lr=recipe.optim.lr, momentum=0.9, weight_decay=5e-4)
    normalise = Normalise.make("normal", data.mean, data.std, "cpu")

    def plain() -> None:
        batch = make_batch(images, labels, 10, recipe, normalise, 0, 0, 0, 0)
        loss = losses(default(batch.x), batch, 10, recipe).mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()

    result = compare(lambda: training._step(0, shown, BATCH, 1.0), plain, rounds=5)
    print(f"{network} training step, bf16 + channels_last against float32, default layout: {result}")


if __name__ == "__main__":
    torch.set_num_threads(1)
    blur(32)
    blur(64)
    step("presnet18")
