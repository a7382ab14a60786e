"""The report of an evaluation, over rows that the real metrics compute from seeded predictions.

Numbers are checked against means and calibration errors that this file computes from the predictions by itself.
"""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import matplotlib.image
import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
import torch
from matplotlib.figure import Figure
from scipy import stats

from evaluations import CLASSES, IMAGES, LEVELS, MODELS, NAMES, Rows, metadata_of, predictions, rows_of, truth
from mollify_core.corruptions.benchmark import BENCHMARK, CORRUPTIONS, EXTRA, GROUPS
from mollify_core.errors import ConfigError, DataError, StorageError
from mollify_core.matching.distortions import KINDS
from mollify_core.measure import evaluation
from mollify_sweeps.display import figures as figures_
from mollify_sweeps.evaluation import corruption_plots, distortion_plots, report
from mollify_sweeps.evaluation import rows as rows_


@pytest.fixture(scope="module")
def predicted() -> dict[str, dict]:
    torch.set_num_threads(1)
    return {label: predictions(model) for label, model in MODELS.items()}


@pytest.fixture(scope="module")
def rows(predicted: dict[str, dict]) -> Rows:
    return [row for label, found in predicted.items() for row in rows_of(label, found)]


@pytest.fixture(scope="module")
def metadata() -> dict[str, Any]:
    return metadata_of(MODELS)


@pytest.fixture(scope="module")
def written(rows: Rows, metadata: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Path]]:
    folder = tmp_path_factory.mktemp("report") / "evaluation"
    some = [row for row in rows if row["model"] == "best (trial 7)"]
    return folder, report.write(some, metadata, folder, dpi=50, focus=2)


def tables(text: str) -> list[list[list[str]]]:
    """The Markdown tables of a text, cell by cell; asserts that each is well-formed."""
    found = []
    for block in re.findall(r"(?:^\|.*\n?)+", text, flags=re.MULTILINE):
        lines = [re.split(r"(?<!\\)\|", line)[1:-1] for line in block.splitlines()]
        table = [[cell.strip() for cell in line] for line in lines]
        assert len({len(line) for line in table}) == 1, block
        assert all(re.fullmatch(r":?-{3,}:?", cell) for cell in table[1])
        found.append([table[0], *table[2:]])
    return found


def table(text: str, heading: str, which: int = 0) -> dict[str, dict[str, str]]:
    """Row -> column -> text of a table below a heading."""
    (section,) = re.findall(rf"^## {re.escape(heading)}.*?\n(.*?)(?=^## |\Z)", text, flags=re.MULTILINE | re.DOTALL)
    header, *lines = tables(section)[which]
    return {line[0]: dict(zip(header[1:], line[1:], strict=True)) for line in lines}


def error(log_probabilities: torch.Tensor) -> float:
    return float(np.mean(log_probabilities.numpy().argmax(axis=1) != truth().numpy()))


def nll(log_probabilities: torch.Tensor) -> float:
    return float(
        -np.mean([line[label] for line, label in zip(log_probabilities.numpy(), truth().tolist(), strict=True)])
    )


def ece(log_probabilities: torch.Tensor) -> float:
    """Guo et al. 2017, bin by bin."""
    values = np.exp(log_probabilities.numpy().astype(np.float64))
    right, confidence = values.argmax(axis=1) == truth().numpy(), values.max(axis=1)
    bins = np.digitize(confidence, np.linspace(0, 1, 16)[1:-1])
    gaps = [(bins == b).mean() * abs(right[bins == b].mean() - confidence[bins == b].mean()) for b in np.unique(bins)]
    return float(np.sum(gaps))


def means(found: dict, measure: Any, **where: Any) -> float:
    return float(np.mean([measure(p) for c, p in found.items() if all(getattr(c, k) == v for k, v in where.items())]))


def corrupted(found: dict) -> dict:
    return {cell: values for cell, values in found.items() if cell.name in BENCHMARK}


def same(one: Any, other: Any) -> bool:
    """Equality of plain values in which NaN equals NaN."""
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list):
        return len(one) == len(other) and all(map(same, one, other))
    return one == other or (one != one and other != other)


# ---------------------------------------------------------------------------------------------------- the table


