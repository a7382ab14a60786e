"""The report, over real Optuna studies of a smooth function."""

from __future__ import annotations

import html
import io
import json
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib.image
import numpy as np
import optuna
import pyarrow.parquet
import pytest
from matplotlib.colors import to_hex
from optuna.distributions import BaseDistribution, CategoricalDistribution, IntDistribution
from optuna.trial import TrialState
from rich.console import Console
from scipy import stats

from mollify_core.errors import ConfigError, DataError, StorageError
from mollify_core.measure.statistics import paired_interval
from mollify_core.recipe import Recipe
from mollify_sweeps.display.text import label
from mollify_sweeps.report import page, plots, trial_charts, views, words
from mollify_sweeps.report.build import Report, build
from mollify_sweeps.report.terminal import print_result
from mollify_sweeps.study.database import Location
from mollify_sweeps.study.results import Results
from studies import EPOCHS, SPACE, describe, make_study, metrics_of, of_state


def printed(study: optuna.Study, width: int = 100) -> str:
    text = io.StringIO()
    commands = [("Watch", "tensorboard --logdir [x]/" + 90 * "y")]
    print_result(Console(file=text, width=width), study, report_uri="s3://b/report", commands=commands)
    return text.getvalue()


@pytest.fixture(scope="module")
def single() -> optuna.Study:
    return make_study(30)


@pytest.fixture(scope="module")
def built(single: optuna.Study, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Report]:
    """The report of the same sweep in SQLite, as sweeps are, over the files of an older report."""
    folder = tmp_path_factory.mktemp("sweep")
    url = f"sqlite:///{folder}/study.sqlite"
    optuna.copy_study(from_study_name="night", from_storage=single._storage, to_storage=url)
    out = folder / "report"
    out.mkdir()
    (out / "summary.md").write_text("old")
    return out, build(optuna.load_study(study_name="night", storage=url), out)


def test_files(built: tuple[Path, Report]) -> None:
    out, report = built
    names = {"trials.parquet", "best_recipe.json", "summary.md", "report.html"}
    names |= {f"plots/{name}.png" for name in ("history", "importance", "parallel", "curves", "pareto", "slices")}
    assert {str(path.relative_to(out)) for path in out.rglob("*") if path.is_file()} == names
    assert {str(path.relative_to(out)) for path in report.files} == names
    assert (out / "summary.md").read_text(encoding="utf-8") == report.summary
    for path in out.glob("plots/*.png"):
        height, width, _ = matplotlib.image.imread(path).shape
        assert height >= 500, path
        assert width >= 1000, path


def test_best_is_the_best_completed_trial(single: optuna.Study, built: tuple[Path, Report]) -> None:
    out, report = built
    assert report.best == single.best_trial.number
    best = single.best_trial
    assert Recipe.from_file(out / "best_recipe.json").to_dict() == best.user_attrs["recipe"]
    tree = json.loads((out / "best_recipe.json").read_text())
    assert tree["metrics"] == best.user_attrs["metrics"]
    sweep = single.user_attrs["sweep"]
    shared = {key: sweep[key] for key in ("seed", "versions", "commit", "dataset", "verified", "fingerprint")}
    shared["feed"] = "resident"
    assert tree["provenance"] == {"sweep": "night", "trial": best.number, **shared, "threads": 4, "accumulate": 1}


def test_trials_table(single: optuna.Study, built: tuple[Path, Report]) -> None:
    rows = pyarrow.parquet.read_table(built[0] / "trials.parquet").to_pylist()
    assert len(rows) == len(single.trials)
    for row, trial in zip(rows, single.trials, strict=True):
        attrs = trial.user_attrs
        assert (row["number"], row["state"], row["verified"]) == (trial.number, trial.state.name, True)
        for name in ("reference", "epochs_done", "seconds", "failure", "failure_message", "folder", "checkpoint"):
            assert row[name] == attrs.get(name)
        assert {name: row[f"param_{name}"] for name in SPACE} == trial.params
        assert row["recipe_lr"] == attrs["recipe"]["optim"]["lr"]
        assert row["recipe_augment"] == "flip,crop"
        assert row["recipe_seed"] == 0
        metrics = attrs.get("metrics", dict.fromkeys(metrics_of(1.0)))
        assert {name: row[name] for name in metrics} == metrics
    assert rows[1]["param_p_clean"] == 0.9
    assert rows[1]["recipe_p_clean"] == 1.0


