"""Both papers' grids: what they hold, what their tables say, and a whole small one as a user runs it."""

from __future__ import annotations

import math
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import optuna
import pyarrow.parquet as pq
import pytest
from scipy import stats

from mollify_core.datasets import spec
from mollify_core.errors import ConfigError
from mollify_core.recipe import Recipe
from mollify_sweeps.comparison import grid_plots, grid_report, grids, tuning
from mollify_sweeps.evaluation.models import find
from mollify_sweeps.plan.runs import Run
from mollify_sweeps.study.ledger import Ledger
from places import ROOT
from reproduce import main
from setups import described

ALL = list(grids.AUGMENTATIONS)


def test_the_mollification_grid_is_the_scripts_82_commands():
    by_set = {name: grids.mollification(name, list(grids.BLOCKS), ALL) for name in ("cifar10", "cifar100", "tin")}
    assert sum(map(len, by_set.values())) == 82
    count = {block: sum(c.block == block for cells in by_set.values() for c in cells) for block in grids.BLOCKS}
    assert count == {1: 24, 2: 24, 3: 6, 4: 9, 5: 3, 6: 16}
    # The one run that the script names twice a data set, Beta(1, 2), is trained once.
    assert {name: len(grids.distinct(cells)) for name, cells in by_set.items()} == {
        "cifar10": 21,
        "cifar100": 29,
        "tin": 29,
    }


@pytest.mark.parametrize("protocol", grids.PROTOCOLS)
@pytest.mark.parametrize("dataset", ["cifar10", "cifar100", "tin", "digits"])
def test_runs_are_different_recipes_with_the_scripts_settings(dataset, protocol):
    base = grids.base("mollification", spec(dataset), protocol)
    assert (base.model.network, base.optim.epochs, base.optim.lr, base.optim.batch_size) == (
        "presnet50",
        300,
        0.01,
        128,
    )
    runs = grids.distinct(grids.mollification(dataset, list(grids.BLOCKS), ALL))
    recipes = {run.name: base.with_(run.settings) for run in runs}
    assert len({recipe.hash for recipe in recipes.values()}) == len(runs)
    assert (recipes["none, off"].method, recipes["none, off"].label) == ("none", "hard")
    assert recipes["none, off"].hash == base.with_(p_clean=1.0).hash, "as kept grids said it"
    assert recipes["none, off"].data.augment == ()
    assert recipes["fcr+cutmix, mollified"].data.augment == ("flip", "crop", "rotate", "cutmix")
    assert recipes["fcr+trivaug, noise only"].mollify.noise_share == 1
    assert recipes["fcr+trivaug, b = 9"].mollify.beta_b == 9
    assert recipes["fcr+trivaug, mollified"].mollify.beta_b == 2
    assert recipes["fcr+trivaug, k = 100"].mollify.noise_power == 100
    if dataset != "cifar10":
        assert recipes["fcr+trivaug, k = 0.5, 2"].mollify.blur_power == 2


def test_blocks_and_augmentations_can_be_chosen():
    chosen = grids.mollification("cifar100", [2, 3], ["none", "fcr+trivaug"])
    assert [(c.block, c.run.name) for c in chosen] == [
        (2, "none, mollified"),
        (2, "fcr+trivaug, mollified"),
        (3, "fcr+trivaug, noise only"),
        (3, "fcr+trivaug, blur only"),
    ]
    with pytest.raises(ConfigError, match="got 7"):
        grids.mollification("tin", [7], ALL)
    with pytest.raises(ConfigError, match=r"'fcr\+trivag'.*fcr\+trivaug"):
        grids.mollification("tin", [1], ["fcr+trivag"])


def test_fair_runs_differ_in_the_label_only_and_published_ones_do_not():
    fair, published = ({run.name: run.settings for run in grids.matching(p)} for p in grids.PROTOCOLS)
    assert list(fair) == list(grids.LABELS.values())
    differing = {k for k in fair["hard labels"] if len({str(s[k]) for s in fair.values()}) > 1}
    assert differing == {"label"}
    assert published["information matching"]["lr"] == 5e-4
    assert published["information matching"]["augment"] == ()
    assert published["hard labels"]["lr"] == 1e-3
    assert published["hard labels"]["augment"] == ("flip", "crop")
    base = grids.base("matching", spec("cifar100"), "fair")
    assert (base.model.network, base.optim.epochs) == ("im_resnet18", 100)