def test_parquet_round_trip(written: tuple[Path, list[Path]], rows: Rows, metadata: dict[str, Any]) -> None:
    path = written[0] / "evaluation.parquet"
    again, about = rows_.read(path)
    assert same([row for row in rows if row["model"] == "best (trial 7)"], again)
    assert about == metadata
    schema = pa.parquet.read_schema(path)
    assert schema.equals(rows_.SCHEMA)
    assert schema.field("bin_count").type == pa.list_(pa.int64())
    assert schema.field("severity").type == pa.int64()


def test_a_table_gives_the_same_report_as_its_rows(rows: Rows, metadata: dict[str, Any], tmp_path: Path) -> None:
    clean = [row for row in rows if row["kind"] == "clean" and row["model"] == "plain"]
    arrow = pa.Table.from_pylist(clean)
    report.write(clean, metadata, tmp_path / "rows", dpi=20)
    report.write(arrow, metadata, tmp_path / "table", dpi=20)
    assert same(*(rows_.read(tmp_path / kind / "evaluation.parquet")[0] for kind in ("rows", "table")))
    one, other = ((tmp_path / kind / "summary.md").read_text() for kind in ("rows", "table"))
    assert one == other


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda rows: [], "at least one cell"),
        (lambda rows: [{k: v for k, v in rows[0].items() if k != "nll"}], r"missing or too many are \['nll'\]"),
        (lambda rows: [{**rows[0], "seconds": 1.0}], r"missing or too many are \['seconds'\]"),
        (lambda rows: [{**rows[0], "error": "few"}], "types"),
        (lambda rows: [{**rows[0], "ece": None}], "`ece` has nulls"),
        (lambda rows: [rows[0], dict(rows[0])], "comes twice"),
        (lambda rows: [{**rows[0], "class_confidence": [0.5]}], "10 classes"),
    ],
)
def test_bad_rows_are_refused_before_anything_is_written(
    change: Any, message: str, rows: Rows, metadata: dict[str, Any], tmp_path: Path
) -> None:
    with pytest.raises(DataError, match=message):
        report.write(change(rows), metadata, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_bad_metadata_is_refused(rows: Rows, metadata: dict[str, Any], tmp_path: Path) -> None:
    rows = [row for row in rows if row["kind"] == "clean"]
    with pytest.raises(DataError, match="`verified`"):
        report.write(rows, {k: v for k, v in metadata.items() if k != "verified"}, tmp_path)
    with pytest.raises(ConfigError, match="did you mean 'plain'"):
        report.write(rows, {**metadata, "reference": "plian"}, tmp_path)
    for focus in (-1, 10):
        with pytest.raises(ConfigError, match=r"in 0 \.\. 9"):
            report.write(rows, metadata, tmp_path, focus=focus)
    assert not list(tmp_path.iterdir())


def test_storage_errors(rows: Rows, metadata: dict[str, Any], tmp_path: Path) -> None:
    rows = [row for row in rows if row["kind"] == "clean"]
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StorageError, match="Cannot write"):
        report.write(rows, metadata, tmp_path / "file" / "report")
    with pytest.raises(StorageError, match="Cannot read"):
        rows_.read(tmp_path / "missing.parquet")
    with pytest.raises(DataError, match="Parquet"):
        rows_.read(tmp_path / "file")
    pa.parquet.write_table(pa.table({"x": [1]}), tmp_path / "other.parquet")
    with pytest.raises(DataError, match="hold an evaluation"):
        rows_.read(tmp_path / "other.parquet")


# -------------------------------------------------------------------------------------------------- the summary


@pytest.fixture(scope="module")
def text(rows: Rows, metadata: dict[str, Any]) -> str:
    return report.summary(rows, metadata)


def test_errors_are_those_of_the_predictions(text: str, predicted: dict[str, dict]) -> None:
    found = table(text, "Error")
    assert list(found) == list(MODELS)
    for label, line in found.items():
        benchmark = corrupted(predicted[label])
        assert len(benchmark) == 75
        assert line["clean"] == f"{100 * means(predicted[label], error, kind='clean'):.2f}"
        assert line["corrupted"] == f"{100 * means(benchmark, error):.2f}"
        for group in GROUPS:
            assert line[group] == f"{100 * means(benchmark, error, group=group):.2f}"
        assert line["extra"] == f"{100 * means(predicted[label], error, group='extra'):.2f}"
        ratios = [
            means(benchmark, error, name=name) / means(corrupted(predicted["plain"]), error, name=name)
            for name in BENCHMARK
        ]
        assert line["mCE"] == f"{100 * np.mean(ratios):.2f}"
        wrong = round(IMAGES * means(predicted[label], error, kind="clean"))
        interval = stats.binomtest(wrong, IMAGES).proportion_ci(method="wilson")
        assert line["95 % interval"] == f"{100 * interval.low:.2f} to {100 * interval.high:.2f}"
    assert found["plain"]["mCE"] == "100.00"
    assert float(found["best (trial 7)"]["corrupted"]) < float(found["plain"]["corrupted"])


