"""`python -m mollify_core.predict CHECKPOINT IMAGE…`: what a trained model says of images, and how sure it is."""

from __future__ import annotations

import contextlib
import csv
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from mollify_core.datasets.options import DataOptions, add_data_options, add_network_code, data_options
from mollify_core.errors import ConfigError, DataError, StorageError
from mollify_core.foreign import clean, expanded, shown
from mollify_core.program import Parser, guarded

if TYPE_CHECKING:  # slow to import: --help answers at once
    import torch

    from mollify_core.trained import Trained

_BATCH = 64
FITTED = "validation"
TEMPERATURE_HELP = (
    "divide log-probabilities by this number; or `validation`: by the one that fits the model's validation images "
    "best, which takes its data set (default: 1, as trained)"
)


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit code: 0 done, 1 an image could not be read, 2 bad input."""
    return guarded(lambda: _run(argv))


def parser() -> Parser:
    """The parser; every option says what it does and its default."""
    p = Parser(
        prog="python -m mollify_core.predict",
        description="Say what a trained model takes images for, and how sure it is.",
        epilog="""
            Images are turned upright, cut to their middle square and scaled, as those that the model was trained on.

            examples:
              python -m mollify_core.predict runs/train-0123456789ab cat.jpg photos/
              python -m mollify_core.predict runs/SWEEP/trials/00007 photos --csv --out guesses.csv --top 3
              python -m mollify_core.predict runs/train-0123456789ab photos --temperature validation
        """,
    )
    p.add_argument("checkpoint", metavar="CHECKPOINT", help="a checkpoint's folder, or one that has some, as a trial's")
    p.add_argument("images", nargs="+", metavar="IMAGE", help="image files, or folders of them")
    p.add_argument("--top", type=int, default=1, metavar="K", help="the K likeliest classes of each (default: 1)")
    p.add_argument("--temperature", default="1", metavar="T", help=TEMPERATURE_HELP)
    g = p.add_mutually_exclusive_group()
    g.add_argument("--csv", action="store_true", help="one line an image, with a head")
    g.add_argument("--json", action="store_true", help="one object an image, a line each")
    p.add_argument("--out", metavar="FILE", help="write there (default: print)")
    add_network_code(p)
    add_data_options(p.add_argument_group("its data set, for --temperature validation, and for old checkpoints"))
    return p


def _run(argv: Sequence[str] | None) -> int:
    args = parser().parse_args(argv)
    if args.top < 1:
        raise ConfigError(f"Expected --top to be at least 1, but got {args.top}")
    files = list(_files(args.images))
    import torch

    from mollify_core.networks import own
    from mollify_core.trained import load

    if args.network_code:
        own.admit(args.network_code)
    data = data_options(args)
    model = load(args.checkpoint, data, "cuda" if torch.cuda.is_available() else "cpu")
    temperature = temperature_of(args.temperature, model, data)
    with _output(args.out) as out:
        form = "csv" if args.csv else "json" if args.json else "text"
        write = _Writer(out, form, min(args.top, len(model.names)), temperature)
        bad = 0
        for start in range(0, len(files), _BATCH):
            bad += _batch(files[start : start + _BATCH], model, temperature, write)
    calibrated = "as trained" if temperature == 1 else f"at temperature {temperature:.4g}"
    print(f"{len(files) - bad} images, confidence {calibrated}" + (f"; {bad} unread" if bad else ""), file=sys.stderr)
    return 1 if bad else 0


def temperature_of(text: str, model: Trained, data: DataOptions) -> float:
    """The temperature that a user means, see `TEMPERATURE_HELP`.

    Raises:
        ConfigError: it is no positive number.
        DataError: the data set is not there, or the model has no validation images.
    """
    if text != FITTED:
        try:
            value = float(text)
        except ValueError:
            value = 0.0
        if not 0 < value < float("inf"):
            raise ConfigError(f"Expected --temperature to be a positive number or {FITTED!r}, but got {shown(text)}")
        return value
    import torch

    from mollify_core.measure.calibration import fit_temperature
    from mollify_core.training_data import split_rows

    prepared = model.prepared(data)
    labels = prepared.labels("train")
    images = prepared.select("train", split_rows(labels, model.classifier.recipe, prepared)[1])
    with torch.inference_mode():
        device = model.classifier.normalise.mean.device
        parts = [model.classifier(part.to(device)).cpu() for part in images.images.split(_BATCH)]
    return fit_temperature(torch.cat(parts), images.labels)


def _files(names: Sequence[str]) -> Iterator[Path]:
    """The image files that are meant; those of a folder by their names, with what is below it."""
    from mollify_core.datasets.images import is_image

    for name in names:
        path = expanded(name)
        if path.is_dir():
            found = sorted(file for file in path.rglob("*") if is_image(file.name) and file.is_file())
            if not found:
                raise DataError(f"Expected images in {shown(name, 200)}, but found none")
            yield from found
        elif path.is_file():
            yield path
        else:
            raise DataError(f"Expected an image or a folder of images, but {shown(name, 200)} is none")


def _batch(files: Sequence[Path], model: Trained, temperature: float, write: _Writer) -> int:
    """Says what the model takes some images for; returns how many could not be read, which are told."""
    import torch

    from mollify_core.datasets.files import LARGEST
    from mollify_core.datasets.images import scaled
    from mollify_core.datasets.specs import colour
    from mollify_core.disk import regular
    from mollify_core.measure.calibration import scaled as at_temperature

    read: list[tuple[Path, torch.Tensor]] = []
    background = colour(model.classifier.recipe.data.background)
    for file in files:
        try:
            with regular(file) as opened:
                raw = opened.read(LARGEST + 1)
            if len(raw) > LARGEST:
                raise DataError(f"Expected {shown(str(file), 200)} to have at most {LARGEST:,} bytes")
            pixels = scaled(raw, shown(str(file), 200), model.image_shape[-1], background)
            read.append((file, torch.tensor(pixels[: model.image_shape[0]])))
        except (DataError, OSError) as error:
            print(f"! {clean(error)}", file=sys.stderr)
    if not read:
        return len(files)
    images = torch.stack([image for _, image in read]).to(model.classifier.normalise.mean.device)
    with torch.inference_mode():
        p = at_temperature(model.classifier(images).float(), temperature).exp().cpu()
    for (file, _), confidences in zip(read, p, strict=True):
        best = confidences.topk(write.top)
        write(str(file), [(model.names[i], float(c)) for c, i in zip(best.values, best.indices.tolist(), strict=True)])
    return len(files) - len(read)


class _Writer:
    """Writes what a model says of an image, in one of three forms; the temperature of its confidence beside it."""

    def __init__(self, out: TextIO, form: str, top: int, temperature: float) -> None:
        self._out, self._form, self.top, self._temperature = out, form, top, round(temperature, 6)
        self._rows = csv.writer(out, lineterminator="\n")
        if form == "csv":
            more = [f"{name}_{k}" for k in range(2, top + 1) for name in ("class", "confidence")]
            self._rows.writerow(["image", "class", "confidence", *more, "temperature"])

    def __call__(self, image: str, guesses: list[tuple[str, float]]) -> None:
        named: list[dict[str, Any]] = [{"class": name, "confidence": round(c, 6)} for name, c in guesses]
        if self._form == "csv":
            values = [value for guess in named for value in (clean(guess["class"], 0, ""), guess["confidence"])]
            self._rows.writerow([clean(image, 0, ""), *values, self._temperature])
        elif self._form == "json":
            row = {"image": image, **named[0], "others": named[1:], "temperature": self._temperature}
            self._out.write(json.dumps(row) + "\n")
        else:
            told = "  ".join(f"{clean(name, 60, '')} {c:.1%}" for name, c in guesses)
            self._out.write(f"{clean(image, 0, '')}: {told}\n")


@contextlib.contextmanager
def _output(path: str | None) -> Iterator[TextIO]:
    if path is None:
        yield sys.stdout
        return
    try:
        file = open(expanded(path, written=True), "w", encoding="utf-8", newline="")  # noqa: SIM115
    except OSError as error:
        raise StorageError(f"Cannot write {shown(path, 200)}: {error.strerror}") from None
    with file:
        yield file


if __name__ == "__main__":
    sys.exit(main())