def test_choices_of_several_types_and_no_finished_trial_still_make_a_table(tmp_path: Path) -> None:
    choices = CategoricalDistribution([None, "large", 3.5])
    study = optuna.create_study()
    study.set_user_attr("sweep", {**make_study(0).user_attrs["sweep"], "space": {"max_blur": describe(choices)}})
    for choice in choices.choices:
        study.enqueue_trial({"max_blur": choice})
        study.ask({"max_blur": choices})
    report = build(study, tmp_path)
    assert report.best is None
    assert "No trial has completed" in report.summary
    assert sorted(path.name for path in report.files) == ["report.html", "summary.md", "trials.parquet"]
    table = pyarrow.parquet.read_table(tmp_path / "trials.parquet")
    assert table["param_max_blur"].to_pylist() == [None, "large", "3.5"]
    assert table["state"].to_pylist() == ["RUNNING"] * 3
    assert "No trial has completed" in printed(study)


def test_summary(single: optuna.Study, built: tuple[Path, Report]) -> None:
    text = built[1].summary
    trials: list[Any] = [single.best_trial, single.trials[0], single.trials[1]]
    best, _, plain = trials
    assert text.startswith("# Sweep night: cifar100, presnet18\n")
    row = next(line for line in text.splitlines() if line.startswith("| clean error (%)"))
    cells = [float(cell) for cell in row.split("|")[2:-1]]
    b, p, q = (100 * trial.user_attrs["metrics"]["clean_error"] for trial in trials)
    assert cells == pytest.approx([b, p, q, b - q, p - q], abs=0.01)
    gain = plain.value - best.value
    assert f"{gain:#.4g} ({100 * gain / plain.value:.3g} %) below plain training (trial 1: {plain.value:#.4g})" in text
    done = sorted(of_state(single, TrialState.COMPLETE), key=lambda trial: trial.value)
    section = text.split("## Best trials")[1].split("##")[0]
    listed = [line.split("|")[1].split()[0] for line in section.strip().splitlines()[2:]]
    assert listed == [str(trial.number) for trial in done[:10]]
    assert f"chosen among {len(done)} completed trials" in text
    assert "one training seed" in text
    pruned = len(of_state(single, TrialState.PRUNED))
    assert f"30 in all: {len(done)} COMPLETE, {pruned} PRUNED, 3 FAIL." in text
    assert "- failed (oom): trial 6; first: CUDA out of memory | 2 GiB\n" in text
    assert "- failed (nan): trial 13, 14; first: loss is NaN\n" in text
    for fact in ("abc1234", "0f1e2d3c4b5a", "torch 2.9.0, ray 2.55.0", "s3://bucket/sweeps/night", "tpe, median, 3"):
        assert fact in text
    assert "paired" not in text


def test_paired_interval_against_scipy() -> None:
    rng = np.random.default_rng(0)
    first, second = rng.normal(1.0, 1, 400).astype(np.float32), rng.normal(0.9, 1, 400).astype(np.float32)
    difference = first.astype(float) - second
    expected = stats.norm.interval(0.95, loc=difference.mean(), scale=stats.sem(difference))
    found = paired_interval(first, second)
    assert (found.value, found.low, found.high) == pytest.approx((difference.mean(), *expected))
    assert found.count == 400
    with pytest.raises(DataError, match=r"\(400,\) and \(399,\)"):
        paired_interval(first, second[1:])


