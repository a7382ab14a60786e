"""A trained model leaves as it is: the exported one and the predictions are those of its classifier."""

from __future__ import annotations

import csv
import dataclasses
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import safetensors
import safetensors.torch
import torch
from PIL import Image
from pyarrow import fs

from mollify_core import checkpoint, export, predict
from mollify_core.classifier import build_network
from mollify_core.datasets.options import DataOptions
from mollify_core.errors import ConfigError
from mollify_core.measure.calibration import fit_temperature, scaled
from mollify_core.recipe import Recipe
from mollify_core.trained import Trained, load
from mollify_core.training import Training
from mollify_core.training_data import training_data
from programs import refused

RECIPE = Recipe().with_(
    dataset="digits",
    network="resnet8",
    validation_fraction=0.1,
    train_fraction=0.1,
    epochs=2,
    lr=0.05,
    batch_size=16,
    ema=0.8,
    precision="float32",
    label_mode="la",
    loss="bce",
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, digits: Any) -> Path:
    """What a training leaves: of an average of weights, with a sink class."""
    place = tmp_path_factory.mktemp("trained")
    training = Training(RECIPE, training_data(RECIPE, digits))
    for _ in training.run():
        checkpoint.save(fs.LocalFileSystem(), str(place / "checkpoints"), training.state())
    return place


@pytest.fixture(scope="module")
def model(folder: Path) -> Trained:
    return load(str(folder), DataOptions())


@pytest.fixture
def images(digits: Any) -> torch.Tensor:
    return digits.tensors("test").images[:5]


def expected(model: Trained, images: torch.Tensor, temperature: float) -> np.ndarray:
    with torch.inference_mode():
        return scaled(model.classifier(images), temperature).numpy()


def test_onnx(folder: Path, model: Trained, images: torch.Tensor, tmp_path: Path) -> None:
    out = tmp_path / "model.onnx"
    assert export.main([str(folder), "--to", "onnx", "--out", str(out), "--temperature", "2"]) == 0
    known = {entry.key: entry.value for entry in onnx.load(str(out)).metadata_props}
    about = json.loads(known["mollify"])
    assert about["classes"] == [str(digit) for digit in range(10)]
    assert about["normalisation"] == "inside"
    assert (about["temperature"], about["network"], about["image_shape"]) == (2.0, "resnet8", [3, 32, 32])
    session = onnxruntime.InferenceSession(str(out), providers=["CPUExecutionProvider"])
    for count in (1, 5):
        (found,) = session.run(["log_probabilities"], {"images": images[:count].numpy() / np.float32(255)})
        np.testing.assert_allclose(found, expected(model, images[:count], 2.0), rtol=1e-4, atol=1e-5)