def test_probabilities_are_those_of_the_predictions(text: str, predicted: dict[str, dict]) -> None:
    one_hot = torch.nn.functional.one_hot(truth(), CLASSES)
    for heading, part in (("Clean images", None), ("Corrupted images, mean of 75 of 75 cells", corrupted)):
        for label, line in table(text, heading).items():
            cells = part(predicted[label]) if part else {c: p for c, p in predicted[label].items() if c.kind == "clean"}
            assert line["NLL"] == f"{means(cells, nll):.4f}"
            assert line["ECE (%)"] == f"{100 * means(cells, ece):.2f}"
            scaled = {cell: torch.log_softmax(values / 1.5, dim=1) for cell, values in cells.items()}
            assert line["scaled NLL"] == f"{means(scaled, nll):.4f}"
            assert line["scaled ECE (%)"] == f"{100 * means(scaled, ece):.2f}"
            assert line["temperature"] == "1.5000"
            brier = means(cells, lambda values: float((values.exp() - one_hot).square().sum(dim=1).mean()))
            assert line["Brier score"] == f"{brier:.4f}"
            assert "sink mass" not in line


def test_tables_by_severity_and_by_level(text: str, predicted: dict[str, dict]) -> None:
    found = table(text, "By severity")
    robust, gap = (table(text, "Robust accuracy under distortion", which) for which in (0, 1))
    for label, cells in predicted.items():
        for severity in range(1, 6):
            line = f"severity {severity}"
            assert (
                found[f"error (%): {label}"][line] == f"{100 * means(corrupted(cells), error, severity=severity):.2f}"
            )
            assert found[f"NLL: {label}"][line] == f"{means(corrupted(cells), nll, severity=severity):.4f}"
        assert found[f"ECE (%): {label}"]["clean"] == f"{100 * means(cells, ece, kind='clean'):.2f}"
        for kind in KINDS:
            for level in LEVELS:
                values = cells[evaluation.Cell("distortion", kind, level=level)]
                over = float(values.exp().amax(dim=1).double().mean()) - (1 - error(values))
                assert robust[f"{kind}: {label}"][f"d = {level:.3g}"] == f"{100 * (1 - error(values)):.2f}"
                assert float(gap[f"{kind}: {label}"][f"d = {level:.3g}"]) == pytest.approx(100 * over, abs=0.0051)


def test_the_answer_comes_first_and_differences_are_right(text: str, predicted: dict[str, dict]) -> None:
    opening = text[: text.index("## Error")]
    assert "Which model errs least" in opening
    values = {label: means(corrupted(cells), error) for label, cells in predicted.items()}
    best = min(values, key=lambda label: values[label])
    assert f"error {100 * values[best]:.2f} % ({best})" in opening
    (header, *lines), *_ = tables(opening)
    assert header[0] == "difference to plain (not mollified); below 0 is better"
    assert [line[0] for line in lines] == ["paper (mollified)", "best (trial 7) (mollified)"]
    for label, line in zip(list(MODELS)[1:], lines, strict=True):
        shown = dict(zip(header, line, strict=True))
        for measure, name, factor in ((error, "corrupted error (points)", 100), (nll, "corrupted NLL", 1)):
            own, other = (means(corrupted(predicted[which]), measure) for which in (label, "plain"))
            assert float(shown[name]) == pytest.approx(factor * (own - other), abs=0.006)
    assert "no interval here" in opening


