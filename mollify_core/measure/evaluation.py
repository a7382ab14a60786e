"""What a trained model is measured on, and how: clean images, corruptions, distortions.

    for cell in cells(corrupted.types):
        images = corrupted.cell(cell.name, cell.severity) if cell.kind == "corruption" else clean
        distort = distortion(cell, seed) if cell.kind == "distortion" else None
        log_probabilities, sink = measure(classifier, images, distort=distort)
        rows.append(row(cell, log_probabilities, labels, temperature, sink))
    summarise(rows)

A cell is one set of images, a row what was measured on it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mollify_core import rng
from mollify_core.corruptions.benchmark import BENCHMARK, CORRUPTIONS, GROUPS, SEVERITIES, check_cell, group_of
from mollify_core.errors import ConfigError, DataError, nearest
from mollify_core.matching.distortions import KINDS, Distortions, distort
from mollify_core.measure import calibration, detection, selective
from mollify_core.measure.metrics import COLUMNS, Metrics, per_prediction
from mollify_core.normalise import Normalise

BATCH = 500
CHUNK = 1000
"""Images that are distorted with one generator; a batch is never larger."""
LEVELS = (0.0, 0.25, 0.5, 0.75, 1.0)
"""The strengths of the published robustness protocol of information matching."""
MEANS = (
    *("error", "top5_error", "nll", "brier", "confidence", "ece", "adaptive_ece", "batch_mean_ece", "matching_ece"),
    *("scaled_nll", "scaled_ece", "scaled_adaptive_ece", "sink_mass"),
    *("aurc", "risk_at_80", "risk_at_90", "risk_at_95"),
    *("ood_msp_auroc", "ood_msp_fpr95", "ood_energy_auroc", "ood_energy_fpr95"),
)
"""The metrics of a row that are averaged over cells."""

Forward = Callable[[Tensor], Tensor | tuple[Tensor, Tensor]]
"""uint8 images, or float32 ones in [0, 1], (batch, channels, height, width) -> log-probabilities (batch, classes); of a
network with a sink class also the sink's probability (batch,), or whatever else is said of each image."""
Row = dict[str, Any]


@dataclass(frozen=True, eq=False)
class Cell:
    """One set of images that a model is measured on; equal where the keys are.

    Attributes:
        kind: "clean", "corruption" or "distortion".
        name: of the corruption or distortion, "" for clean.
        severity: of a corruption, 1 to 5; else 0.
        level: strength of a distortion, in [0, 1]; else NaN.

    Raises:
        ConfigError: there is no such cell.
    """

    kind: str
    name: str = ""
    severity: int = 0
    level: float = math.nan

    def __post_init__(self) -> None:
        if self.kind == "corruption":
            check_cell(self.name, self.severity)
        elif self.kind == "distortion":
            if self.name not in KINDS:
                raise ConfigError(f"Unknown distortion {self.name!r}{nearest(self.name, KINDS)}")
            if not 0 <= self.level <= 1:
                raise ConfigError(f"Expected the level of a distortion to be in [0, 1], but got {self.level!r}")
        elif self.kind != "clean":
            raise ConfigError(f"Expected the kind to be clean, corruption or distortion, but got {self.kind!r}")

    @property
    def group(self) -> str:
        """Of a corruption: noise, blur, weather, digital or extra; else the kind."""
        return group_of(self.name) if self.kind == "corruption" else self.kind

    @property
    def key(self) -> str:
        """Unique, and fit for a file name: "clean", "corruption-fog-3", "distortion-blur-0_25"."""
        if self.kind == "clean":
            return "clean"
        strength = self.severity if self.kind == "corruption" else str(float(self.level)).replace(".", "_")
        return f"{self.kind}-{self.name}-{strength}"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Cell) and self.key == other.key

    def __hash__(self) -> int:
        return hash(self.key)


def cells(
    types: Iterable[str] = BENCHMARK, levels: Iterable[float] = LEVELS, distortions: Iterable[str] = KINDS
) -> tuple[Cell, ...]:
    """All cells in canonical order: clean, the corruptions at each severity, the distortions at each level.

    Args:
        types: corruptions, in any order; none is allowed.
        levels: distortion strengths in [0, 1].
        distortions: some of `KINDS`.

    Raises:
        ConfigError: an unknown name, or a level out of range.
    """
    corrupted = [Cell("corruption", name, severity) for name in set(types) for severity in SEVERITIES]
    distorted = [Cell("distortion", name, level=float(level)) for name in set(distortions) for level in set(levels)]
    corrupted.sort(key=lambda cell: (CORRUPTIONS.index(cell.name), cell.severity))
    distorted.sort(key=lambda cell: (KINDS.index(cell.name), cell.level))
    return (Cell("clean"), *corrupted, *distorted)


