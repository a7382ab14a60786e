"""Models resident on a device, measured on one set of images after the other."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from mollify_core import checkpoint
from mollify_core.classifier import Classifier
from mollify_core.matching.distortions import Distortions
from mollify_core.measure import calibration
from mollify_core.measure.evaluation import Cell, Row, distortion, measure, row

CONSTANTS = {"evaluation": Distortions.evaluation(), "training": Distortions()}


@dataclass(frozen=True)
class Measurement:
    """How cells are measured, whatever the model.

    Attributes:
        distortions: key of `CONSTANTS`.
        published: distort normalised images, as the paper's script does by mistake.
        precision: "float32" or "bf16"; None as each model was trained.
        batch: images per forward pass.
        seed: of the distortions' noise.
    """

    distortions: str = "evaluation"
    published: bool = False
    precision: str | None = None
    batch: int = 500
    seed: int = 0


class Evaluator:
    """Models resident on one device, measured side by side on one set of images after the other.

    Args:
        models: what to evaluate, all of the same data set.
        classes, image_shape, mean, std: of the data set.
        how: see `Measurement`.
        device: where.
        threads: number of CPU threads; None leaves it as it is.
    """

    def __init__(
        self,
        models: Sequence[checkpoint.Checkpoint],
        classes: int,
        image_shape: tuple[int, int, int],
        mean: tuple[float, ...],
        std: tuple[float, ...],
        how: Measurement,
        device: str | None = None,
        threads: int | None = None,
    ) -> None:
        if threads:
            torch.set_num_threads(threads)
        self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        self._protocol = how
        self._classifiers = []
        for state in models:
            classifier = Classifier.load(state, classes, image_shape, mean, std, self.device)
            if how.precision is not None:
                recipe = classifier.recipe.with_(precision=how.precision)
                classifier = dataclasses.replace(classifier, recipe=recipe)
            self._classifiers.append(classifier)

    def temperature(self, which: int, images: torch.Tensor, labels: torch.Tensor) -> float:
        """The temperature that minimises the NLL of model `which` on these images; arguments as in `rows`."""
        log_probabilities, _ = measure(self._classifiers[which], images, batch=self._protocol.batch, device=self.device)
        return calibration.fit_temperature(log_probabilities, labels.to(self.device))

    def scores(self, which: int, images: torch.Tensor) -> torch.Tensor:
        """`detection.SCORES` (2, n) of model `which` on foreign images, as in `rows`; on the CPU."""
        classifier = self._classifiers[which]
        found, besides = measure(classifier.with_energy, images, batch=self._protocol.batch, device=self.device)
        assert besides is not None
        return torch.stack([found.amax(dim=1).exp(), besides[:, 1]]).cpu()

    def rows(
        self,
        cell: Cell,
        images: torch.Tensor,
        labels: torch.Tensor,
        temperatures: dict[int, float],
        foreign: dict[int, torch.Tensor],
    ) -> dict[int, Row]:
        """Measures the models that `temperatures` names on one cell.

        Args:
            cell: what the images are; those of a distortion are clean, and distorted here.
            images: (n, channels, height, width) uint8 on the CPU.
            labels: (n,) int64.
            temperatures: index of a model -> its temperature.
            foreign: index of a model -> its `scores` of foreign images; empty without these.
        """
        how, result = self._protocol, {}
        for which, temperature in temperatures.items():
            classifier = self._classifiers[which]
            distort = None
            if cell.kind == "distortion":
                published = classifier.normalise.to("cpu") if how.published else None
                distort = distortion(cell, how.seed, CONSTANTS[how.distortions], published=published)
            log_probabilities, besides = measure(
                classifier.with_energy, images, batch=how.batch, device=self.device, distort=distort
            )
            assert besides is not None
            sink = besides[:, 0] if classifier.has_sink else None
            result[which] = row(cell, log_probabilities, labels, temperature, sink, besides[:, 1], foreign.get(which))
        return result