def test_biased_estimators_stand_apart(text: str, rows: Rows) -> None:
    found = table(text, "Biased estimators of the papers' own code")
    assert "**Biased" in text
    for label, line in found.items():
        for kind, names in (("clean", [""]), ("corrupted", BENCHMARK)):
            own = [row for row in rows if row["model"] == label and row["name"] in names]
            for column, title in (("batch_mean_ece", "batch mean"), ("matching_ece", "batch and bin mean")):
                assert line[f"{kind}, {title}"] == f"{100 * np.mean([row[column] for row in own]):.2f}"
    before = text[: text.index("## Biased")]
    assert "batch mean" not in before


def test_summary_says_what_the_data_is_and_where_the_numbers_come_from(text: str) -> None:
    data = text[text.index("## Data") :]
    assert "equal the official ones" in data
    assert "made here from the clean test images" in data
    assert "75 of 75 cells, each of 300 images" in data
    assert "constants of evaluation, in [0, 1] before normalisation" in data
    for fact in (
        "0f1e2d3c4b5a",
        "00112233aabbccdd",
        "s3://bucket/2/epoch-0009",
        "abc1234",
        "torch 2.9.0",
        '"lr": 0.01',
    ):
        assert fact in data
    assert "UNVERIFIED" not in text


def test_every_table_is_well_formed_whatever_the_labels(rows: Rows) -> None:
    odd = {"plain": "a|b\nc", "paper": "$x_1$ & _y_", "best (trial 7)": "模型 " + "long " * 20}
    renamed = [{**row, "model": odd[row["model"]]} for row in rows]
    found = tables(report.summary(renamed, metadata_of(odd.values())))
    assert len(found) == 13
    assert found[1][1][0] == r"a\|b c"


def test_unverified_published_official_and_sink(rows: Rows, predicted: dict[str, dict]) -> None:
    own = [
        {**r, "source": "official" if r["kind"] == "corruption" else r["source"]}
        for r in rows_of("sunk", predicted["plain"], sink=True)
    ]
    about = metadata_of(["sunk"], verified=False, published_distortions=True)
    text = report.summary(own, about)
    assert text.startswith("> **UNVERIFIED DATA")
    assert "were NOT checked" in text
    assert "on normalised images, as the published script does by mistake" in text
    assert "the official, published arrays" in text
    assert table(text, "Clean images")["sunk"]["sink mass"] == "0.1250"


def test_means_take_only_the_cells_that_all_models_have(rows: Rows, metadata: dict[str, Any], predicted: dict) -> None:
    some = [
        r
        for r in rows
        if not (r["model"] == "paper" and (r["name"] == "frost" or (r["name"], r["severity"]) == ("fog", 5)))
    ]
    text = report.summary(some, metadata)
    assert "69 of 75 cells that all models have (missing: frost; fog at severity 5)" in text
    for label, line in table(text, "Error").items():
        left = {
            c: p
            for c, p in corrupted(predicted[label]).items()
            if c.name != "frost" and (c.name, c.severity) != ("fog", 5)
        }
        assert len(left) == 69
        assert line["corrupted"] == f"{100 * means(left, error):.2f}"
    # a model that was never put to corruptions does not take them away from the others
    some = [r for r in rows if not (r["model"] == "paper" and r["kind"] == "corruption")]
    found = table(report.summary(some, metadata), "Error")
    assert (found["paper"]["corrupted"], found["paper"]["mCE"]) == ("–", "–")
    assert found["plain"]["corrupted"] == f"{100 * means(corrupted(predicted['plain']), error):.2f}"
    # nor does a reference without them break the report
    found = table(report.summary(some, {**metadata, "reference": "paper"}), "Error")
    assert found["plain"]["mCE"] == "–"


# ---------------------------------------------------------------------------------------------------- the plots


def draw(rows: Rows, metadata: dict[str, Any]) -> dict[str, Figure]:
    return corruption_plots.draw(rows, metadata) | distortion_plots.draw(rows, metadata)


def test_every_plot_is_written_and_shows_something(written: tuple[Path, list[Path]]) -> None:
    folder, files = written
    expected = {"error_by_severity", "error_by_group", "general_metrics_comparison", "distortion_calibration"}
    expected |= {"risk_coverage"}
    expected |= {f"robust_acc_vs_{kind}" for kind in KINDS} | {f"confidence_vs_{kind}_class2" for kind in KINDS}
    for kind in ("reliability", "corruptions", "robust_acc_per_dist", "confidence_per_dist_class2", "distortions"):
        expected |= {f"{kind}_best-trial-7"}
    expected |= {"class_confidence_best-trial-7"}
    plots = {path.stem: path for path in files if path.suffix == ".png"}
    assert plots.keys() == expected
    assert set(files) == {path for path in folder.rglob("*") if path.is_file()}
    for path in plots.values():
        image = matplotlib.image.imread(path)[:, :, :3]
        assert min(image.shape[:2]) > 160
        assert len(np.unique(image.reshape(-1, 3) @ [1, 256, 65536])) > 50
        assert 0.01 < (image < 0.95).any(axis=2).mean() < 0.9