def test_paired_differences_in_the_summary(tmp_path: Path) -> None:
    study = make_study(5, objectives=("clean_error",))
    best = Results(study).compared["best"].number
    rng = np.random.default_rng(1)
    values = {number: (rng.random(900) < share).astype(float) for number, share in ((best, 0.2), (0, 0.21), (1, 0.5))}
    text = build(study, tmp_path, per_image={n: {"clean_error": v} for n, v in values.items()}).summary

    def cells(name: str) -> list[str]:
        line = next(line for line in text.splitlines() if line.startswith(f"| {name} |"))
        return [cell.strip() for cell in line.split("|")[2:-1]]

    for name, pair, differs in (("best - plain", (best, 1), "yes"), ("best - paper", (best, 0), "no")):
        difference = 100 * (values[pair[0]] - values[pair[1]])
        low, high = stats.norm.interval(0.95, loc=difference.mean(), scale=stats.sem(difference))
        assert cells(name) == [f"{difference.mean():+#.4g}", f"{low:+#.4g} to {high:+#.4g}", differs]
    assert cells("paper - plain")[-1] == "yes"

    text = build(study, tmp_path, per_image={best: {"clean_error": values[best]}}).summary
    assert cells("best - plain")[0] == "no per-image values"
    ece = make_study(2, objectives=("clean_ece",))
    assert "ECE has no value per image" in build(ece, tmp_path, per_image={0: {}}).summary


def test_missing_and_winning_references() -> None:
    text = " ".join(printed(make_study(4, references=False)).split())
    assert "no result of the paper's default schedule (the sweep has no such trial)" in text
    assert "no result of plain training (the sweep has no such trial)" in text

    study = make_study(0)
    study.set_user_attr("sweep", study.user_attrs["sweep"])
    for reference, value in (("paper", 1.0), ("plain", None), (None, 2.0)):
        trial = study.ask()
        for key, item in (("reference", reference), ("metrics", {}), ("recipe", Recipe().to_dict())):
            if item is not None:
                trial.set_user_attr(key, item)
        if value is None:
            trial.set_user_attr("failure", "preempted")
        study.tell(trial, value, state=TrialState.FAIL if value is None else TrialState.COMPLETE)
    text = " ".join(printed(study).split())
    assert "trial 0 (the paper's default schedule)" in text
    assert "found nothing better than the paper's default schedule" in text
    assert "no result of plain training (trial 1 is FAIL, preempted)" in text


def test_printed_result(single: optuna.Study) -> None:
    text = printed(single)
    assert "UNVERIFIED" not in text
    best = single.best_trial
    assert f"Best recipe (trial {best.number})" in text
    assert f"{best.params['weight_decay']:.4g}" in text
    assert "Report: s3://b/report\n" in text
    assert "Watch: tensorboard --logdir [x]/" + 90 * "y" + "\n" in text, "a command is one line, to be copied"
    assert "one training seed" in text
    assert max(map(len, printed(single, width=80).splitlines()[:-1])) <= 80
    for width in (60, 40):
        narrow = printed(single, width=width)
        assert "…" not in narrow, "the answer never loses a digit"
        for row in words.comparison(Results(single))[1]:
            assert all(number in narrow for number in row[1:])


def test_unverified_data_is_marked_everywhere(tmp_path: Path) -> None:
    study = make_study(12, verified=False)
    report = build(study, tmp_path)
    assert "UNVERIFIED DATA" in report.summary.splitlines()[0]
    assert printed(study).startswith("UNVERIFIED DATA")
    assert json.loads((tmp_path / "best_recipe.json").read_text())["provenance"]["verified"] is False
    assert set(pyarrow.parquet.read_table(tmp_path / "trials.parquet")["verified"].to_pylist()) == {False}
    figures = plots.draw(Results(study))
    assert len(figures) >= 4
    assert all("UNVERIFIED DATA" in figure.get_suptitle() for figure in figures.values())
    assert not any("UNVERIFIED" in figure.get_suptitle() for figure in plots.draw(Results(make_study(12))).values())