def test_soft_runs_differ_in_augmentation_and_label_only():
    runs = grids.soft(list(grids.SOFT))
    assert len(runs) == 12
    assert all(run.settings.keys() == {"method", "label"} for run in runs)
    fair, published = (grids.base("soft", spec("cifar10"), protocol) for protocol in grids.PROTOCOLS)
    assert (fair.model.network, fair.optim.epochs, fair.optim.lr) == ("wrn28_4", 300, 0.1)
    assert (fair.model.published, published.model.published) == (False, True)
    recipe = fair.with_(runs[0].settings)
    assert (runs[0].name, recipe.augmentations, recipe.label) == ("crop, hard", ("flip", "soft-crop"), "hard")
    with pytest.raises(ConfigError, match="Unknown augmentation 'crops'; did you mean 'crop'"):
        grids.soft(["crops"])


# ---- tables, of made-up numbers


def record(run: str, seed: int, *, dataset: str = "cifar10", grid: str = "mollification", **more) -> dict:
    luck = np.random.default_rng([seed, len(run)]).normal(scale=0.002)
    base = 0.30 if run.endswith(("mollified", "matching")) else 0.37
    values = {
        f"{scope}_{metric}": base * share + luck
        for scope, share in (("clean", 0.5), ("corrupted", 1.0))
        for metric in ("error", "top5_error", "nll", "ece", "batch_mean_ece", "matching_ece")
    }
    return {
        "grid": grid,
        "protocol": "fair",
        "dataset": dataset,
        "run": run,
        "seed": seed,
        "sweep": "s",
        "trial": 0,
        "test_images": 500,
        "corruptions": "made",
        "verified": True,
        "corrupted_cells": 75,
        "lr": 0.01,
        "lr_tried": None,
        "lr_values": None,
        **values,
        **more,
    }


SWEEP = described(
    name="s",
    dataset="cifar10",
    fingerprint="abc",
    commit="c0ffee",
    versions={"torch": "2"},
    base_recipe=grids.base("mollification", spec("cifar10"), "fair").to_dict(),
)


def row(text: str, first: str) -> list[str]:
    line = next(line for line in text.splitlines() if line.startswith(f"| {first} |"))
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_mollification_tables_have_means_intervals_and_paired_differences():
    names = ["none, off", "none, mollified", "fcr+trivaug, off", "fcr+trivaug, mollified", "fcr+trivaug, blur only"]
    records = [record(name, seed) for name in names for seed in (0, 1, 2)]
    text = grid_report.summary(records, [SWEEP])
    on, off = (
        np.array([r["corrupted_error"] for r in records if r["run"] == f"fcr+trivaug, {s}"])
        for s in ("mollified", "off")
    )
    half = stats.t.ppf(0.975, 2) * on.std(ddof=1) / math.sqrt(3)
    assert row(text, "fcr+trivaug, mollified")[5] == f"{100 * on.mean():#.4g} ± {100 * half:.2g}"
    assert row(text, "fcr+trivaug, mollified")[8] == "about 5.000"
    difference = row(text, "difference (fcr+trivaug)")
    assert difference[1] == "3"
    assert difference[5].startswith(f"{100 * (on - off).mean():+#.4g}")
    assert difference[5].endswith(" *")
    assert 2 * stats.ttest_rel(on, off).pvalue < 0.05  # two augmentations are compared
    assert "corrupted error lower with 2" in text
    assert "### What matters in the schedule" in text
    assert "difference to fcr+trivaug, mollified" in text
    assert "c0ffee" in text
    assert "UNVERIFIED" not in text


