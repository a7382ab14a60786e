"""What evaluation costs beside the network's forward pass, and what bf16 + channels_last gain over float32.

    uv run python benchmarks/evaluation.py [--images 2000] [--rounds 5]

One CPU thread, CPU time, both sides interleaved in one process, medians; the ratio's spread in brackets.

Found on a shared AMD EPYC core with bf16 units, torch 2.15, 2000 images, 5 rounds, bf16 + channels_last, while other
work ran on the machine. Evaluation (forward pass, distortion, all metrics) over the bare forward pass:

| network, classes | cell | ratio |
|---|---|---|
| resnet20, 10 | clean | 1.00 (0.95 to 1.12) |
| resnet20, 10 | diffusion, blur, dropout, mosaic at 0.5 | 1.14, 0.98, 1.08, 0.94 (0.83 to 1.22) |
| resnet20, 200 | clean | 0.92 (0.92 to 0.97) |
| presnet18, 200 | clean | 0.99 (0.98 to 1.02) |

float32 over bf16 + channels_last, 359 test digits, after two epochs of training: time 2.3 (2.1 to 2.7) for resnet20 and
2.8 (2.6 to 2.9) for presnet18; error 0.7075 against 0.7019 and 0.4624 against 0.4624, NLL 2.1189 against 2.1186 and
1.1925 against 1.1920, same guess for 97.5 % and 99.2 % of the images, probabilities differ by at most 0.005.
"""

from __future__ import annotations

import argparse
import functools

import torch
from torch import Tensor

from benchmarks.timing import Comparison, compare
from mollify_core import networks, rng
from mollify_core.classifier import Classifier
from mollify_core.datasets import prepare
from mollify_core.matching.distortions import KINDS
from mollify_core.measure.evaluation import BATCH, Cell, distortion, measure, row
from mollify_core.normalise import Normalise
from mollify_core.recipe import Recipe
from mollify_core.training import Training
from mollify_core.training_data import training_data

CONSTANTS = ((0.5,) * 3, (0.25,) * 3)


def show(name: str, result: Comparison) -> None:
    print(
        f"{name}: {result.reference:.2f} s against {result.ours:.2f} s, "
        f"{result.ratio:.3f}x ({result.low:.3f} to {result.high:.3f})",
        flush=True,
    )


def overhead(name: str, classes: int, count: int, rounds: int, distortions: tuple[str, ...] = ()) -> None:
    """`measure` and `row`, on clean images and distorted ones, over the network alone on the same batches."""
    g = rng.generator("evaluation")
    images = torch.randint(0, 256, (count, 3, 32, 32), dtype=torch.uint8, generator=g)
    labels = torch.randint(classes, (count,), generator=g)
    network = networks.build(name, classes, (3, 32, 32)).to(memory_format=torch.channels_last).eval()
    normalise = Normalise.make("normal", *CONSTANTS, "cpu")
    classifier = Classifier(network, normalise, Recipe().with_(network=name), classes)

    @torch.inference_mode()
    def bare() -> None:
        for part in images.split(BATCH):
            with torch.autocast("cpu", torch.bfloat16):
                network(normalise(part).contiguous(memory_format=torch.channels_last))

    def evaluated(cell: Cell) -> None:
        distort = distortion(cell, 0) if cell.kind == "distortion" else None
        log_probabilities, _ = measure(classifier, images, distort=distort)
        row(cell, log_probabilities, labels, temperature=1.5)

    for cell in (Cell("clean"), *(Cell("distortion", kind, level=0.5) for kind in distortions)):
        result = compare(bare, functools.partial(evaluated, cell), rounds)
        show(f"{name}, {classes} classes, {count} images, {cell.key}: evaluation over bare forward pass", result)


def precision(name: str, rounds: int) -> None:
    """float32 over bf16 + channels_last: time, and what the difference does to a lightly trained network."""
    recipe = Recipe().with_(network=name, dataset="digits", epochs=2, batch_size=64)
    prepared = prepare("digits")
    training = Training(recipe, training_data(recipe, prepared))
    for _ in training.run():
        pass
    test = prepared.tensors("test")
    normalise = Normalise.make("normal", prepared.spec.mean, prepared.spec.std, "cpu")
    fast = Classifier(training.network.eval(), normalise, recipe, 10)
    default = networks.build(name, 10, (3, 32, 32)).eval()
    default.load_state_dict(training.network.state_dict())

    def plain(images: Tensor) -> Tensor:
        return torch.log_softmax(default(normalise(images)), 1)

    ours, theirs = (measure(forward, test.images)[0] for forward in (fast, plain))
    a, b = (row(Cell("clean"), log_probabilities, test.labels) for log_probabilities in (ours, theirs))
    result = compare(lambda: measure(fast, test.images), lambda: measure(plain, test.images), rounds)
    show(f"{name}, {len(test)} digits, float32 over bf16 + channels_last", result)
    print(
        f"  error {b['error']:.4f} against {a['error']:.4f}, NLL {b['nll']:.5f} against {a['nll']:.5f}, "
        f"same guess for {(ours.argmax(1) == theirs.argmax(1)).float().mean():.2%}, "
        f"largest difference of a probability {(ours.exp() - theirs.exp()).abs().max():.4f}"
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    torch.set_num_threads(1)
    overhead("resnet20", 10, args.images, args.rounds, KINDS)
    overhead("resnet20", 200, args.images, args.rounds)
    overhead("presnet18", 200, args.images, args.rounds)
    precision("resnet20", args.rounds)
    precision("presnet18", args.rounds)