def test_several_objectives(tmp_path: Path) -> None:
    study = make_study(16, objectives=("corrupted_nll", "clean_error"))
    done = of_state(study, TrialState.COMPLETE)
    front = {
        t.number
        for t in done
        if not any(all(np.less_equal(o.values, t.values)) and any(np.less(o.values, t.values)) for o in done)
    }
    report = build(study, tmp_path)
    assert report.best == min(done, key=lambda trial: trial.values[0]).number
    assert {path.stem for path in report.files if path.suffix == ".png"} >= {"pareto", "history", "slices", "parallel"}
    assert "curves" not in {path.stem for path in report.files}
    lowest = {}
    for i, metric in enumerate(("corrupted_nll", "clean_error")):
        values = {trial.number: trial.values[i] for trial in done}
        lowest[metric] = min(values, key=values.__getitem__)
        recipe = json.loads((tmp_path / f"best_recipe_{metric}.json").read_text())
        assert recipe["provenance"]["trial"] == lowest[metric], "a recipe, and so a command, for each objective"
    said = " ".join(printed(study).split())
    for text in (report.summary, said, html.unescape((tmp_path / "report.html").read_text())):
        told = text.index("Where one has to be called the best, the first objective decides, the corrupted NLL.")
        assert f"corrupted NLL is lowest in trial {lowest['corrupted_nll']} and the clean error is lowest in" in text
        assert told < text.index("on the corrupted NLL, the first objective: trial"), "the front comes first"
    assert said.index("Pareto front") < said.index("Best recipe for the corrupted NLL")
    assert "first objective" not in printed(make_study(8)), "there is one only"
    section = report.summary.split("## Best trials")[1].split("##")[0]
    marked = {int(line.split("|")[1].split()[0]) for line in section.splitlines() if "Pareto" in line}
    assert marked == front
    three = plots.draw(Results(make_study(8, objectives=("corrupted_nll", "clean_error", "clean_brier"))))
    assert len(three["pareto"].axes) == 3


def test_importance_finds_what_matters_and_says_when_it_cannot(tmp_path: Path) -> None:
    study = make_study(0, references=False)
    study.sampler = optuna.samplers.RandomSampler(seed=0)
    for number in range(40):
        trial = study.ask(SPACE)
        trial.set_user_attr("recipe", Recipe().with_(trial.params).to_dict())
        value = math.log(trial.params["lr"]) ** 2 + 0.1 * trial.params["smoothing"]
        study.tell(trial, 1e6 if number == 5 else value)  # one diverged trial must not decide
    shares = Results(study).importances
    assert next(iter(shares)) == "lr"
    assert shares["lr"] > 0.6
    assert sum(shares.values()) == pytest.approx(1)
    few = build(make_study(5), tmp_path)
    assert "Cannot be computed" in few.summary
    assert "importance" not in {path.stem for path in few.files}


def test_a_reference_outside_the_ranges_shows_what_it_trained_with(single: optuna.Study) -> None:
    results = Results(single)
    assert single.trials[1].params["p_clean"] == 0.9
    plain, best = results.compared["plain"], results.compared["best"]
    assert results.searched(plain)["p_clean"] == 1.0
    assert results.effective(best) == results.searched(best)
    assert set(results.effective(plain)) == set(SPACE) - {"max_noise", "max_blur", "smoothing", "noise_power"} - {
        *("blur_power", "beta_b", "noise_share")
    }, "of plain training nothing is shown that does nothing to it"