def test_what_cannot_be_traced_is_said(model: Trained, tmp_path: Path) -> None:
    class Looks(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.mean((2, 3)) if x.sum() > 0 else x.sum((2, 3))

    looks = dataclasses.replace(model, classifier=dataclasses.replace(model.classifier, network=Looks()))
    for form in ("torch", "onnx"):
        with pytest.raises(ConfigError, match=r"Cannot trace 'resnet8': .* --to state-dict needs no trace"):
            export.export(looks, form, tmp_path / "x")


def test_torch_and_state_dict(folder: Path, model: Trained, images: torch.Tensor, tmp_path: Path) -> None:
    program, weights = tmp_path / "m.pt2", tmp_path / "m.safetensors"
    assert export.main([str(folder), "--to", "torch", "--out", str(program)]) == 0
    extra = {"mollify": ""}
    traced = torch.export.load(str(program), extra_files=extra).module()
    assert json.loads(extra["mollify"])["mean"] == pytest.approx(model.mean)
    for count in (1, 5):
        found = traced(images[:count].float() / 255)
        np.testing.assert_allclose(found.detach().numpy(), expected(model, images[:count], 1.0), rtol=1e-5, atol=1e-6)
    assert export.main([str(folder), "--to", "state-dict", "--out", str(weights)]) == 0
    network = build_network(RECIPE, 10, (3, 32, 32))
    network.load_state_dict(safetensors.torch.load_file(weights))
    x = model.classifier.normalise(images)
    with torch.inference_mode():
        torch.testing.assert_close(network.eval()(x), model.classifier.network(x))
    with safetensors.safe_open(weights, "pt") as file:
        about = json.loads(file.metadata()["mollify"])
    assert (about["scaling"], about["normalisation"]) == ("normal", "beside")


def test_predictions_are_the_classifiers(
    folder: Path, model: Trained, images: torch.Tensor, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "in").mkdir()
    for row, image in enumerate(images):
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(tmp_path / f"in/{row}.png")
    wrong = tmp_path / "in/\x1b[31m.png"
    wrong.write_bytes(b"no image")
    assert predict.main([str(folder), str(tmp_path / "in"), "--csv", "--top", "2"]) == 1
    told, said = capsys.readouterr()
    rows = list(csv.DictReader(told.splitlines()))
    p = np.exp(expected(model, images, 1.0))
    assert [Path(row["image"]).name for row in rows] == [f"{row}.png" for row in range(5)]
    for row, confidences in zip(rows, p, strict=True):
        first, second = np.argsort(-confidences)[:2]
        assert (row["class"], row["class_2"]) == (str(first), str(second))
        assert float(row["confidence"]) == pytest.approx(confidences[first], abs=2e-6)
        assert float(row["temperature"]) == 1
    assert "5 images, confidence as trained; 1 unread" in said
    assert "\x1b" not in said
    (tmp_path / "in/0.png").rename(tmp_path / "in/\x1b[32m.png")
    for form in ("--csv", "--json", "--top=1"):
        assert predict.main([str(folder), str(tmp_path / "in/\x1b[32m.png"), form]) == 0
        told, _ = capsys.readouterr()
        assert "[32m.png" in told
        assert "\x1b" not in told
    (tmp_path / "in/\x1b[32m.png").rename(tmp_path / "in/0.png")
    foreign = os.fsencode(tmp_path / "in") + b"/\xff.png"  # a name that is no UTF-8
    os.link(tmp_path / "in/1.png", foreign)
    for form in ("--csv", "--json", "--top=1"):
        assert predict.main([str(folder), os.fsdecode(foreign), form]) == 0
        assert ".png" in capsys.readouterr().out
    os.unlink(foreign)
    wrong.unlink()
    out = tmp_path / "out.jsonl"
    argv = [str(folder), str(tmp_path / "in"), "--json", "--out", str(out), "--temperature", "validation"]
    assert predict.main(argv) == 0
    held_out = training_data(RECIPE, model.prepared(DataOptions())).validation
    assert held_out is not None
    with torch.inference_mode():
        temperature = fit_temperature(model.classifier(held_out.cells[0]), held_out.labels)
    assert f"at temperature {temperature:.4g}" in capsys.readouterr().err
    first = json.loads(out.read_text().splitlines()[0])
    assert first["temperature"] == pytest.approx(temperature, abs=1e-6)
    assert first["confidence"] == pytest.approx(np.exp(expected(model, images[:1], temperature)).max(), abs=1e-5)


def test_bad_input_is_one_sentence(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    at = str(folder)
    empty = str(tmp_path)
    for argv, said in (
        ([empty, "x.png"], "Expected an image or a folder of images, but 'x.png' is none"),
        ([at, empty], "Expected images in"),
        ([empty, __file__], "Expected a checkpoint in"),
        ([at, __file__, "--top", "0"], "--top to be at least 1"),
        ([at, __file__, "--temperature", "-1"], "a positive number or 'validation', but got '-1'"),
        ([at, __file__, "--out", f"{empty}/no/where"], "Cannot write"),
    ):
        assert said in refused(predict.main, *argv, capsys=capsys)
    assert "no --temperature for a state dict" in refused(
        export.main, at, "--to", "state-dict", "--temperature", "2", capsys=capsys
    )
    assert "Cannot write" in refused(export.main, at, "--to", "torch", "--out", f"{empty}/no/where", capsys=capsys)