def test_a_difference_within_the_luck_of_seeds_is_not_told():
    values = {"off": [0.30, 0.34, 0.32], "mollified": [0.31, 0.33, 0.32]}
    records = [
        record(f"fcr, {name}", seed, corrupted_error=value, verified=False)
        for name, of in values.items()
        for seed, value in enumerate(of)
    ]
    text = grid_report.summary(records, [SWEEP])
    assert "corrupted error not told apart with 1" in text
    assert not row(text, "difference (fcr)")[5].endswith("*")
    assert "UNVERIFIED DATA" in text


def test_matching_tables_stand_beside_the_published_figures():
    records = [
        record(
            run,
            seed,
            grid="matching",
            dataset="cifar100",
            protocol="published",
            robust_accuracy_blur=0.4,
            distorted_blur_error=0.6,
        )
        for run in grids.LABELS.values()
        for seed in (0, 1, 2)
    ]
    text = grid_report.summary(records, [replace(SWEEP, dataset="cifar100")])
    lines = text.splitlines()
    after = lines[next(i for i, line in enumerate(lines) if line.startswith("| information matching |")) + 1]
    cells = [cell.strip() for cell in after.strip("|").split("|")]
    assert cells[:6] == ["published", "–", "36.76", "14.86", "1.572", "13.66"]
    assert "biased estimator" in text
    assert "information matching - hard labels" in text
    assert "### Accuracy under distortion" in text
    assert "| 40.00 |" in text


def test_soft_labels_are_held_against_the_other_labels_of_their_augmentation():
    records = [
        record(run.name, seed, grid="soft", **({"corrupted_nll": 0.3 + 1e-3 * seed} if "soft" in run.name else {}))
        for run in grids.soft(list(grids.SOFT))
        for seed in (0, 1, 2)
    ]
    text = grid_report.summary(records, [SWEEP])
    for name in grids.SOFT:
        for other in ("hard", "fixed 0.1"):
            assert f"| {name}, soft - {name}, {other} |" in text
    assert "Soft labels against other labels of the same augmentation, of 8 comparisons:" in text
    assert "<svg" in grid_report.page(records, [SWEEP])
    assert grid_plots.draw(records).keys() == {"cifar10_soft"}


def test_plots_are_drawn_for_what_is_there():
    names = [cell.run.name for cell in grids.mollification("cifar100", list(grids.BLOCKS), ALL)]
    records = [record(name, seed, dataset="cifar100") for name in dict.fromkeys(names) for seed in (0, 1)]
    kinds = ("augmentations", "roles", "times", "powers", "smoothing")
    assert grid_plots.draw(records).keys() == {f"cifar100_{kind}" for kind in kinds}
    few = [r for r in records if r["run"] in ("fcr, off", "fcr, mollified")]
    assert grid_plots.draw(few).keys() == {"cifar100_augmentations"}
    labels = [record(run, 0, grid="matching") for run in grids.LABELS.values()]
    assert grid_plots.draw(labels).keys() == {"cifar10_labels"}


# ---- learning rates


def test_every_run_is_tried_with_the_same_multiples_of_its_own_learning_rate() -> None:
    base = Recipe().with_(lr=0.02, final_lr=0.001)
    tried = tuning.tried(base, Run("a", {"lr": 0.001, "p_clean": 0.5}))
    assert list(tried) == [0.0001, 0.0003, 0.001, 0.003, 0.01]
    assert tried[0.003] == Run("a, lr 0.003", {"lr": 0.003, "final_lr": 0.003, "p_clean": 0.5})
    assert len({base.with_(run.settings).hash for run in tuning.tried(base, Run("b", {})).values()}) == 5
    assert tuning.seed(0) not in range(1000)
    assert tuning.seed(0) != tuning.seed(1)


