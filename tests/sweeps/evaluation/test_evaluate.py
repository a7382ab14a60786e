"""`sweeps/evaluate.py` as its user runs it: real models on real images, cut off and continued, and what goes wrong."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
from PIL import Image
from pyarrow import fs

import evaluate
from mollify_core import checkpoint
from mollify_core.recipe import Recipe
from mollify_core.training import Training
from mollify_core.training_data import training_data
from mollify_sweeps.evaluation import rows as rows_

QUICK = ["--images", "20", "--levels", "0,1", "--no-extra", "--threads", "1"]
DIGITS = Recipe().with_(dataset="digits", network="resnet8", epochs=1, batch_size=64, train_fraction=0.2, lr=0.05)


@pytest.fixture(scope="module")
def models(tmp_path_factory, digits):
    """Two trained models: mollified (with a sink class) and plain."""
    folder = tmp_path_factory.mktemp("models")
    for name, recipe in (("sink", DIGITS.with_(label_mode="lm")), ("plain", DIGITS.with_(p_clean=1.0))):
        training = Training(recipe, training_data(recipe, digits))
        training.run_epoch()
        checkpoint.save(fs.LocalFileSystem(), str(folder / name / "checkpoints"), training.state(commit="abc"))
    return folder


@pytest.fixture
def run(monkeypatch, tmp_path, digits, capsys):
    monkeypatch.setenv("MOLLIFY_CACHE", str(digits.folder.parent))

    def evaluate_(*arguments: str) -> tuple[int, str, str]:
        code = evaluate.main([*arguments, "--out", str(tmp_path / "out")])
        return code, *capsys.readouterr()

    return evaluate_


def test_no_temperature_is_fitted_on_images_that_a_model_was_trained_on(run, digits, tmp_path):
    recipe = DIGITS.with_(train_fraction=0.05)
    training = Training(recipe, training_data(recipe, digits, final=True))
    training.run_epoch()
    checkpoint.save(fs.LocalFileSystem(), str(tmp_path / "use" / "checkpoints"), training.state())
    assert run(str(tmp_path / "use"), *QUICK, "--corruptions", "none")[0] == 0
    rows, _ = rows_.read(tmp_path / "out" / "evaluation.parquet")
    assert {row["temperature"] for row in rows} == {1.0}


@pytest.mark.slow
def test_two_models_side_by_side_then_again_from_what_was_kept(run, models, tmp_path):
    code, out, _ = run(str(models / "sink"), f"bare={models / 'plain'}", *QUICK)
    assert code == 0
    assert "made here, not the published arrays" in out
    rows, metadata = rows_.read(tmp_path / "out" / "evaluation.parquet")
    types = {row["name"] for row in rows if row["kind"] == "corruption"}
    assert len(rows) == 2 * (1 + 5 * len(types) + 8)
    assert types >= {"gaussian_noise", "fog", "jpeg_compression"}
    assert all(row["images"] == 20 for row in rows)
    assert metadata["reference"] == "bare"
    assert metadata["models"]["sink"]["mollified"]
    sink = [row["sink_mass"] for row in rows if row["model"] == "sink"]
    assert all(0 < mass < 1 for mass in sink)
    assert all(row["sink_mass"] != row["sink_mass"] for row in rows if row["model"] == "bare")
    # A level of 0 changes nothing: the four distortions equal the clean images.
    for model in ("sink", "bare"):
        clean, *still = [r["nll"] for r in rows if r["model"] == model and (r["kind"] == "clean" or r["level"] == 0)]
        assert still == [clean] * 4

    # Cut off: one cell is gone, one is half written. The same command measures those two again, and nothing else.
    cells = sorted((tmp_path / "out" / "cells").glob("*/corruption-*.json"))
    stamps = {cell: cell.stat().st_mtime_ns for cell in cells}
    cells[3].unlink()
    cells[5].write_text(cells[5].read_text()[:40])
    assert run(str(models / "sink"), f"bare={models / 'plain'}", *QUICK)[0] == 0
    again, _ = rows_.read(tmp_path / "out" / "evaluation.parquet")
    assert [json.dumps(row) for row in again] == [json.dumps(row) for row in rows]
    assert {cell for cell in cells if cell.stat().st_mtime_ns != stamps[cell]} == {cells[3], cells[5]}


def test_the_best_and_the_references_of_a_sweep_cannot_be_had_from_an_empty_folder(run, tmp_path):
    code, _, err = run(str(tmp_path))
    assert code == 2
    assert err.count("\n") == 1
    assert "Expected a checkpoint, a folder with checkpoints or a sweep" in err


def test_a_damaged_checkpoint_is_passed_over_and_left_where_it_is(run, models, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(models / "plain", folder)
    newest = folder / "checkpoints" / "epoch-0002"
    shutil.copytree(folder / "checkpoints" / "epoch-0001", newest)
    (newest / "model.safetensors").write_bytes(b"no")
    code, out, _ = run(str(folder), *QUICK, "--corruptions", "none", "--levels", "none")
    assert code == 0
    assert "passed over epoch 2" in out
    assert newest.is_dir()
    shutil.rmtree(folder / "checkpoints" / "epoch-0001")
    code, _, err = run(str(folder), *QUICK)
    assert code == 2
    assert "damaged" in err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--corruptions", "oficial"], "official"),
        (["--levels", "0,2"], "in [0, 1]"),
        (["--levels", "a"], "numbers"),
        (["--distortions", "train"], "training"),
        (["--precision", "fp16"], "bf16"),
        (["--batch-size", "0"], "--batch-size"),
        (["--images", "0"], "--images"),
        (["--ood", "nowhere"], "nowhere"),
        (["--ood", "digits"], "--ood"),
        (["--ood-dir", "x"], "--ood-dir"),
        (["--reference", "nobody"], "nobody"),
        (["--corruptions", "official"], "digits"),
        (["--imagse", "3"], "--imagse"),
    ],
)
def test_bad_input_is_one_sentence_and_exit_code_2(run, models, arguments, message):
    code, _, err = run(str(models / "plain"), *arguments)
    assert code == 2
    assert err.count("\n") == 1
    assert message in err


def test_one_label_for_two_models_is_refused(run, models):
    code, _, err = run(f"a={models / 'plain'}", f"a={models / 'sink'}")
    assert code == 2
    assert "'a' twice" in err


def test_a_model_of_other_data_is_refused(run, models, tmp_path):
    state = checkpoint.load_newest(fs.LocalFileSystem(), str(models / "plain" / "checkpoints"))
    assert state is not None
    other = checkpoint.Checkpoint(state.epoch, state.model, state.optimizer, {**state.meta, "fingerprint": "0" * 16})
    checkpoint.save(fs.LocalFileSystem(), str(tmp_path / "other"), other)
    code, _, err = run(str(tmp_path / "other"))
    assert code == 2
    assert "0000000000000000" in err


def test_results_go_to_a_folder_on_this_machine(models, capsys):
    assert evaluate.main([str(models / "plain"), "--out", "s3://bucket/x"]) == 2
    assert "--out" in capsys.readouterr().err


@pytest.mark.slow
def test_foreign_images_of_a_folder_and_cells_of_an_earlier_version(run, models, tmp_path):
    folder = tmp_path / "odd" / "below"
    folder.mkdir(parents=True)
    for index in range(12):
        noise = np.random.default_rng(index).integers(0, 256, (20, 30, 3), dtype=np.uint8)
        Image.fromarray(noise).save(folder / f"{index}.png")
    quick = [str(models / "plain"), *QUICK, "--corruptions", "none", "--levels", "none"]
    code, out, _ = run(*quick, "--ood", str(folder.parent))
    assert code == 0
    assert "Told from odd" in out
    (row,), about = rows_.read(tmp_path / "out" / "evaluation.parquet")
    assert about["ood_images"] == 12
    assert 0 <= row["ood_energy_auroc"] <= 1
    assert row["ood_msp_fpr95"] == row["ood_msp_roc"][94]
    assert row["risk_at_90"] == row["risk_curve"][89]
    assert {path.name for path in (tmp_path / "out" / "plots").iterdir()} >= {"risk_coverage.png", "ood_roc.png"}
    assert (tmp_path / "out" / "classes.csv").read_text().count("\n") == 11

    assert run(*quick)[0] == 0
    (kept,) = [p for p in (tmp_path / "out" / "cells").glob("*/clean.json") if "NaN" in p.read_text()[-400:]]
    new = json.loads(kept.read_text())
    assert new["nll"] == row["nll"]  # foreign images change nothing else
    assert new["aurc"] == row["aurc"]
    kept.write_text(json.dumps({k: v for k, v in new.items() if k not in rows_.LATER}))
    stamp = kept.stat().st_mtime_ns
    code, out, _ = run(*quick)
    assert code == 0
    assert "earlier version" in out
    assert kept.stat().st_mtime_ns == stamp
    (old,), _ = rows_.read(tmp_path / "out" / "evaluation.parquet")
    assert (old["nll"], old["risk_curve"], old["aurc"] == old["aurc"]) == (row["nll"], [], False)

    (folder / "bad.png").write_bytes(b"no image")
    code, _, err = run(*quick, "--ood", str(folder.parent))
    assert code == 2
    assert "bad.png" in err
    code, out, _ = run(*quick, "--ood", str(folder.parent), "--on-bad-image", "skip")
    assert code == 0
    assert "1 could not be read" in out
