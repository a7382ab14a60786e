"""report.html, built from real studies; looked at in a headless Chromium where there is one."""

from __future__ import annotations

import base64
import hashlib
import html
import html.parser
import json
import math
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import matplotlib.image
import numpy as np
import optuna
import pyarrow as pa
import pyarrow.parquet
import pytest
import torch
from optuna.distributions import CategoricalDistribution, FloatDistribution
from optuna.trial import TrialState
from scipy import stats

from evaluations import metadata_of, predictions, rows_of
from mollify_core.corruptions.heldout import HELDOUT, SEVERITIES
from mollify_core.measure.metrics import per_image as image_metrics
from mollify_core.measure.statistics import Mean
from mollify_core.measure.validation import CELLS, image_values, validation_means
from mollify_core.recipe import Recipe
from mollify_sweeps.display import charts
from mollify_sweeps.display.axes import Linear
from mollify_sweeps.display.charts import IntervalRow, Line, Mark
from mollify_sweeps.display.page import (
    Section,
    bullets,
    code,
    details,
    document,
    download,
    figure,
    paragraph,
    table,
    tiles,
)
from mollify_sweeps.evaluation.rows import read, to_table
from mollify_sweeps.report import model_charts, plots
from mollify_sweeps.report import page as html_report
from mollify_sweeps.report import words as report_words
from mollify_sweeps.study.results import Results
from mollify_sweeps.study.study import SweepStudy
from setups import fair_setup, run_trials, study_of
from studies import SPACE, make_study, of_state

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
HOSTILE = (
    "\"'><img src=x onerror=alert(1)></title></style></svg><script>document.title='owned'</script>&amp;" + 60 * "long"
)
VOID = {"meta", "link", "br", "img", "input", "hr"}


class Tree(html.parser.HTMLParser):
    """What a page consists of; asserts that elements are closed in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self._open: list[str] = []
        self.feed(text)
        self.close()
        assert not self._open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self._open and self._open[-1] not in ("style", "script"):
            self.text.append(data)

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attrs for name, attrs in self.elements if name == tag]


def headings(page: str) -> list[str]:
    return [html.unescape(text) for text in re.findall(r"<h2>(.*?)</h2>", page)]


def words(page: str) -> str:
    return " ".join(" ".join(Tree(page).text).split())


LABELS = torch.arange(400) % 10  # as many of each class


def validation_values(error: float, seed: int = 0) -> torch.Tensor:
    """What `ValidationSet.measure` gives for a classifier of 400 images that errs at this rate, more when corrupted."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(10, (400,), generator=generator)
    cells = []
    for cell in range(CELLS):
        logits = torch.randn(400, 10, generator=generator)
        right = torch.rand(400, generator=generator) > error * (1 + 0.05 * cell)
        logits[torch.arange(400)[right], labels[right]] += 4
        cells.append(image_metrics(logits, labels))
    return torch.stack(cells)


def measured(study: optuna.Study, errors: dict[str, float]) -> dict[int, dict[str, np.ndarray]]:
    """Values per image, and bins, of the compared trials."""
    compared = Results(study).compared
    return {compared[name].number: image_values(validation_values(error), LABELS) for name, error in errors.items()}


@pytest.fixture(scope="module")
def single() -> optuna.Study:
    return make_study(30)


@pytest.fixture(scope="module")
def per_image(single: optuna.Study) -> dict[int, dict[str, np.ndarray]]:
    return measured(single, {"best": 0.1, "paper": 0.11, "plain": 0.3})