def test_a_run_gets_what_was_best_on_validation_and_its_own_where_nothing_is_known() -> None:
    study = optuna.create_study()
    for name, value in {"a, lr 0.1": 1.5, "a, lr 0.01": 1.2, "a, lr 0.001": 1.3}.items():
        study.enqueue_trial({}, user_attrs={"reference": f"{name}, seed 7"})
        study.tell(study.ask(), value)
    study.enqueue_trial({}, user_attrs={"reference": "a, lr 0.03, seed 7"})
    study.tell(study.ask(), state=optuna.trial.TrialState.FAIL)
    base, wanted = Recipe().with_(lr=0.01), [Run("a", {"label": "hard"}), Run("b", {})]
    found = tuning.read(Ledger.of(study), base, wanted)
    assert found["a"].lr == 0.01
    assert math.isnan(found["a"].values[0.03])
    assert found["a"].values[0.1] == 1.5
    assert found["b"].lr == 0.01
    study.enqueue_trial({}, user_attrs={"reference": "a, lr 0.003, seed 7"})
    study.tell(study.ask(), 1.0)
    found = tuning.read(Ledger.of(study), base, wanted)
    assert [run.settings["lr"] for run in tuning.tuned(base, wanted, found)] == [0.003, 0.01]
    assert [run.name for run in tuning.tuned(base, wanted, found)] == ["a", "b"]


def test_the_page_says_whether_learning_rates_were_tuned_and_what_each_run_got() -> None:
    names = ["none, off", "none, mollified"]
    plain = grid_report.summary([record(name, seed) for name in names for seed in (0, 1)], [SWEEP])
    assert "was tuned for no run, so part of a difference may be the learning rate's" in plain
    assert "untuned x 3" not in plain
    released = grid_report.summary([record(name, 0, protocol="published") for name in names], [SWEEP])
    assert "as released" in released
    tried = {"lr_tried": [0.001, 0.003, 0.01, 0.03, 0.1], "lr_values": [2.5, 2.25, 1.25, 1.125, math.nan]}
    best = {"none, off": 0.03, "none, mollified": 0.1}
    records = [record(name, seed, lr=best[name], **tried) for name in names for seed in (0, 1)]
    text = grid_report.summary(records, [SWEEP])
    assert text.startswith("# Mollification: the paper's experiments, fair protocol, learning rates tuned")
    assert "the same budget for all" in text
    rows = text[text.index("### Learning rates tried") :]
    assert row(rows, "none, off") == [
        *("none, off", "2.500 at 0.001", "2.250 at 0.003", "1.250 at 0.01", "1.125 at 0.03"),
        *("– at 0.1", "0.03"),
    ]
    assert row(rows, "none, mollified")[-1] == "0.1 (at the end)"
    assert "Learning rates tried" in grid_report.page(records, [SWEEP])