def test_lines_by_severity_are_those_of_the_predictions(rows: Rows, metadata: dict[str, Any], predicted: dict) -> None:
    figure = corruption_plots.by_severity(rows, metadata)
    assert figure is not None
    axes = np.array(figure.axes).reshape(3, 5)
    assert [panel.get_title("left") for panel in axes[0]] == ["all corruptions", *GROUPS]
    for panels, measure, factor in zip(axes, (error, ece, nll), (100, 100, 1), strict=True):
        assert panels[0].get_ylim()[0] == 0
        for panel, where in zip(panels, ({}, *({"group": group} for group in GROUPS)), strict=True):
            for line, (label, cells) in zip(panel.get_lines(), predicted.items(), strict=True):
                expected = [means(corrupted(cells), measure, severity=s, **where) for s in range(1, 6)]
                clean = means(cells, measure, kind="clean")
                assert line.get_label() == label
                np.testing.assert_array_equal(line.get_xdata(), range(6))
                np.testing.assert_allclose(line.get_ydata(), factor * np.array([clean, *expected]), rtol=1e-5)


def test_bars_by_group_and_general_metrics(rows: Rows, metadata: dict[str, Any], predicted: dict) -> None:
    figure = corruption_plots.by_group(rows, metadata)
    assert figure is not None
    assert [t.get_text() for t in figure.axes[2].get_xticklabels()][-2:] == [
        "mean of\n75 cells",
        "extra\n(not in the mean)",
    ]
    for bars, cells in zip(figure.axes[1].containers, predicted.values(), strict=True):
        sets = [means(cells, ece, kind="clean"), *(means(cells, ece, group=group) for group in GROUPS)]
        sets += [means(corrupted(cells), ece), means(cells, ece, group="extra")]
        np.testing.assert_allclose([bar.get_height() for bar in bars], 100 * np.array(sets), rtol=1e-5)
    figure = distortion_plots.general_metrics(rows, metadata)
    assert figure is not None
    for panel, measure in zip(figure.axes[::2], (lambda p: 100 - 100 * error(p), nll), strict=True):
        heights = [means(cells, measure, kind="clean") for cells in predicted.values()]
        np.testing.assert_allclose([bar.get_height() for bars in panel.containers for bar in bars], heights, rtol=1e-5)
        digits = 3 if measure is nll else 2
        assert [label.get_text() for label in panel.texts] == [f"{height:.{digits}f}" for height in heights]


def test_reliability_pools_all_cells(rows: Rows, metadata: dict[str, Any], predicted: dict) -> None:
    figure = corruption_plots.reliability(rows, metadata, "plain")
    assert figure is not None
    upper, lower = figure.axes[1], figure.axes[3]
    values = np.exp(torch.cat(list(corrupted(predicted["plain"]).values())).numpy().astype(np.float64))
    confidence, right = values.max(axis=1), values.argmax(axis=1) == np.tile(truth().numpy(), 75)
    bins = np.digitize(confidence, np.linspace(0, 1, 16)[1:-1])
    counts = np.bincount(bins, minlength=15)
    np.testing.assert_allclose([bar.get_height() for bar in lower.patches], 100 * counts / len(bins), rtol=1e-5)
    accuracy = [100 * right[bins == b].mean() if counts[b] else 0 for b in range(15)]
    np.testing.assert_allclose([bar.get_height() for bar in upper.containers[0]], accuracy, rtol=1e-5)
    pooled = sum(counts[b] * abs(right[bins == b].mean() - confidence[bins == b].mean()) for b in np.unique(bins))
    cells = means(corrupted(predicted["plain"]), ece)
    expected = (
        f"ECE {100 * pooled / len(bins):.2f} %, all pooled\n{100 * cells:.2f} %, mean of the cells\n22,500 images"
    )
    assert [text.get_text() for text in upper.texts] == [expected]
    assert figure.axes[1].get_title("left") == "corrupted images, 75 cells"


