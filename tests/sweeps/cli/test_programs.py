"""Bad input: one clear sentence, exit code 2, nothing written."""

from __future__ import annotations

import fcntl
import pickle
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import mollify_core
from mollify_core.program import shell_command
from mollify_core.recipe import Recipe
from mollify_sweeps.programs import command
from programs import refused
from search import main


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


def refused_and_wrote_nothing(capsys, *argv: str) -> str:
    said = refused(main, *argv, capsys=capsys)
    assert not Path("runs").exists()
    return said


DIGITS = ("--dataset", "digits")
FIXED = ("--set", "label=fixed", "--set", "fixed_epsilon=0.95")


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        ((), "--dataset"),
        (("--dataset", "cifar1000"), "did you mean 'cifar100'"),
        ((*DIGITS, "--network", "resnet2"), "did you mean 'resnet"),
        ((*DIGITS, "--objective", "corupted_nll"), "did you mean 'corrupted_nll'"),
        ((*DIGITS, "--objective", "clean_nll,clean_nll"), "several different objectives"),
        ((*DIGITS, "--objective", "corrupted_ece"), "take 'corrupted_debiased_ece'"),
        ((*DIGITS, "--objective", ","), "one or several different objectives"),
        ((*DIGITS, "--set", "lrr=1"), "did you mean 'lr'"),
        ((*DIGITS, "--set", "lr"), "--set NAME=VALUE, but got 'lr'"),
        ((*DIGITS, "--set", "lr=fast"), "`lr` to be a number, but got 'fast'"),
        ((*DIGITS, "--set", "max_noise=2"), "`max_noise` to be in (0, 1], but got 2.0"),
        ((*DIGITS, "--sampler", "tpee"), "did you mean 'tpe'"),
        ((*DIGITS, "--pruner", "hyperbund"), "did you mean 'hyperband'"),
        ((*DIGITS, "--trials", "0"), "--trials to be at least 1, but got 0"),
        ((*DIGITS, "--trials", "x"), "--trials"),
        ((*DIGITS, "--epochs", "0"), "`epochs` to be a positive integer, but got 0"),
        ((*DIGITS, "--epoch", "3"), "--epoch"),
        ((*DIGITS, "--workers-per-trial", "999"), "needs 999 workers"),
        ((*DIGITS, "--workers-per-trial", "8:2"), "expected N or MIN:MAX with 1 <= MIN <= MAX, but got '8:2'"),
        (
            (*DIGITS, "--workers-per-trial", "0"),
            "--workers-per-trial: expected N or MIN:MAX with 1 <= MIN <= MAX, but got '0'",
        ),
        ((*DIGITS, "--gpus-per-worker", "64"), "64 GPU, but there are"),
        (
            (*DIGITS, "--workers-per-trial", "1:2", "--batch-size", "1"),
            "`batch_size` to be at least an image for each of 2 workers, but got 1",
        ),
        ((*DIGITS, "--set", "final_lr=0.02"), "but got 0.02; the search of plain may draw lr=0.003"),
        ((*DIGITS, "--set", "repeat=3"), "`batch_size` to be a multiple of repeat 3, but got 32"),
        (
            (*DIGITS, *FIXED, "--set", "method=matching", "--set", "spread=others", "--dry-run"),
            "`fixed_epsilon` to be at most 1 - 1 / C = 0.9 with spread 'others' and 10 classes",
        ),
        ((*DIGITS, "--sampler", "grid"), "at most 10,000 points, but mollification has 59,049 (3 x 3 x 3"),
        ((*DIGITS, "--sampler", "grid", "--grid-points", "6"), "has 60,466,176 (6 x 6"),
        ((*DIGITS, "--sampler", "grid", "--grid-points", "1"), "--grid-points to be at least 2, the ends of a range"),
        ((*DIGITS, "--seed", str(2**63)), "`seed` to be an integer"),
        ((*DIGITS, "--seed", str(2**63 - 1), "--confirm", "1"), "--seed to be below 2**63 with the 5 seeds of"),
        ((*DIGITS, "--space", "missing.yaml"), "Cannot read space file 'missing.yaml'"),
        ((*DIGITS, "--recipe", "missing.json"), "Cannot read recipe 'missing.json'"),
        ((*DIGITS, "--name", "a/b"), "--name to be letters, digits"),
        ((*DIGITS, "--storage", "/proc/nowhere"), "Cannot write to storage '/proc/nowhere/"),
        ((*DIGITS, "--storage", "ftp://x/y"), "Cannot use storage 'ftp://x/y"),
        ((*DIGITS, "--study-url", "nonsense"), "Cannot open the study"),
        ((*DIGITS, "--objective", "clean_nll,clean_ece", "--sampler", "cmaes"), "one objective for --sampler cmaes"),
        (("--dataset", "cifar100", "--data-dir", "/nowhere"), "/nowhere"),
        (("--dataset", "cifar100", "--image-size", "64"), "no image size for cifar100, whose images are 32x32"),
        (("--dataset", "./photos"), "or the path of a folder with one folder of images per class, with --image-size"),
        (("--dataset", "./photos", "--image-size", "32"), "'./photos' to be a folder of images, or --data-dir"),
        (("--dataset", "."), "an --image-size for the folder of images '.', but got none"),
        (("--dataset", ".", "--image-size", "4"), "the image size to be at least 8 pixels, but got 4"),
        (("--dataset", ".", "--image-size", "big"), "--image-size"),
        (("--dataset", ".", "--image-size", "32"), "two or more folders, one for each class, but got 0"),
        ((*DIGITS, "--set", "image_size=32"), "Expected --image-size, but got --set image_size"),
    ],
)
def test_refused_in_one_sentence(argv, says, capsys):
    assert says in refused_and_wrote_nothing(capsys, *argv)


