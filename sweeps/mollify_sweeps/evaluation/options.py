"""What a user says of an evaluation, as typed values."""

from __future__ import annotations

from dataclasses import dataclass, field

from mollify_core.datasets.options import DataOptions

SOURCES = ("auto", "official", "made", "none")
"""Of the corrupted images."""


@dataclass(frozen=True)
class TestOptions:
    """On which images models are measured.

    Attributes:
        corruptions: one of `SOURCES`.
        corruption_dir: the official arrays or archive are here.
        frost_dir: photographs for the corruption `frost`, when made here.
        extra: also the corruptions that tuning may see.
        images: about so many test images, stratified; None for all.
        seed: of the corruptions made here.
        ood: another data set, or a folder of images, that models are to tell from their own; None for none.
        ood_dir: the official files of `ood` are here.
    """

    corruptions: str = "auto"
    corruption_dir: str | None = None
    frost_dir: str | None = None
    extra: bool = True
    images: int | None = None
    seed: int = 0
    ood: str | None = None
    ood_dir: str | None = None


@dataclass(frozen=True)
class Place:
    """Where models are measured.

    Attributes:
        device: "cpu" or "cuda"; None takes cuda where there is one.
        threads: of the CPU; None leaves them as they are.
        address: of a Ray cluster that the cells are spread over; None measures here.
    """

    device: str | None = None
    threads: int | None = None
    address: str | None = None


@dataclass(frozen=True)
class Evaluation:
    """What `sweeps/evaluate.py` is told.

    Attributes:
        models: where they are, see `models.find`.
        levels: of the distortions, "0,0.5,1", or "none".
        distortions, published, precision, batch, seed: see `evaluator.Measurement`.
        reference: label of the model that others are compared with; None takes plain training.
        study_url: of a sweep's study, when it is not in its sweep.json.
        out: folder of the results; None makes one out of the models.
    """

    models: tuple[str, ...]
    data: DataOptions = field(default_factory=DataOptions)
    test: TestOptions = field(default_factory=TestOptions)
    levels: str = "none"
    distortions: str = "evaluation"
    published: bool = False
    precision: str | None = None
    batch: int = 500
    seed: int = 0
    reference: str | None = None
    place: Place = field(default_factory=Place)
    study_url: str | None = None
    out: str | None = None