def distortion(
    cell: Cell, seed: int, constants: Distortions | None = None, *, published: Normalise | None = None
) -> Callable[[Tensor, int], Tensor]:
    """The distortion of a cell as a function of a chunk of images and the chunk's number, for `measure`.

    The noise depends on the seed, the cell and the chunk only, so it is the same for every model. It is drawn where the
    images lie: images on the CPU get the same noise whatever device the network is on. Images that a level leaves
    unchanged are passed on as they are.

    Args:
        cell: of kind "distortion".
        seed: of the noise.
        constants: what level 1 means; default `Distortions()`, those of training. The published script uses
            `Distortions.evaluation()`.
        published: the network's normalisation, on the images' device, to distort the *normalised* image with the code
            meant for [0, 1], as the published script does: diffusion then clips most pixels, a dropped patch is grey
            and not black. By default images are distorted in [0, 1] and normalised after.

    Raises:
        ConfigError: the cell is of another kind.

    Source: Bonilla Salvador, 2025, and the evaluation script of its released code.
    """
    if cell.kind != "distortion":
        raise ConfigError(f"Expected a distortion, but got the cell {cell.key!r}")
    chosen = constants or Distortions()

    def apply(images: Tensor, chunk: int) -> Tensor:
        if cell.name == "diffusion" and int(999 * cell.level) == 0:  # step 0 does not clip
            return images
        unit = images.contiguous()  # the distortions are slower on channels-last images
        unit = unit.float() / 255 if unit.dtype == torch.uint8 else unit
        x = unit if published is None else published(unit)
        generator = rng.generator(seed, "evaluate", cell.key, chunk, device=x.device)
        strength = torch.full((len(x),), cell.level, dtype=torch.float64)
        distorted = distort(x, cell.name, strength, chosen, generator)
        if torch.equal(distorted, x):
            return images
        return distorted if published is None else torch.addcmul(published.mean, distorted, published.std)

    return apply


@torch.inference_mode()
def measure(
    forward: Forward,
    images: Tensor,
    *,
    batch: int = BATCH,
    device: torch.device | str | None = None,
    distort: Callable[[Tensor, int], Tensor] | None = None,
) -> tuple[Tensor, Tensor | None]:
    """What a network says of all images.

    Args:
        forward: the network, in evaluation mode; see `Forward`; a `classifier.Classifier`, its `with_sink` or its
            `with_energy`.
        images: (n, channels, height, width) uint8, or float32 in [0, 1], resident or memory-mapped.
        batch: images a forward pass, at most `CHUNK`. Apart from the rounding of the network, results do not depend on
            it.
        device: of the network; default: of the images.
        distort: a function of `distortion`.

    Returns:
        Log-probabilities (n, classes) float32 and what `forward` says besides, as the sink's probability (n,) float32,
        or None, on the network's device.

    Raises:
        ConfigError: the batch size is out of range.
        DataError: there are no images.
    """
    if not 1 <= batch <= CHUNK:
        raise ConfigError(f"Expected the batch size to be from 1 to {CHUNK}, but got {batch!r}")
    if images.ndim != 4 or not len(images):
        raise DataError(
            f"Expected at least one image, of shape (n, channels, height, width), but got {tuple(images.shape)}"
        )
    parts = []
    for number, chunk in enumerate(images.split(CHUNK)):
        if distort is not None:
            chunk = distort(chunk, number)
        for part in chunk.to(device or images.device).split(batch):
            output = forward(part)
            parts.append((output,) if isinstance(output, Tensor) else output)
    log_probabilities, *sink = (torch.cat(column).float() for column in zip(*parts, strict=True))
    return log_probabilities, sink[0] if sink else None