def test_a_recipe_of_another_data_set(capsys):
    Path("r.json").write_text(Recipe().to_json())
    assert "for 'cifar10'" in refused_and_wrote_nothing(capsys, *DIGITS, "--recipe", "r.json")


def cifar100(folder: Path, images: np.ndarray, labels: list[int]) -> Path:
    """A CIFAR-100 in official layout, written as Python 2 did."""
    root = folder / "cifar-100-python"
    root.mkdir(parents=True)
    names = [f"c{i}".encode() for i in range(100)]
    for part in ("train", "test"):
        content = {b"data": images.tobytes(), b"fine_labels": labels}
        (root / part).write_bytes(pickle.dumps(content, protocol=2))
    (root / "meta").write_bytes(pickle.dumps({b"fine_label_names": names}, protocol=2))
    return root


def test_foreign_data(capsys, tmp_path):
    root = cifar100(tmp_path / "d", np.zeros((4, 3072), np.uint8), [0, 1, 2, 3])
    argv = ("--dataset", "cifar100", "--data-dir", str(root))
    assert "official md5" in refused_and_wrote_nothing(capsys, *argv)
    assert "--allow-unverified" in refused_and_wrote_nothing(capsys, *argv)
    refused_and_wrote_nothing(capsys, *argv, "--allow-unverified")  # bytes where an array belongs
    shutil.rmtree(root)
    root.mkdir()
    assert str(root) in refused_and_wrote_nothing(capsys, *argv)