def test_maps_show_errors_and_centred_differences_and_hatch_what_is_missing(
    rows: Rows, metadata: dict[str, Any], predicted: dict
) -> None:
    some = [row for row in rows if row["name"] != "frost"]
    figure = corruption_plots.corruption_map(some, metadata, "paper")
    assert figure is not None
    left, right = (panel.images[0] for panel in figure.axes[:2])
    for index, name in enumerate(CORRUPTIONS):
        for severity in range(1, 6):
            value, difference = (image.get_array()[index, severity - 1] for image in (left, right))
            if name == "frost":
                assert value is np.ma.masked
                assert difference is np.ma.masked
                continue
            own, other = (
                100 * error(predicted[label][evaluation.Cell("corruption", name, severity)])
                for label in ("paper", "plain")
            )
            assert value == pytest.approx(own, abs=1e-4)
            assert difference == pytest.approx(own - other, abs=1e-4)
    low, high = right.get_clim()
    assert low == -high
    assert figure.axes[0].patch.get_hatch()
    assert len(figure.axes[0].texts) == 5 * 18
    other = corruption_plots.corruption_map(some, metadata, "best (trial 7)")
    assert other is not None
    assert other.axes[1].images[0].get_clim() == (low, high)  # so that models compare
    alone = corruption_plots.corruption_map(some, metadata, "plain")
    assert alone is not None
    assert sum(len(panel.images) for panel in alone.axes) == 1  # the reference differs from nothing
    level = distortion_plots.level_map([r for r in rows if (r["name"], r["level"]) != ("blur", 0.5)], metadata, "paper")
    assert level is not None
    assert np.ma.getmaskarray(level.axes[0].images[0].get_array()).sum() == 1


def test_lines_by_level(rows: Rows, metadata: dict[str, Any], predicted: dict) -> None:
    figures = distortion_plots.draw(rows, metadata, focus=3)
    of_class = truth() == 3
    for label, line in zip(MODELS, figures["confidence_vs_dropout_class3"].axes[0].get_lines(), strict=True):
        cells = [predicted[label][evaluation.Cell("distortion", "dropout", level=level)] for level in LEVELS]
        expected = [100 * float(values[of_class, 3].exp().mean()) for values in cells]
        np.testing.assert_allclose(line.get_ydata(), expected, rtol=1e-4)
        own = next(
            x
            for x in figures["class_confidence_" + rows_.file_names(rows)[label]].axes
            if x.get_title("left") == "dropout"
        )
        np.testing.assert_allclose(own.get_lines()[3].get_ydata(), expected, rtol=1e-4)
        assert [text.get_label() for text in own.get_lines()] == NAMES
    for kind, line in zip(KINDS, figures["robust_acc_per_dist_paper"].axes[0].get_lines(), strict=True):
        cells = [predicted["paper"][evaluation.Cell("distortion", kind, level=level)] for level in LEVELS]
        np.testing.assert_allclose(line.get_ydata(), [100 - 100 * error(values) for values in cells], rtol=1e-5)
        assert line.get_label() == kind
    panels = np.array(figures["distortion_calibration"].axes).reshape(3, 4)
    accuracy, confidence = panels[2, 1].get_lines()
    cells = [predicted["best (trial 7)"][evaluation.Cell("distortion", "blur", level=level)] for level in LEVELS]
    np.testing.assert_allclose(accuracy.get_ydata(), [100 - 100 * error(values) for values in cells], rtol=1e-5)
    believed = [100 * float(values.exp().amax(dim=1).mean()) for values in cells]
    np.testing.assert_allclose(confidence.get_ydata(), believed, rtol=1e-4)


def test_many_classes_are_a_band_with_a_few_named() -> None:
    names = [f"class {index}" for index in range(100)]
    cells = {c: p for c, p in predictions(MODELS["plain"], classes=100).items() if c.kind == "distortion"}
    own, about = rows_of("m", cells), metadata_of(["m"], class_names=names)
    figure = distortion_plots.class_confidence(own, about, "m")
    assert figure is not None
    panel = figure.axes[0]
    assert len(panel.get_lines()) == 5
    found = np.array([row["class_confidence"] for row in own if row["name"] == "diffusion"])
    np.testing.assert_allclose(panel.get_lines()[0].get_ydata(), 100 * np.median(found, axis=1), rtol=1e-6)
    overall = np.mean([row["class_confidence"] for row in own], axis=0)
    assert panel.get_lines()[1].get_label() == names[int(np.argmax(overall))]
    assert panel.get_lines()[-1].get_label() == names[int(np.argmin(overall))]