def row(
    cell: Cell,
    log_probabilities: Tensor,
    labels: Tensor,
    temperature: float = 1.0,
    sink_mass: Tensor | None = None,
    energy: Tensor | None = None,
    foreign: Tensor | None = None,
) -> Row:
    """One tidy row of plain Python values: what was measured on a cell.

    Args:
        cell: the images.
        log_probabilities: (n, classes) float32 or float64, unscaled.
        labels: (n,) int64.
        temperature: fitted on validation (`calibration.fit_temperature`); 1 changes nothing.
        sink_mass: (n,) probability of the sink class, of a network that has one.
        energy: (n,) logsumexp of the logits; needed with `foreign`.
        foreign: (2, m) `detection.SCORES` of images of another data set.

    Returns:
        kind, name, group, severity, level as in `Cell`; images; error, top5_error, nll (nats), brier, confidence;
        the calibration errors ece, adaptive_ece, batch_mean_ece, matching_ece; scaled_nll, scaled_ece,
        scaled_adaptive_ece after division by `temperature`; sink_mass, the mean (NaN without a sink); bin_count,
        bin_accuracy, bin_confidence, the reliability diagram (15 values, NaN in empty bins); class_error and
        class_confidence, the mean probability of the true class, by class (NaN for a class without images), and
        class_images, how many there are; aurc and risk_at_80, _90, _95 (`selective`) by the largest probability, and
        risk_curve (100 values); ood_<score>_auroc, ood_<score>_fpr95 and ood_<score>_roc (100 values) of `detection`,
        NaN and empty without `foreign`.

    Raises:
        ConfigError: the temperature is not positive and finite.
        DataError: the shapes do not fit, a label is out of range, or these are no log-probabilities.
    """
    labels = labels.to(log_probabilities.device)
    calibration.check_predictions(log_probabilities, labels)
    classes = log_probabilities.shape[1]
    values = per_prediction(log_probabilities, labels).cpu()
    after = calibration.scaled(log_probabilities, temperature)
    scaled_nll = -after.gather(1, labels[:, None]).double().mean().item()
    scaled_confidence = after.amax(dim=1).exp().cpu()
    labels = labels.cpu()
    columns = dict(zip(COLUMNS, values.t().contiguous(), strict=True))
    means = Metrics().update(values).compute()
    confidence, correct = columns["confidence"], 1 - columns["error"]
    bins = calibration.reliability(confidence, correct)
    return {
        **{name: getattr(cell, name) for name in ("kind", "name", "group", "severity", "level")},
        "images": len(labels),
        **{name: means[name] for name in ("error", "top5_error", "nll", "brier", "confidence", "ece")},
        "adaptive_ece": calibration.adaptive_ece(confidence, correct),
        "batch_mean_ece": calibration.batch_mean_ece(confidence, correct),
        "matching_ece": calibration.matching_ece(confidence, correct),
        "scaled_nll": scaled_nll,
        "scaled_ece": calibration.ece(scaled_confidence, correct),
        "scaled_adaptive_ece": calibration.adaptive_ece(scaled_confidence, correct),
        "temperature": float(temperature),
        "sink_mass": math.nan if sink_mass is None else sink_mass.double().mean().item(),
        "bin_count": bins.counts.long().tolist(),
        "bin_accuracy": bins.accuracy.tolist(),
        "bin_confidence": bins.confidence.tolist(),
        "class_error": _class_means(columns["error"], labels, classes),
        "class_confidence": _class_means((-columns["nll"]).exp(), labels, classes),
        "class_images": labels.bincount(minlength=classes).tolist(),
        **_selective(confidence, columns["error"]),
        **_detection(confidence, energy, foreign),
    }


def _selective(confidence: Tensor, error: Tensor) -> Row:
    curve = selective.risk_curve(confidence, error).tolist()
    risks = {f"risk_at_{coverage}": curve[coverage - 1] for coverage in (80, 90, 95)}
    return {"aurc": selective.aurc(confidence, error), **risks, "risk_curve": curve}


def _detection(confidence: Tensor, energy: Tensor | None, foreign: Tensor | None) -> Row:
    if foreign is None:
        blank = {"auroc": math.nan, "fpr95": math.nan, "roc": []}
        return {f"ood_{score}_{name}": value for score in detection.SCORES for name, value in blank.items()}
    if energy is None:
        raise DataError("Expected the energy of the images beside the scores of foreign ones, but got none")
    found: Row = {}
    for score, known, other in zip(detection.SCORES, (confidence, energy.cpu()), foreign.cpu(), strict=True):
        roc = detection.false_positives(known, other).tolist()
        found |= {f"ood_{score}_auroc": detection.auroc(known, other), f"ood_{score}_fpr95": roc[94]}
        found[f"ood_{score}_roc"] = roc
    return found