def test_plots_show_the_study(single: optuna.Study) -> None:
    results = Results(single)
    figures: Any = plots.draw(results)
    done = of_state(single, TrialState.COMPLETE)
    axes = figures["history"].axes[0]
    best_so_far = [min(t.value for t in done if t.number <= trial.number) for trial in done]
    np.testing.assert_allclose(axes.lines[0].get_ydata()[::2], [*best_so_far, best_so_far[-1]])
    legend = [text.get_text() for text in figures["history"].legends[0].get_texts()]
    assert {"pruned (last value)", "failed (no value)", "plain (trial 1)", "paper (trial 0)"} <= set(legend)

    assert {"completed", "best so far"} <= set(legend)
    axes, bar = figures["parallel"].axes
    shown = {line.get_label(): line.get_ydata() for line in axes.lines}
    best = single.best_trial
    position = math.log(best.params["lr"] / 0.003) / math.log(100)
    assert shown[f"best (trial {best.number})"][list(SPACE).index("lr")] == pytest.approx(position)
    assert shown["plain (trial 1)"][list(SPACE).index("p_clean")] == 1
    lines = axes.collections[1]
    assert bar.collections[-1].cmap.name == lines.cmap.name
    assert lines.norm.vmin == best.value

    curves = figures["curves"].axes[0]
    longest = next(line for line in curves.lines if line.get_label() == "paper (trial 0)")
    np.testing.assert_allclose(longest.get_ydata(), list(single.trials[0].intermediate_values.values()))
    np.testing.assert_array_equal(longest.get_xdata(), range(1, EPOCHS + 1))
    assert len(curves.lines) == sum(len(t.intermediate_values) > 1 for t in single.trials)
    assert [axes.get_xlabel() for axes in figures["slices"].axes[: len(SPACE)]] == list(SPACE)
    assert [bar.get_width() for bar in figures["importance"].axes[0].patches] == pytest.approx(
        [100 * share for share in results.importances.values()]
    )


def diverging_study() -> optuna.Study:
    """A search whose trial 5 is far above all others."""
    study = make_study(2)
    for number in range(2, 14):
        trial = study.ask(SPACE)
        trial.set_user_attr("recipe", Recipe().with_(trial.params).to_dict())
        metrics = metrics_of(1e3 if number == 5 else 1 + number / 100)
        trial.set_user_attr("metrics", metrics)
        for epoch in range(3):
            trial.report(metrics["corrupted_nll"] + 1 - epoch / 3, epoch)
        study.tell(trial, metrics["corrupted_nll"])
    return study


@pytest.mark.parametrize("make", [lambda: make_study(30), diverging_study], ids=["ordinary", "diverging"])
def test_png_and_page_show_the_same(make: Callable[[], optuna.Study]) -> None:
    results = Results(make())
    figures = plots.draw(results)
    seen = {"history": views.history(results), "curves": views.curves(results), "pareto": views.fronts(results)}
    for name, pictures in seen.items():
        page = "".join(trial_charts.pictures(results, pictures))
        charts = re.findall(r'<svg [^>]*role="img".*?</svg>', page)
        axes: Any
        for axes, chart, picture in zip(figures[name].axes, charts, pictures, strict=True):
            assert (axes.get_xlabel(), axes.get_ylabel()) == picture.labels
            assert html.escape(picture.labels[1]) in chart
            for line, drawn in zip(picture.lines, axes.lines, strict=True):
                np.testing.assert_allclose(drawn.get_xydata(), line.points)
            assert max(y for line in picture.lines for _, y in line.points) <= picture.y.high
            assert [line.kind for line in picture.lines] == re.findall(r'class="line (\w+)"', chart)
            dots = [tuple(dot) for group in axes.collections for dot in group.get_offsets()]
            assert dots == [(mark.x, mark.y) for mark in picture.marks]
            marks = re.findall(r'data-trial="(\d+)"><title>[^<]*</title>[^>]*translate\(([^ )]+) ([^ )]+)\)', chart)
            assert [int(number) for number, *_ in marks] == [mark.trial for mark in picture.marks]
            for values, place in zip(np.transpose(dots), (1, 2), strict=bool(dots)):
                pixels = np.array([float(mark[place]) for mark in marks])
                np.testing.assert_allclose(np.polyval(np.polyfit(values, pixels, 1), values), pixels, atol=0.1)
        told = {html.unescape(text) for text in re.findall(r"</svg>([^<]*)</li>", page)}
        assert told == {text.get_text().replace("\n", " ") for text in figures[name].legends[0].get_texts()}
    assert seen["curves"][0].lines[0].points[0][0] == 1
    for pictures in seen.values():
        for picture in pictures:
            edge = [(mark.x, mark.y) for mark in picture.marks if mark.kind != "beyond" and mark.y == picture.y.high]
            edge += [
                point
                for line in picture.lines
                if line.kind != "front"
                for point in line.points
                if point[1] == picture.y.high
            ]
            assert [
                (mark.x, mark.y) for mark in picture.marks if mark.kind == "beyond" and mark.y == picture.y.high
            ] == edge
    diverged = [mark.trial for mark in seen["history"][0].marks if mark.kind == "beyond"]
    assert diverged == ([5] if make is diverging_study else [])
    if diverged:
        for drawn, count in (
            (trial_charts.pictures(results, seen["history"]), "1 value"),
            (trial_charts.slices(results), "10 values"),
        ):
            assert f"beyond the end of the axis: {count} of trial 5" in "".join(drawn)