@pytest.fixture(scope="module")
def evaluation(single: optuna.Study, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of three models on the clean test set and two corruptions."""
    folder = tmp_path_factory.mktemp("evaluation")
    some = ("", "gaussian_noise", "saturate")
    models = {f"best (trial {single.best_trial.number})": (3.8, 0.4, 1.0), "plain": (4.0, 0.9, 2.0)}
    rows = [row for m, how in models.items() for row in rows_of(m, predictions(how, levels=())) if row["name"] in some]
    path = folder / "evaluation.parquet"  # alone: the plots take long
    pa.parquet.write_table(to_table(rows, metadata_of(models, reference="plain")), path)
    return path


@pytest.fixture(scope="module")
def full(single: optuna.Study, per_image: dict[int, dict[str, np.ndarray]], evaluation: Path) -> str:
    commands = [("train the best again", "python -m mollify_core.train 'a b.json' " + 40 * "--flag-of-many ")]
    return html_report.page(Results(single), per_image=per_image, evaluation=evaluation, commands=commands)


SECTIONS = [
    "What changed",
    "On the test set",
    "Calibration on validation images",
    "Corruption by corruption, on validation images",
    "Pareto front",
    "How the search went",
    "Importance of the parameters",
    "Parameters of all trials",
    "Best recipe, and how to train it again",
    "All trials",
    "Provenance",
]


def test_the_page_answers_first_and_has_all_sections(full: str, single: optuna.Study) -> None:
    tree, text = Tree(full), words(full)
    assert [name for name, _ in tree.elements if re.fullmatch(r"h\d", name)] == ["h1", *["h2"] * len(SECTIONS)]
    assert headings(full) == SECTIONS
    assert (
        text.index("Was mollification worth it?")
        < text.index("These validation images suggest so")
        < text.index("95 %")
    )
    assert "That does not prove the method: lr and weight_decay were searched for it and not for plain training" in text
    assert f"one training seed, and the best was chosen among {len(Results(single).completed)} completed" in text
    for fact in ("0f1e2d3c4b5a", "abc1234", "torch 2.9.0", "s3://bucket/sweeps/night", "tpe, median, 3", "verified"):
        assert fact in text
    assert "python -m mollify_core.train 'a b.json'" in text
    ids = [attrs["id"] for _, attrs in tree.elements if "id" in attrs]
    assert sorted(ids) == sorted(set(ids))
    assert {f"#{i}" for i in ids} == {a["href"] for a in tree.all("a") if "download" not in a}
    assert all(a["role"] == "img" and a["aria-label"] for a in tree.all("svg") if "aria-hidden" not in a)
    saved = next(a for a in tree.all("a") if "download" in a)
    assert saved["download"] == "best_recipe.json"
    recipe = json.loads(base64.b64decode(str(saved["href"]).partition(",")[2]))
    assert recipe["recipe"] == single.best_trial.user_attrs["recipe"]


def test_the_interval_of_the_answer_against_scipy(single: optuna.Study, per_image: Any, full: str) -> None:
    best, plain = (per_image[Results(single).compared[name].number]["corrupted_nll"] for name in ("best", "plain"))
    difference = plain.astype(float) - best
    low, high = stats.norm.interval(0.95, loc=difference.mean(), scale=stats.sem(difference))
    found = re.search(r"corrupted NLL is ([\d.]+) \(95 % interval ([\d.]+) to ([\d.]+)\) below plain", words(full))
    assert found is not None
    digits = len(found[1].partition(".")[2])
    assert 10 <= 10**digits * (high - low) / 2 < 100, "two digits of the interval's half width"
    assert [float(number) for number in found.groups()] == pytest.approx(
        [difference.mean(), low, high], abs=0.6 * 10**-digits
    )


def test_answers_that_are_not_yes(tmp_path: Path) -> None:
    study = make_study(8, objectives=("corrupted_error",))
    results = Results(study)
    same = {"best": 0.2, "paper": 0.2, "plain": 0.2}
    values = measured(study, same)
    best = results.compared["best"].number
    values[best] = image_values(validation_values(0.2, seed=5), LABELS)
    assert "These images cannot tell: the best trial's corrupted error is" in words(
        html_report.page(results, per_image=values)
    )
    assert "how surely is not known" in words(html_report.page(results))
    ece = make_study(8, objectives=("corrupted_ece",))
    assert "how surely is not known" in words(html_report.page(Results(ece), per_image=measured(ece, same)))
    assert "There is no answer: plain training" in words(html_report.page(Results(make_study(3, references=False))))


@pytest.fixture(scope="module")
def fair(tmp_path_factory: pytest.TempPathFactory) -> Results:
    """Two methods searched alike, with images that only judge."""
    base = Recipe().with_(epochs=4, judging_fraction=0.5)
    setup = fair_setup(tmp_path_factory.mktemp("fair"), base, 12, "plain", "mollification", shares={})
    run_trials(SweepStudy(setup))
    return Results(study_of(setup))


@pytest.mark.parametrize(
    ("best", "plain", "answer"),
    [
        (0.1, 0.3, "suggest so: the best recipe with mollification is"),
        (0.3, 0.1, "suggest not: the best recipe of plain training is"),
        (0.2, 0.2, "These images cannot tell:"),
    ],
)
def test_methods_that_were_searched_alike_are_compared_on_images_that_chose_nothing(
    fair: Results, best: float, plain: float, answer: str
) -> None:
    rng = np.random.default_rng(0)
    values = {
        fair.compared[name].number: {"corrupted_nll": share + 0.1 * rng.standard_normal(400)}
        for name, share in (("best", best), ("plain", plain))
    }
    text = words(html_report.page(fair, per_image=values))
    assert "Does mollification make this classifier better?" in text
    assert answer in text
    assert ("this compares two recipes, not yet the method" in text) == (best != plain)
    assert "The paired intervals are over validation images that chose nothing" in text
    assert "Expected best corrupted NLL after so many epochs trained" in text
    header, rows = report_words.efforts(fair)
    assert header[-1] == "epochs trained"
    assert [(row[0], sum(map(int, row[1:4]))) for row in rows] == [("plain training", 6), ("mollification", 6)]


def test_plain_training_may_be_the_best() -> None:
    study = make_study(0, references=False)
    for reference, value in (("paper", 2.0), ("plain", 1.0)):
        trial = study.ask(SPACE)
        trial.set_user_attr("reference", reference)
        trial.set_user_attr("recipe", Recipe().to_dict())
        study.tell(trial, value)
    page = html_report.page(Results(study), per_image=measured(study, {"paper": 0.3, "plain": 0.1}))
    text = words(page)
    assert "No: no trial of this sweep has a lower corrupted NLL than plain training." in text
    assert "corrupted NLL, the paper's default schedule against plain training" in text
    assert "best and plain (trial 1)" in text
    assert "error (points): paper − plain" in text


def test_nothing_is_loaded_and_only_own_scripts_and_styles_may_run(full: str) -> None:
    tree = Tree(full)
    for _, attrs in tree.elements:
        assert "src" not in attrs
        assert "style" not in attrs
        assert not any(name.startswith("on") for name in attrs)
        assert (attrs.get("href") or "#").startswith(("#", "data:"))
    assert not re.search(r"https?:|url\(|@import", re.sub(r"s3://[^<]*", "", full))
    policy = next(a["content"] for a in tree.all("meta") if a.get("http-equiv") == "Content-Security-Policy")
    allowed = dict(part.strip().split(" ", 1) for part in str(policy).split(";"))
    assert allowed["default-src"] == "'none'"
    for kind in ("style", "script"):
        (text,) = re.findall(f"<{kind}>(.*?)</{kind}>", full, flags=re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert allowed[f"{kind}-src"] == f"'sha256-{digest}'"


def hostile_study() -> optuna.Study:
    space = {HOSTILE: CategoricalDistribution([HOSTILE, "b"]), "lr": FloatDistribution(0.003, 0.3, log=True)}
    study = make_study(0)
    described = {HOSTILE: {"choices": [HOSTILE, "b"]}, "lr": {"low": 0.003, "high": 0.3, "log": True}}
    names = ("name", "dataset", "network", "commit", "storage", "study_url", "fingerprint", "sampler")
    sweep = study.user_attrs["sweep"] | dict.fromkeys(names, HOSTILE) | {"space": described, "verified": False}
    study.set_user_attr("sweep", sweep | {"versions": {HOSTILE: HOSTILE}})
    for number in range(6):
        trial = study.ask(space)
        trial.set_user_attr("metrics", {"clean_error": 0.2, "corrupted_error": 0.3 - number / 100, HOSTILE: 1.0})
        trial.set_user_attr("recipe", {"format": 1, "data": {"dataset": HOSTILE}})
        if number < 2:
            trial.set_user_attr("reference", ("paper", "plain")[number])
        trial.set_user_attr("failure", HOSTILE)
        trial.set_user_attr("failure_message", HOSTILE)
        if number == 5:
            study.tell(trial, state=TrialState.FAIL)
        else:
            study.tell(trial, 2.0 - number / 10)
    return study


def test_every_value_of_the_study_is_escaped() -> None:
    extra = Section(HOSTILE, [paragraph(HOSTILE, HOSTILE), bullets([HOSTILE]), table([HOSTILE], [[HOSTILE]], HOSTILE)])
    more = [details(HOSTILE, code(HOSTILE)), tiles([(HOSTILE,) * 3]), download(HOSTILE, HOSTILE, HOSTILE)]
    interval = IntervalRow(HOSTILE, Mean(1.0, 0.0, 2.0, 5), "best", HOSTILE)
    more += [figure(charts.interval_chart(HOSTILE, [interval], HOSTILE), HOSTILE)]
    page = html_report.page(
        Results(hostile_study()), commands=[(HOSTILE, HOSTILE)], extra=[extra, Section("More", more)]
    )
    tree = Tree(page)
    known = Tree(html_report.page(Results(make_study(30)))).elements
    assert {name for name, _ in tree.elements} <= {name for name, _ in known} | {"ul", "li", "pre", "dl", "dt", "dd"}
    assert len(tree.all("script")) == 1
    assert not any(name.startswith("on") or name == "src" for _, attrs in tree.elements for name in attrs)
    assert "".join(tree.text).count(HOSTILE) > 40
    assert "<img" not in page


def test_no_trial_has_completed() -> None:
    study = make_study(0, references=False)
    study.ask(SPACE)
    page = html_report.page(Results(study))
    assert headings(page) == [
        "What changed",
        "How the search went",
        "Importance of the parameters",
        "All trials",
        "Provenance",
    ]
    text = words(page)
    assert "There is no answer: no trial has completed." in text
    assert "1 in all: 1 RUNNING" in text
    assert "Cannot be computed" in text
    assert "Save" not in text
    assert headings(html_report.page(Results(make_study(0, references=False)))) == [
        "What changed",
        "How the search went",
        "Importance of the parameters",
        "Provenance",
    ]


def test_failed_and_pruned_trials(single: optuna.Study, full: str) -> None:
    text = words(full)
    assert "failed (oom): trial 6; first: CUDA out of memory | 2 GiB" in text
    assert "failed (nan): trial 13, 14" in text
    section = full[full.index("How the search went</h2>") : full.index("Importance of the parameters</h2>")]
    titles = [html.unescape(t) for t in re.findall(r"<title>(.*?)</title>", section)]
    for trial in single.trials:
        assert any(title.startswith((f"trial {trial.number} ", f"trial {trial.number}:")) for title in titles)
    assert section.count('class="mark failed"') == 3 + 1, "and one in the legend"
    assert section.count('class="mark pruned"') == len(of_state(single, TrialState.PRUNED)) + 1


def test_all_trials_are_in_the_table_the_best_first(single: optuna.Study, full: str) -> None:
    rows = re.findall(r"<tr><th scope=\"row\">(.*?)</th>(.*?)</tr>", full[full.index("All trials</h2>") :])
    rows = [(name, re.findall("<td>(.*?)</td>", cells)) for name, cells in rows if "<td>" in cells][
        : len(single.trials)
    ]
    assert sorted(int(name.split()[0]) for name, _ in rows) == [t.number for t in single.trials]
    done = sorted(of_state(single, TrialState.COMPLETE), key=lambda t: t.value)
    assert [int(name.split()[0]) for name, _ in rows[: len(done)]] == [t.number for t in done]
    best = next(cells for name, cells in rows if int(name.split()[0]) == single.best_trial.number)
    assert float(best[1]) == pytest.approx(single.best_value, rel=1e-3)
    assert best[0] == "complete"


def test_several_objectives() -> None:
    study = make_study(16, objectives=("corrupted_nll", "clean_error"))
    page = html_report.page(Results(study))
    front = {t.number for t in study.best_trials}
    found = re.findall(r"On the Pareto front: trial ([\d, ]+)\.", page)
    assert [{int(number) for number in numbers.split(", ")} for numbers in found] == [front]
    assert page.count("Pareto</th>") == len(front)
    three = html_report.page(Results(make_study(8, objectives=("corrupted_nll", "clean_error", "clean_brier"))))
    assert three.count("On the Pareto front: trial") == 3
    found = re.findall(r'<path d="[^"]+" class="line front"', three)
    assert len(found) == 1, "the best so far: a front of three is no line in a plane"


def test_learning_curves_of_several_objectives() -> None:
    study = make_study(0, objectives=("corrupted_nll", "clean_error"))
    for number in range(3):
        trial = study.ask(SPACE)
        trial.set_user_attr("recipe", Recipe().with_(trial.params).to_dict())
        for epoch in range(4 - number):
            values = [2.0 - epoch / 5, 0.5 - epoch / 10]
            trial.set_user_attr(f"epoch_{epoch}", {"values": values, "seconds": 1.0, "go_on": True})
        study.tell(trial, [1.0, 0.1])
    page = html_report.page(Results(study))
    assert page.count('aria-label="Learning curves: ') == 2
    section = page[page.index("Learning curves: clean error") :].partition("</svg>")[0]
    paths = re.findall(r'<path d="([^"]+)" class="line \w+"', section)
    assert sorted(path.count("L") for path in paths) == [1, 2, 3]
    axes = plots.draw(Results(study))["curves"].axes
    assert [one.get_ylabel() for one in axes] == ["corrupted NLL, fixed subsample", "clean error (%), fixed subsample"]
    assert sorted(len(line.get_xdata()) for line in axes[1].lines) == [2, 3, 4]


def test_the_front_of_one_objective_is_that_of_clean_against_corrupted(single: optuna.Study, full: str) -> None:
    found = re.findall(r"On the Pareto front: trial ([\d, ]+)\.", full)
    for numbers, name in zip(found, ("nll", "error"), strict=True):
        points = {
            t.number: (t.user_attrs["metrics"][f"clean_{name}"], t.user_attrs["metrics"][f"corrupted_{name}"])
            for t in of_state(single, TrialState.COMPLETE)
        }
        unbeaten = {
            n
            for n, (x, y) in points.items()
            if not any(a <= x and b <= y and (a, b) != (x, y) for a, b in points.values())
        }
        assert {int(number) for number in numbers.split(", ")} == unbeaten


def test_bins_of_the_validation_are_its_metrics(single: optuna.Study) -> None:
    values = validation_values(0.2)
    best = Results(single).compared["best"].number
    rows = model_charts.validation(Results(single), {best: image_values(values, LABELS)})
    metrics = validation_means(values, LABELS)
    assert [(row["name"], row["severity"]) for row in rows[1:]] == [(n, s) for n in HELDOUT for s in SEVERITIES]
    for name in ("error", "ece"):
        assert rows[0][name] == pytest.approx(metrics[f"clean_{name}"])
        assert np.mean([row[name] for row in rows[1:]]) == pytest.approx(metrics[f"corrupted_{name}"])
    assert model_charts.validation(Results(single), {best: {}}) == []
    assert model_charts.calibration([]) == model_charts.corruption_maps([], "plain") == []


def test_the_test_set(single: optuna.Study, full: str, evaluation: Path) -> None:
    best = f"best (trial {single.best_trial.number})"
    rows, metadata = read(evaluation)
    error = {row["model"]: row["error"] for row in rows if row["name"] == "gaussian_noise" and row["severity"] == 5}
    section = full[full.index("On the test set</h2>") : full.index("Calibration on validation images</h2>")]
    difference = 100 * (error[best] - error["plain"])
    assert f"gaussian noise, 5: {difference:+.1f}".replace("-", "−") in section
    assert f"gaussian noise, 5: {100 * error['plain']:.1f}<" in section
    for row in rows:
        if row["kind"] == "clean":
            assert f"<td>{100 * row['error']:#.4g}</td>" in section
    assert 'class="warning"' not in section
    assert f"on the test set, {best}" in full
    results = Results(make_study(3))
    parts = model_charts.test_set(results, rows, metadata | {"fingerprint": "another", "verified": False})
    warnings = [part for part in parts if 'class="warning"' in part]
    assert len(warnings) == 3
    for warning, text in zip(warnings, ("not of the data set", "is not the best any more", "not checked"), strict=True):
        assert text in warning
    assert model_charts.test_tiles(results, rows, metadata) == []


def test_unverified_data_is_told_at_the_top() -> None:
    page = html_report.page(Results(make_study(3, verified=False)))
    assert page.index("UNVERIFIED DATA") < page.index("<h1>")
    assert "UNVERIFIED DATA" not in html_report.page(Results(make_study(3)))


def test_sections_of_others_stand_after_the_answer(single: optuna.Study) -> None:
    extra = Section("Confirmation, S = 5", [paragraph("Five seeds."), table(["", "mean"], [["best", "1.2"]])])
    page = html_report.page(Results(single), extra=[extra])
    assert headings(page)[0] == "Confirmation, S = 5"
    assert 'id="confirmation-s-5"' in page


def test_a_page_of_no_sweep() -> None:
    page = document("A grid", [paragraph("Which?", "answer")], [Section("Means", [table([], [["a", "b"]])])])
    assert "<h1>A grid</h1>" in page
    assert "<thead>" not in page
    Tree(page)


def coordinates(chart: str, attribute: str) -> list[float]:
    return [float(value) for value in re.findall(rf'{attribute}="([-\d.]+)"', chart)]


def test_intervals_are_drawn_to_scale() -> None:
    rows = [
        IntervalRow("a", Mean(-1.0, -2.0, 0.0, 5), "best", "−1"),
        IntervalRow("b", Mean(2.0, math.nan, math.nan, 1), "paper"),
    ]
    chart = charts.interval_chart("name", rows, "difference")
    span = re.search(r'<line x1="([\d.]+)" y1="[\d.]+" x2="([\d.]+)" y2="[\d.]+" class="span">', chart)
    zero = re.search(r'<line x1="([\d.]+)" [^>]*class="zero">', chart)
    marks = [float(x) for x in re.findall(r"translate\(([\d.]+) ", chart)]
    assert span is not None
    assert zero is not None
    low, high = float(span[1]), float(span[2])
    assert chart.count('class="span"') == 1, "no interval without ends"
    assert high == pytest.approx(float(zero[1]), abs=0.1)
    assert marks[0] == pytest.approx((low + high) / 2, abs=0.1)
    assert marks[1] - high == pytest.approx(high - low, abs=0.2)


def test_lines_break_where_there_is_no_value_and_marks_stand_on_the_axes() -> None:
    line = Line([(0, 0), (1, 1), (2, math.nan), (3, 3), (4, 4)], "best", "line", 7)
    marks = [Mark(0, 0, "plain", "low"), Mark(4, 4, "plain", "high"), Mark(1, math.nan, "plain", "nowhere")]
    chart = charts.plot("name", Linear(0, 4), Linear(0, 4), labels=("x", "y"), lines=[line], marks=marks)
    path = re.search(r'd="([^"]+)" class="line best" data-trial="7"', chart)
    assert path is not None
    assert re.findall("[ML]", path[1]) == ["M", "L", "M", "L"]
    corners = [tuple(map(float, pair)) for pair in re.findall(r"translate\(([\d.]+) ([\d.]+)\)", chart)]
    ends = [tuple(map(float, pair.split())) for pair in re.split("[ML]", path[1])[1:]]
    assert corners == [ends[0], ends[-1]]
    assert corners[0][0] < corners[1][0]
    assert corners[0][1] > corners[1][1]
    assert "nowhere" not in chart


def test_heat_maps_colour_by_value_and_show_what_is_missing() -> None:
    values = np.array([[-3.0, 0.0], [3.0, math.nan]])
    chart = charts.heat_map("n", ["a", "b"], ["1", "2"], values, (-3, 3), "points", diverging=True)
    assert re.findall(r'class="(cell d\d|mid)"><title>([^<]*)', chart) == [
        ("cell d0", "a, 1: −3.0"),
        ("cell d4", "a, 2: +0.0"),
        ("cell d8", "b, 1: +3.0"),
        ("mid", "b, 2: –"),
    ]
    chart = charts.heat_map("n", ["a"], ["1", "2"], np.array([[0.0, 50.0]]), (0, 50), "error")
    assert re.findall(r"cell (h\d)", chart) == ["h0", "h8"]


# ---- in a browser

needs_browser = pytest.mark.skipif(BROWSER is None, reason="no Chromium or Chrome is installed")
WIDTHS = (360, 1280)
MEASURE = """
const rgb = text => (text.match(/[\\d.]+/g) || []).map(Number);
const luminance = c => c.slice(0, 3).map(v => v / 255).map(v => v <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4)
  .reduce((sum, v, i) => sum + v * [.2126, .7152, .0722][i], 0);
const ground = node => {
  const cell = node.closest(".cell");
  if (cell && cell.querySelector("rect")) return rgb(getComputedStyle(cell.querySelector("rect")).fill);
  for (; node; node = node.parentElement) {
    const c = rgb(getComputedStyle(node).backgroundColor);
    if (c.length === 3 || c[3] === 1) return c;
  }
};
const faint = [];
for (const node of document.querySelectorAll("body *")) {
  const own = [...node.childNodes].some(n => n.nodeType === 3 && n.data.trim());
  if (!own || ["SCRIPT", "title"].includes(node.tagName)) continue;
  const style = getComputedStyle(node);
  const a = luminance(rgb(node.closest("svg") ? style.fill : style.color)), b = luminance(ground(node));
  const ratio = (Math.max(a, b) + .05) / (Math.min(a, b) + .05);
  if (!(ratio >= 4.5)) faint.push(`${node.tagName} ${node.getAttribute("class")} ${node.textContent}: ${ratio}`);
}
for (const one of document.querySelectorAll("details")) one.open = true;
const tops = [...document.querySelectorAll("h2")].map(h => [h.textContent, h.getBoundingClientRect().height]);
const width = document.documentElement.clientWidth;
const inBox = node => node.closest(".scroll") || node.closest("svg");
const outside = [...document.querySelectorAll("body *")]
  .filter(n => !inBox(n) && n.getBoundingClientRect().right > width + .5).map(n => n.outerHTML.slice(0, 120));
const grid = document.querySelector("table.sortable");
const order = () => [...grid.tBodies[0].rows].map(r => r.cells[2].textContent);
const before = order();
grid.tHead.rows[0].cells[2].querySelector("button").click();
const up = order();
grid.tHead.rows[0].cells[2].querySelector("button").click();
const mark = document.querySelector("g[data-trial]");
mark.dispatchEvent(new PointerEvent("pointerover", {bubbles: true}));
parent.postMessage({
  width, scroll: document.documentElement.scrollWidth, outside, faint: [...new Set(faint)], tops,
  before, up, down: order(),
  lit: new Set([...document.querySelectorAll(".lit")].map(n => n.dataset.trial)).size,
  litCharts: new Set([...document.querySelectorAll(".lit")].map(n => n.closest("svg"))).size,
  page: getComputedStyle(document.body).backgroundColor, title: document.title,
  resources: performance.getEntriesByType("resource").map(e => e.name),
  small: Math.min(...[...document.querySelectorAll("svg text")].filter(t => t.textContent.trim())
    .map(t => 12 * t.getScreenCTM().a)),
}, "*");
"""
FRAME = """<!doctype html><body style="margin:0"><pre id="out"></pre><script>
const found = [];
addEventListener("message", event => {
  found.push(event.data);
  document.getElementById("out").textContent = JSON.stringify(found);
});
</script>%s</body>"""


def chromium(folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    assert BROWSER is not None
    fixed = ("--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--enable-logging=stderr")
    command = [BROWSER, *fixed, f"--user-data-dir={folder / 'profile'}", "--virtual-time-budget=10000", *options]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


def console(run: subprocess.CompletedProcess[str]) -> list[str]:
    return [line for line in run.stderr.splitlines() if "CONSOLE" in line]


def open_at_all_widths(page: str, folder: Path, scheme: int) -> list[dict[str, Any]]:
    """What a page measures of itself in frames as wide as `WIDTHS`; its policy stays in force, and allows the ruler."""
    digest = base64.b64encode(hashlib.sha256(MEASURE.encode()).digest()).decode()
    copy = page.replace("script-src ", f"script-src 'sha256-{digest}' ").replace(
        "</body>", f"<script>{MEASURE}</script></body>"
    )
    (folder / "copy.html").write_text(copy, encoding="utf-8")
    frames = "".join(f'<iframe src="copy.html" style="width:{w}px;height:900px;border:0"></iframe>' for w in WIDTHS)
    (folder / "frame.html").write_text(FRAME % frames, encoding="utf-8")
    run = chromium(
        folder, f"--blink-settings=preferredColorScheme={scheme}", "--dump-dom", (folder / "frame.html").as_uri()
    )
    assert console(run) == []
    out = re.search(r'<pre id="out">(.*?)</pre>', run.stdout, flags=re.DOTALL)
    assert out is not None, run.stderr[-2000:]
    return sorted(json.loads(html.unescape(out[1])), key=lambda found: found["width"])


@needs_browser
@pytest.mark.parametrize(("scheme", "dark"), [(0, True), (1, False)], ids=["dark", "light"])
def test_in_a_browser(full: str, tmp_path: Path, scheme: int, dark: bool) -> None:
    found = open_at_all_widths(full, tmp_path, scheme)
    assert [one["width"] for one in found] == list(WIDTHS)
    for one in found:
        assert one["scroll"] == one["width"], "the page scrolls sideways"
        assert one["outside"] == []
        assert one["faint"] == []
        assert one["resources"] == []
        assert [text for text, _ in one["tops"]] == SECTIONS
        assert all(height > 10 for _, height in one["tops"])
        numbers = [float(v) if v != "–" else math.inf for v in one["up"]]
        assert numbers == sorted(numbers)
        assert [v for v in one["down"] if v != "–"] == [v for v in one["up"] if v != "–"][::-1]
        assert one["before"] != one["down"]
        assert one["lit"] == 1
        assert one["litCharts"] > 3
        assert one["small"] >= 9, "pixels of the smallest text in a chart"
        brightness = sum(map(int, re.findall(r"\d+", one["page"])[:3])) / 3
        assert (brightness < 60) == dark


@needs_browser
def test_hostile_names_do_nothing_in_a_browser(tmp_path: Path) -> None:
    page = html_report.page(Results(hostile_study()))
    for one in open_at_all_widths(page, tmp_path, 1):
        assert one["title"].startswith("Was mollification worth it?")
        assert one["scroll"] == one["width"]
        assert one["outside"] == []
        assert one["resources"] == []


@needs_browser
def test_a_picture_of_the_page(full: str, tmp_path: Path) -> None:
    (tmp_path / "report.html").write_text(full, encoding="utf-8")
    run = chromium(
        tmp_path,
        "--window-size=1280,1600",
        f"--screenshot={tmp_path / 'page.png'}",
        (tmp_path / "report.html").as_uri(),
    )
    assert console(run) == []
    picture = matplotlib.image.imread(tmp_path / "page.png")[..., :3]
    assert picture.shape[:2] == (1600, 1280)
    colours = set(np.unique((255 * picture).round().astype(int) @ [0x10000, 0x100, 1]).tolist())
    assert len(colours) > 100
    assert colours >= {0xD55E00, 0x0072B2}, "the best trial, the paper's schedule"