def test_a_second_driver_is_refused(capsys):
    folder = Path("runs/s")
    folder.mkdir(parents=True)
    with open(folder / "driver.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        lock.write("4711")
        lock.flush()
        assert main([*DIGITS, "--name", "s"]) == 2
    assert capsys.readouterr().err == "error: This sweep is being run already, by process 4711\n"
    assert sorted(p.name for p in folder.iterdir()) == ["driver.lock"]


def test_dry_run_starts_nothing(capsys):
    assert main([*DIGITS, "--dry-run", "--objective", "corrupted_nll,clean_error,clean_debiased_ece"]) == 0
    out = capsys.readouterr().out
    for text in (
        "and 434 validation images, of which 215 choose and 219 judge",
        "Fewer than 500 validation images: the 215 that choose cannot tell apart errors closer than about 6.7 points",
        "10; the methods take turns, each with its own search",
        "resnet8, up to 8 epochs",
        "Optuna prunes on one objective only",
        "rank models by their calibration: clean_debiased_ece needs 2000, against the 215 that choose.",
    ):
        assert text in " ".join(out.split())
    assert "at once" in out
    assert "about" in out
    assert not Path("runs").exists()


def test_a_grid_says_how_many_points_it_has_and_that_there_are_no_more(capsys):
    Path("space.yaml").write_text("lr: {low: 0.01, high: 0.1}\nmax_noise: search\n")
    grid = (*DIGITS, "--dry-run", "--space", "space.yaml", "--sampler", "grid", "--grid-points", "2")
    for trials, says in (((), "8; the"), (("--trials", "40"), "8; the"), (("--trials", "5"), "5; the")):
        assert main([*grid, *trials]) == 0
        plan = " ".join(capsys.readouterr().out.split())
        assert f"trials {says} methods take turns" in plan
        assert ("there are no more points to try" in plan) == (says == "8; the")
        assert "plain: nothing else; 2 points mollification: also max_noise; 4 points" in plan


def photos(folder: Path) -> Path:
    """Forty images of each of two classes."""
    for name in ("cat", "dog"):
        (folder / name).mkdir(parents=True)
        for i in range(40):
            pixels = np.random.default_rng(i).integers(0, 256, (16, 16, 3), np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{i}.png")
    return folder


def test_a_folder_of_images_by_path_and_by_name(capsys, tmp_path):
    photos(tmp_path / "photos")
    common = ("--image-size", "16", "--network", "resnet20", "--dry-run")
    plans = []
    for where in (("--dataset", "./photos"), ("--dataset", "photos", "--data-dir", "photos")):
        assert main([*where, *common]) == 0
        plans.append(" ".join(capsys.readouterr().out.split()))
    for plan in plans:
        assert "Sweep photos-resnet20-" in plan
        assert "photos: 52 fit and 12 validation images, of which 6 choose and 6 judge" in plan  # 16 are for testing
        assert "60; the methods take turns" in plan
        assert "UNVERIFIED" not in plan
    assert plans[0].split()[:2] == plans[1].split()[:2]  # one sweep: the name is made of the settings


def test_a_step_with_one_image_too_few_joins_the_one_before(capsys, tmp_path):
    """Of 52 images in batches of 17 the last step has one; presnet18 shrinks 8 pixels to one."""
    photos(tmp_path / "photos")
    command = ("--dataset", "./photos", "--image-size", "8", "--batch-size")
    says = refused_and_wrote_nothing(capsys, *command, "1")
    assert "Expected at least two images for a step, since presnet18 normalises over the batch, but 52 images" in says
    says = refused_and_wrote_nothing(capsys, *command, "3", "--workers-per-trial", "1:2")
    assert "at least two images for one of 2 workers" in says
    for more, told in (
        (("25", "--workers-per-trial", "1:2"), "with 2 workers the last 2 of 52 images join the step before"),
        (("17", "--network", "resnet8"), ""),
    ):
        assert main([*command, *more, "--dry-run"]) == 0
        plan = " ".join(capsys.readouterr().out.split())
        assert told in plan
        assert bool(told) == ("join the step" in plan)


def test_the_plan_says_what_is_in_a_folder(capsys, tmp_path):
    for split, number in (("Training", 40), ("VAL", 8), ("testing", 5)):
        for name in ("cat", "[red]dog\x1b[31m"):
            (tmp_path / "photos" / split / name).mkdir(parents=True)
            for i in range(number):
                pixels = np.random.default_rng(i).integers(0, 256, (16, 16, 4), np.uint8)
                Image.fromarray(pixels).save(tmp_path / "photos" / split / name / f"{i}.png")
    (tmp_path / "photos" / "Training" / "cat" / "notes.txt").touch()
    (tmp_path / "photos" / "testing" / "loose.png").touch()
    (tmp_path / "photos" / "unlabelled").mkdir()
    (tmp_path / "photos" / "unlabelled" / "1.png").touch()
    command = ("--dataset", "photos", "--image-size", "16", "--network", "resnet8", "--dry-run", "--data-dir", "photos")
    assert main([*command, "--background", "#00FF00"]) == 0
    plan = " ".join(capsys.readouterr().out.split())
    for says in (
        "80 fit and 16 validation images, of which 8 choose and 8 judge",
        r"classes: 2: [red]dog\x1b[31m, cat",
        "splits: 80 train from Training/, 16 validation from VAL/, 10 test from testing/",
        "left out: 1 in folders that belong to no split, 1 not named as images, 1 outside of the class folders",
        "background: #00ff00 where images are transparent",
    ):
        assert says in plan
    assert main(command) == 0
    again = capsys.readouterr().out
    assert "background" not in again
    assert again.split()[:2] != plan.split()[:2]  # another sweep
    assert "Expected the background to be white" in refused_and_wrote_nothing(
        capsys, *command, "--background", "pinkish"
    )
    assert "Expected --background, but got" in refused_and_wrote_nothing(capsys, *command, "--set", "background=black")
    assert "Expected no background for digits" in refused_and_wrote_nothing(capsys, *DIGITS, "--background", "black")


def test_a_recipe_knows_the_size_of_a_folders_images(capsys, tmp_path):
    photos(tmp_path / "photos")
    recipe = Recipe().with_(dataset="photos", image_size=16, network="resnet20", epochs=1)
    Path("r.json").write_text(recipe.to_json())
    assert main(["--dataset", "./photos", "--recipe", "r.json", "--dry-run"]) == 0
    assert "Sweep photos-resnet20-" in capsys.readouterr().out
    (tmp_path / "photos").rename(tmp_path / "holidays")
    assert main(["--dataset", "photos", "--data-dir", "holidays", "--recipe", "r.json", "--dry-run"]) == 0
    capsys.readouterr()
    assert "for 'photos', but got --dataset ./holidays" in refused_and_wrote_nothing(
        capsys, "--dataset", "./holidays", "--recipe", "r.json"
    )


def test_help_teaches(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["--help"])
    assert stop.value.code == 0
    out = capsys.readouterr().out
    assert "python sweeps/search.py --dataset cifar100" in out
    assert "The same command again continues a sweep" in out


def test_one_command_is_every_program(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Told as it was called: help and the commands that it prints name no script, which an installation lacks."""
    monkeypatch.setattr(sys, "argv", ["/somewhere/bin/mollify-sweeps"])
    for name in command.PROGRAMS:
        with pytest.raises(SystemExit) as stop:
            command.main([name, "--help"])
        assert stop.value.code == 0
        told = capsys.readouterr().out
        assert told.startswith(f"usage: mollify-sweeps {name} "), told
        assert not re.search(r"sweeps/\w+\.py|-m mollify_core", told), told
    assert shell_command("sweeps/status.py", ["a b"]).endswith("mollify-sweeps status 'a b'")
    assert shell_command("-m mollify_core.train", ["r.json"]).endswith("mollify-sweeps train r.json")
    assert command.main(["search", "--dataset", "nowhere", "--wandb", "off"]) == 2
    assert "error: " in capsys.readouterr().err
    assert command.main(["--version"]) == 0
    assert capsys.readouterr().out == f"mollify-sweeps {mollify_core.__version__}\n"
    assert "did you mean 'search'" in refused(command.main, "serach", capsys=capsys)
    assert command.main([]) == 0
    told = capsys.readouterr().out
    assert all(f"\n  {name} " in told for name in command.PROGRAMS)


def test_a_real_shell_completes_commands_options_and_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "space.yaml").touch()
    assert command.main(["completion", "bash"]) == 0
    (tmp_path / "script").write_text(capsys.readouterr().out)

    def completed(*words: str) -> set[str]:
        """What Tab offers after the last word."""
        call_it = 'COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); _shtab_mollify_sweeps "$1" "${!#}"'
        code = f'set -- mollify-sweeps "$@"; source ./script; {call_it}; printf "%s\\n" "${{COMPREPLY[@]}}"'
        call = ["bash", "-c", code, "bash", *words]
        done = subprocess.run(call, cwd=tmp_path, capture_output=True, text=True, timeout=20)
        assert not done.stderr, done.stderr
        return set(done.stdout.split())

    assert completed("s") == {"search", "status"}
    assert completed("search", "--confi") == {"--confirm"}
    assert completed("search", "--space", "spa") == {"space.yaml"}
    assert completed("export", "--to", "") == {"onnx", "torch", "state-dict"}
    assert "invalid choice: 'csh'" in refused(command.main, "completion", "csh", capsys=capsys)