def test_png_and_page_have_the_same_colours(single: optuna.Study) -> None:
    text = page.page(Results(single))
    light = {kind: re.search(rf"--{kind}:(#\w+)", text) for kind in plots.COLORS}
    colors = {kind: found[1].upper() for kind, found in light.items() if found is not None}
    assert colors == {**plots.COLORS, "plain": "#00845F"}, "plain training's green is darker on the page, for contrast"
    assert list(plots.COLORS.values()) == ["#D55E00", "#0072B2", "#009E73"]
    axes = plots.draw(Results(single))["history"].axes[0]
    drawn = {group.get_label(): to_hex(group.get_facecolor()[0]).upper() for group in axes.collections[-3:]}  # type: ignore[index]
    best = f"best (trial {single.best_trial.number})"
    assert drawn == {best: "#D55E00", "paper (trial 0)": "#0072B2", "plain (trial 1)": "#009E73"}


@pytest.mark.parametrize(
    ("metric", "text", "difference"),
    [
        ("corrupted_ece", "corrupted ECE (%)", "corrupted ECE (points)"),
        ("clean_top5_error", "clean top-5 error (%)", "clean top-5 error (points)"),
        ("corrupted_matching_ece", "corrupted ECE (%)", "corrupted ECE (points)"),
        ("scaled_adaptive_ece", "scaled adaptive ECE (%)", "scaled adaptive ECE (points)"),
        ("clean_nll", "clean NLL", "clean NLL"),
        ("brier", "Brier score", "Brier score"),
        ("sink_mass", "sink mass", "sink mass"),
        ("mine", "mine", "mine"),
    ],
)
def test_a_metric_has_one_name(metric: str, text: str, difference: str) -> None:
    assert (label(metric), label(metric, difference=True)) == (text, difference)
    assert label(metric, unit=False) == text.removesuffix(" (%)")


def test_plots_of_choices_and_integers(tmp_path: Path) -> None:
    space: dict[str, BaseDistribution] = {
        "max_blur": CategoricalDistribution([None, 4, 16.0]),
        "nesterov": CategoricalDistribution([True, False]),
        "batch_size": IntDistribution(32, 512, log=True),
    }
    report = build(make_study(14, space=space, references=False), tmp_path)
    assert {"slices", "parallel"} <= {path.stem for path in report.files}


def test_one_trial_is_too_few_for_a_plot() -> None:
    assert set(plots.draw(Results(make_study(1)))) == {"curves"}


def test_the_password_of_the_study_is_not_shown(tmp_path: Path) -> None:
    study = make_study(1, url=Location("postgresql://me:hunter2@host/db").shown)
    report = build(study, tmp_path)
    assert "postgresql://me:***@host/db" in report.summary
    assert not any(b"hunter2" in path.read_bytes() for path in report.files)
    assert "hunter2" not in printed(study)


def test_errors(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="'stranger' was not made by mollify"):
        build(optuna.create_study(study_name="stranger"), tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="file"):
        build(make_study(1), tmp_path / "file")