# ---- as a user


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["mollify"], "invalid choice: 'mollify'"),
        (["matching", "--protocol", "unfair"], "Unknown --protocol 'unfair'"),
        (["matching", "--protocol", "published", "--tune"], "--tune with --protocol fair"),
        (["mollification", "--blocks", "one"], "--blocks to be numbers"),
        (["mollification", "--blocks", "8"], "but got 8"),
        (["mollification", "--augmentations", "fcr", "--blocks", "3"], "no run of these"),
        (["mollification", "--data", "cifar11"], "cifar11"),
        (["matching", "--seeds", "0"], "--seeds to be at least 1"),
        (["matching", "--data", "digits", "--seed", str(2**63 - 1)], "`seed` to be an integer"),
        (["matching", "--data", "digits", "--seed", "-1"], "`seed` to be an integer"),
        (["matching", "--set", "lr"], "NAME=VALUE"),
        (["matching", "--data", "digits", "--set", "epoch=3"], "epoch"),
    ],
)
def test_wrong_input_is_one_sentence(argv, words, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(argv) == 2
    error = capsys.readouterr().err
    assert words in error
    assert len(error.strip().splitlines()) == 1
    assert not list(tmp_path.iterdir())


SMALL = ["--data", "digits", "--network", "resnet20", "--epochs", "1", "--batch-size", "32", "--train-fraction", "0.1"]
SMALL += ["--set", "validation_fraction=0.05", "--seeds", "2", "--images", "40"]


def test_the_plan_says_what_it_takes(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["mollification", *SMALL, "--plan"]) == 0
    out = capsys.readouterr().out
    assert "58, a recipe and a seed each" in out  # 29 runs, as of CIFAR-100
    assert "about" in out
    assert not list(tmp_path.rglob("*.sqlite"))


def test_the_plan_of_tuned_learning_rates_names_both_sweeps(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["matching", *SMALL, "--tune", "--plan"]) == 0
    out = capsys.readouterr().out
    assert "15, a recipe and a seed each" in out
    assert "6, a recipe and a seed each" in out
    assert out.index("Sweep matching-fair-tune-digits") < out.index("Sweep matching-fair-tuned-digits")


def reproduce(folder: Path, *more: str) -> str:
    """Runs the small grid in a folder as a user does; returns what it printed."""
    command = [sys.executable, str(ROOT / "sweeps/reproduce.py"), "mollification", *SMALL, "--blocks", "1,2", *more]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def check_results(folder: Path, augmentations: tuple[str, ...]) -> None:
    (path,) = folder.glob("runs/mollification-fair-*/results.parquet")
    table = pq.read_table(path).to_pylist()
    assert {(r["run"], r["seed"]) for r in table} == {
        (f"{a}, {s}", seed) for a in augmentations for s in ("off", "mollified") for seed in (0, 1)
    }
    assert all(r["corrupted_cells"] == 75 and 0 <= r["corrupted_error"] <= 1 for r in table)
    assert len({r["corrupted_nll"] for r in table}) == len(table)
    for name in ("summary.md", "report.html"):
        assert f"difference ({augmentations[-1]})" in path.with_name(name).read_text()
    assert {p.name for p in path.parent.glob("plots/*.png")} == {"digits_augmentations.png"}


@pytest.mark.slow
def test_a_whole_grid(tmp_path):
    """Two runs with two seeds each, trained and measured."""
    reproduce(tmp_path, "--augmentations", "none")
    check_results(tmp_path, ("none",))
    (sweep,) = tmp_path.glob("runs/mollification-fair-digits-*")
    labels = [model.label for model in find([str(sweep)], print)]  # what `sweeps/evaluate.py` measures of it
    assert labels == [f"none, {s}, seed {seed}" for seed in (0, 1) for s in ("off", "mollified")]


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_more_of_a_grid_adds_to_what_is_there(tmp_path):
    reproduce(tmp_path, "--augmentations", "none")
    assert "8 (4 finished, 4 to go)" in reproduce(tmp_path, "--augmentations", "none,fcr")
    check_results(tmp_path, ("none", "fcr"))


@pytest.mark.slow
@pytest.mark.timeout(2400)  # on a machine that does much else
@pytest.mark.parametrize("grid", ["mollification", "matching"])
def test_a_tuned_grid_is_killed_and_goes_on_to_the_same_page(grid: str, tmp_path: Path) -> None:
    lines = ["--blocks", "1,2", "--augmentations", "none"] if grid == "mollification" else []
    small = [*SMALL, "--network", "resnet8", "--wandb", "off"]
    command = [sys.executable, str(ROOT / "sweeps/reproduce.py"), grid, "--tune", *small, *lines]
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    for folder in (whole, cut):
        folder.mkdir()

    def run(folder: Path) -> None:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=1200)
        assert done.returncode == 0, done.stdout + done.stderr

    run(whole)
    tried = 5 * (2 if grid == "mollification" else 3)
    for after in (3, tried + 1):  # trials that have ended: among those that tune, and among those that are measured
        process = subprocess.Popen(command, cwd=cut, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 900
        while len(list(cut.glob("runs/*/trials/*/validation.npz"))) < after and process.poll() is None:
            assert time.monotonic() < deadline
            time.sleep(0.1)
        assert process.poll() is None, "it was to be killed on its way"
        process.send_signal(signal.SIGKILL)
        process.wait()
    run(cut)
    for name in ("summary.md", "report.html", "results.parquet"):
        one, other = (next(folder.glob(f"runs/{grid}-fair-tuned-*/{name}")).read_bytes() for folder in (whole, cut))
        assert one == other
    table = pq.read_table(next(whole.glob(f"runs/{grid}-fair-tuned-*/results.parquet"))).to_pylist()
    for record in table:
        values = dict(zip(record["lr_tried"], record["lr_values"], strict=True))
        assert len(values) == 5
        assert values[record["lr"]] == min(values.values())