def summarise(rows: Sequence[Mapping[str, Any]], reference_rows: Sequence[Mapping[str, Any]] | None = None) -> Row:
    """Numbers for one model from its rows; what has no row is left out.

    Means are unweighted over cells, of every metric in `MEANS`; NaN where there is no sink, for example:

    | name | mean over |
    |---|---|
    | clean_<metric> | the clean images |
    | corrupted_<metric> | the benchmark's 15 corruptions x 5 severities; corrupted_cells of the 75 are there |
    | corrupted_<group>_<metric> | those of a group: noise, blur, weather, digital |
    | corrupted_severity_<1..5>_<metric> | those of a severity |
    | extra_<metric> | the four further corruptions |
    | distorted_<metric>, distorted_<kind>_<metric> | distortions at all levels, 0 too if it is among them |
    | robust_accuracy, robust_accuracy_<kind> | 1 - distorted_error, and by kind |

    With a reference model, mce is the mean over the benchmark's corruptions of sum_s E_s / sum_s R_s, errors E of the
    model over errors R of the reference at severity s, and relative_mce the same with clean errors subtracted; 1 is as
    robust as the reference (the paper writes 100), NaN where the reference makes no (further) errors.
    Source: Hendrycks and Dietterich, ICLR 2019, section 4.1.

    Raises:
        DataError: a cell has two rows, or the reference lacks one of the model's benchmark cells.
    """
    found = _by_cell(rows)
    benchmark = [cell for cell in found if cell.name in BENCHMARK]
    distorted = [cell for cell in found if cell.kind == "distortion"]
    scopes = {
        "clean": [cell for cell in found if cell.kind == "clean"],
        "corrupted": benchmark,
        **{f"corrupted_{group}": [cell for cell in benchmark if cell.group == group] for group in GROUPS},
        **{f"corrupted_severity_{s}": [cell for cell in benchmark if cell.severity == s] for s in SEVERITIES},
        "extra": [cell for cell in found if cell.group == "extra"],
        "distorted": distorted,
        **{f"distorted_{kind}": [cell for cell in distorted if cell.name == kind] for kind in KINDS},
    }
    result: Row = {"corrupted_cells": len(benchmark)}
    for scope, members in scopes.items():
        if members:
            result |= {f"{scope}_{metric}": float(np.mean([found[c][metric] for c in members])) for metric in MEANS}
            if scope.startswith("distorted"):
                result[scope.replace("distorted", "robust_accuracy")] = 1 - result[f"{scope}_error"]
    if reference_rows is not None and benchmark:
        result |= _mce(found, _by_cell(reference_rows), benchmark)
    return result


def _by_cell(rows: Sequence[Mapping[str, Any]]) -> dict[Cell, Mapping[str, Any]]:
    found: dict[Cell, Mapping[str, Any]] = {}
    for entry in rows:
        cell = Cell(entry["kind"], entry["name"], entry["severity"], entry["level"])
        if cell in found:
            raise DataError(f"Expected one row for each cell, but got two for {cell.key!r}")
        found[cell] = entry
    return found


def _mce(
    rows: Mapping[Cell, Mapping[str, Any]], reference: Mapping[Cell, Mapping[str, Any]], benchmark: Sequence[Cell]
) -> dict[str, float]:
    missing = [cell.key for cell in benchmark if cell not in reference]
    if missing:
        raise DataError(f"Expected the reference to have a row for each corruption, but {missing[0]!r} has none")
    clean = Cell("clean")

    def mean_ratio(relative: bool) -> float:
        ratios = []
        for name in dict.fromkeys(cell.name for cell in benchmark):
            members = [cell for cell in benchmark if cell.name == name]
            ours, theirs = (
                sum(side[cell]["error"] - (side[clean]["error"] if relative else 0) for cell in members)
                for side in (rows, reference)
            )
            ratios.append(ours / theirs if theirs else math.nan)
        return float(np.mean(ratios))

    result = {"mce": mean_ratio(relative=False)}
    if clean in rows and clean in reference:
        result["relative_mce"] = mean_ratio(relative=True)
    return result


def _class_means(values: Tensor, labels: Tensor, classes: int) -> list[float]:
    """The mean of (n,) values over the images of each class, NaN for a class without images."""
    sums = torch.bincount(labels, values.double(), minlength=classes)
    return (sums / torch.bincount(labels, minlength=classes)).tolist()