def test_unverified_data_is_marked_on_every_plot(rows: Rows, metadata: dict[str, Any]) -> None:
    own = [row for row in rows if row["model"] == "paper"]
    figures = draw(own, {**metadata, "verified": False})
    assert len(figures) == 18
    for figure in figures.values():
        assert figure.get_suptitle().startswith("UNVERIFIED DATA\n")
    verified = distortion_plots.general_metrics(own, metadata)
    assert verified is not None
    assert verified.get_suptitle() == "cifar10: clean images"


def test_plots_of_missing_kinds_are_left_out(rows: Rows, metadata: dict[str, Any]) -> None:
    def names(**kinds: Any) -> set[str]:
        chosen = [r for r in rows if r["model"] == "plain" and all(r[k] in v for k, v in kinds.items())]
        assert tables(report.summary(chosen, metadata_of(["plain"])))
        return set(draw(chosen, metadata))

    assert names(kind=["clean"]) == {"reliability_plain", "general_metrics_comparison"}
    corruption = {"reliability_plain", "corruptions_plain", "error_by_group", "error_by_severity"}
    assert names(kind=["corruption"]) == corruption
    assert names(kind=["corruption"], name=EXTRA) == corruption - {"reliability_plain", "error_by_severity"}
    assert names(kind=["corruption"], name=["fog"], severity=[2]) == corruption
    only = names(kind=["distortion"], name=["mosaic"])
    assert "robust_acc_vs_mosaic" in only
    assert not any("blur" in name or "corruption" in name for name in only)


def test_a_class_without_images_and_a_model_without_distortions(rows: Rows, metadata: dict[str, Any]) -> None:
    def without(values: list[float]) -> list[float]:
        return [math.nan, *values[1:]]

    some = [r for r in rows if r["model"] == "paper" or (r["model"], r["kind"]) == ("plain", "clean")]
    some = [{**r, "class_confidence": without(r["class_confidence"])} for r in some]
    figures = distortion_plots.draw(some, metadata)
    assert not any(name.startswith("confidence_") for name in figures)
    (line,) = figures["robust_acc_vs_blur"].axes[0].get_lines()
    assert line.get_color() == figures_.PALETTE[1]  # a model keeps its colour
    assert "distortions_plain" not in figures


def test_eight_and_more_models_stay_apart_and_inside_the_figure(rows: Rows) -> None:
    labels = [f"presnet18-cifar10-noise-and-blur-seed-{index}" for index in range(9)]
    plain = [row for row in rows if row["model"] == "plain"]
    many = [{**row, "model": label} for label in labels for row in plain]
    about = metadata_of(labels)
    looks = {tuple(sorted(figures_.line_style(index).items())) for index in range(16)}
    assert len(looks) == 16
    for figure in (
        corruption_plots.by_severity(many, about),
        corruption_plots.by_group(many, about),
        distortion_plots.general_metrics(many, about),
        distortion_plots.against_level(many, about, "blur", "accuracy (%)", distortion_plots.accuracy),
    ):
        assert figure is not None
        figure.draw_without_rendering()
        (legend,) = figure.legends
        assert [text.get_text().replace("\n", "") for text in legend.get_texts()] == labels
        box = legend.get_window_extent()
        assert box.x0 >= 0
        assert box.x1 <= figure.bbox.x1
        assert box.y0 >= 0
        for panel in figure.axes:
            assert panel.get_tightbbox().y0 >= box.y1
            assert panel.get_window_extent().height > 60


def test_file_names_are_safe_and_differ(rows: Rows) -> None:
    def names(*labels: str) -> list[str]:
        return list(rows_.file_names([{"model": label} for label in labels]).values())

    assert names("best (trial 7)", "paper") == ["best-trial-7", "paper"]
    assert names("a/b", "a b", "A-B") == ["1-a-b", "2-a-b", "3-A-B"]
    assert names("../../x", "模型") == ["x", "model"]
    assert len(names("m" * 300)[0]) == 60
