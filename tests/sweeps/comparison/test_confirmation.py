"""Confirmation with further seeds: which recipes are crossed, what is said, and a whole one as a user runs it."""

from __future__ import annotations

import dataclasses
import io
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
from rich.console import Console

import status
from mollify_core.errors import ConfigError
from mollify_core.recipe import Recipe
from mollify_sweeps.comparison import confirmation, confirmed, crossing
from mollify_sweeps.comparison.confirmation import Confirmation
from mollify_sweeps.comparison.crossing import Cells, Plan
from mollify_sweeps.comparison.outlook import outlook
from mollify_sweeps.driver import publishing
from mollify_sweeps.driver.search import keep_matters
from mollify_sweeps.plan import rehearsal, runs, settle
from mollify_sweeps.plan.options import Confirm, Following, Keeping, RecipeOptions, Running, Search
from mollify_sweeps.plan.runs import Run
from mollify_sweeps.storage.store import SWEEP, Store
from mollify_sweeps.study.database import Location
from mollify_sweeps.study.description import Description, Started, describe
from mollify_sweeps.study.ledger import Ledger
from mollify_sweeps.study.results import Results
from mollify_sweeps.study.setup import Setup
from mollify_sweeps.study.space import Reference
from mollify_sweeps.study.study import SweepStudy
from places import ROOT
from search import main
from setups import described, fair_setup, run_trials, study_of
from studies import make_study

BASE = Recipe().with_(epochs=4, lr=0.02)
PLAN = Plan((), (Cells("noise", 0, 4, ("off a", "on a", "off b", "on b")),))


def study_of_runs(values: dict[str, list[float]], **sweep: Any) -> Ledger:
    """A finished study of runs, with a value a seed, from seed 1."""
    study = optuna.create_study()
    describe(study, described(**{"name": "s-confirm", "space": {}, **sweep}))
    for reference in runs.search([Run(name, {}) for name in values], [1, 2, 3, 4, 5]).references:
        name, _, seed = reference.name.rpartition(", seed ")
        if int(seed) > len(values[name]):
            continue
        value = values[name][int(seed) - 1]
        attrs = {"reference": reference.name, "metrics": {"clean_error": value / 10, "corrupted_nll": value}}
        study.enqueue_trial({}, user_attrs=attrs)
        study.tell(study.ask(), value)
    return Ledger.of(study)


def measured(study: Ledger, likes: dict[str, np.ndarray] | None = None) -> dict[int, dict[str, np.ndarray]]:
    """Values per image whose mean is each trial's value; `likes` are added to those of some runs."""
    rng = np.random.default_rng(0)
    images = rng.normal(0, 0.5, 400)
    images -= images.mean()
    found = {}
    for name, of in runs.completed(study).items():
        for trial in of.values():
            found[trial.number] = {"corrupted_nll": trial.values[0] + images + (likes or {}).get(name, 0.0)}
    return found


def read(values: dict[str, list[float]], plan: Plan = PLAN, matters: float = 0.01, **likes: np.ndarray) -> Confirmation:
    study = study_of_runs(values)
    plan = Plan(tuple(Run(name, {}) for name in values), plan.cells)
    named = {name.replace("_", " "): v for name, v in likes.items()}
    return confirmation.read(study, plan, matters, measured(study, named))


def cells(
    method: float, settings: float, spread: float = 0.01, seeds: int = 5, both: float = 0.0
) -> dict[str, list[float]]:
    """Four cells over seeds: the method's part, the other settings' part, and what it does more at b."""
    rng = np.random.default_rng(1)
    block = rng.normal(0, 0.1, seeds)
    centre = {"off a": 1.0, "on a": 1.0 + method, "off b": 1.0 + settings, "on b": 1.0 + settings + method + both}
    return {name: list(value + block + rng.normal(0, spread, seeds)) for name, value in centre.items()}


def test_every_run_has_every_seed_and_seeds_come_one_after_the_other() -> None:
    found = runs.search([Run("a", {"lr": 0.1}), Run("b", {})], [5, 6]).references
    assert [r.name for r in found] == ["a, seed 5", "b, seed 5", "a, seed 6", "b, seed 6"]
    assert found[2] == Reference("a, seed 6", {}, {"lr": 0.1, "seed": 6})
    with pytest.raises(ConfigError, match="'a' twice"):
        runs.search([Run("a", {}), Run("a", {"lr": 0.1})], [1])


def test_runs_are_found_by_name_and_seed() -> None:
    found = runs.completed(study_of_runs({"trial 7": [1.0, 2.0], "fcr+trivaug, off": [3.0]}))
    assert {name: {seed: t.values[0] for seed, t in of.items()} for name, of in found.items()} == {
        "trial 7": {1: 1.0, 2: 2.0},
        "fcr+trivaug, off": {1: 3.0},
    }


def test_an_earlier_commands_runs_count_too(tmp_path: Path) -> None:
    search = runs.search([Run("a", {}), Run("new", {})], [1])
    setup = fair_setup(tmp_path, BASE, 2, "plain", "noise", shares={})
    setup = type(setup)(**{**vars(setup), "searches": (search,)})

    @dataclasses.dataclass
    class Settled:
        setup: Any

    sweep: Any = Settled(setup)
    assert not sweep.setup.searched
    assert runs.widened(sweep, None).setup.trials == 2
    assert runs.widened(sweep, study_of_runs({"a": [1.0], "old": [1.0, 2.0]})).setup.trials == 4


def test_four_cells_and_three_parts_are_trained_of_each_method(tmp_path: Path) -> None:
    setup = fair_setup(tmp_path, BASE, 15, "plain", "mollification", "matching", shares={})
    run_trials(SweepStudy(setup))
    results = Results(study_of(setup))
    plan = crossing.plan(results, BASE, Confirm(2, 3, parts=True), lambda recipe: 0.25)
    recipes = {run.name: BASE.with_(run.settings) for run in plan.runs}
    assert len(recipes) <= crossing.most(Confirm(2, 3, parts=True), ["plain", "mollification", "matching"])
    shared = ("lr", "weight_decay")
    assert [found.words for found in plan.cells] == ["mollification", "information matching"]
    for found in plan.cells:
        off_a, on_a, off_b, on_b = (recipes[name] for name in found.crossed)
        assert off_a == crossing.recipe_of(results.compared["plain"])
        for off, on in ((off_a, on_a), (off_b, on_b)):
            assert all(off.get(name) == on.get(name) for name in shared)
            assert (off.method, off.label) == ("none", "hard")
        assert off_a.with_({n: off_b.get(n) for n in shared}) == off_b
        assert on_a.with_({n: on_b.get(n) for n in shared}) == on_b
        neither, image, label, uncoupled, coupled = (recipes[name] for name in found.parts)
        assert (neither, coupled) == (off_b, on_b)
        assert image == on_b.with_(label="hard")
        assert label == off_b.with_(label="fixed", fixed_epsilon=0.25, spread="all")
        assert uncoupled == on_b.with_(label="uncoupled")
    for name in ("plain", "mollification", "matching"):
        for trial in results.of_method(name)[:2]:
            assert recipes[f"trial {trial.number}"] == crossing.recipe_of(trial)


def test_without_shared_settings_two_cells_are_enough(tmp_path: Path) -> None:
    setup = fair_setup(tmp_path, BASE, 6, "plain", "noise", shares={})
    same = {name: r.space for name, r in ((s.name, s) for s in setup.searches)}
    assert same
    run_trials(SweepStudy(setup))
    results = Results(study_of(setup))
    for name in ("lr", "weight_decay"):
        del results.sweep.space[name]
    (found,) = crossing.plan(results, BASE, Confirm(0), lambda recipe: 0.0).cells
    assert found.crossed == (f"trial {found.plain}", f"trial {found.best}")


def test_a_sweep_of_version_0_1_is_crossed_with_its_reference() -> None:
    study = make_study(25)
    results = Results(study)
    plan = crossing.plan(results, Recipe().with_(dataset="cifar10"), Confirm(3), lambda recipe: 0.0)
    (found,) = plan.cells
    assert (found.plain, found.best) == (results.compared["plain"].number, results.compared["best"].number)
    assert len(found.crossed) == 4
    assert {f"trial {t.number}" for t in results.completed[:3]} <= {run.name for run in plan.runs}


def test_the_methods_part_and_the_settings_part_add_up() -> None:
    """Nine tenths of what the best with the method is better by are the other settings: it is said so."""
    found = read(cells(method=-0.02, settings=-0.18))
    (told,) = found.told
    rows = confirmation.estimates(told, "corrupted_nll")
    assert rows["noise itself"].value == pytest.approx(-0.02, abs=0.01)
    assert rows["the other settings"].value == pytest.approx(-0.18, abs=0.01)
    whole = rows["both: best against best"].value
    assert rows["noise itself"].value + rows["the other settings"].value == pytest.approx(whole)
    (sentence,) = confirmation.verdicts(found)
    assert sentence.startswith("Noise makes this classifier better: at the same other settings it changes")
    assert "over 5 seeds and 400 images" in sentence
    assert "use trial 4 (noise) rather than trial 0 (plain training)" in confirmation.advice(found)[0]
    page = str(confirmed.on_page(found)["extra"][0].parts)
    assert "the other settings" in page
    text = confirmed.summary(found)
    assert "# Confirmation of s\n" in text
    assert "| noise itself |" in text


def test_better_other_settings_alone_are_not_the_methods() -> None:
    found = read(cells(method=0.0, settings=-0.2, spread=0.002), matters=0.05)
    (sentence,) = confirmation.verdicts(found)
    assert sentence.startswith("Noise makes no difference that matters")
    assert "use trial 4" in confirmation.advice(found)[0], "a fact about the two recipes all the same"


def test_what_cannot_be_told_says_what_would_tell() -> None:
    found = read(cells(method=-0.02, settings=0.0, spread=0.05))
    (sentence,) = confirmation.verdicts(found)
    assert sentence.startswith("What noise does cannot be told from this")
    assert re.search(r"If it came out the same, \d+ seeds and [\d,]+ images would be likely to tell\.", sentence)


def test_it_may_depend_on_the_other_settings() -> None:
    found = read(cells(method=-0.1, settings=0.0, both=0.2))
    (sentence,) = confirmation.verdicts(found)
    assert sentence.startswith("What noise does depends on the other settings")
    assert "At the settings of plain training's best it is" in sentence


def test_images_that_differ_widen_the_interval() -> None:
    rng = np.random.default_rng(0)
    likes = rng.normal(0, 3.0, 400)
    likes -= likes.mean()
    values = cells(method=-0.05, settings=0.0)
    sure, unsure = read(values), read(values, on_a=likes, on_b=likes)
    claims = [found.told[0].claim for found in (sure, unsure)]
    assert [claim.word for claim in claims if claim] == ["better", "cannot be told"]


def test_the_coupling_is_claimed_beside_the_method_and_holm_corrects_for_both() -> None:
    rng = np.random.default_rng(2)
    values = cells(method=-0.05, settings=-0.05)
    for name, value in (("image", 0.97), ("label", 0.95), ("uncoupled", 0.93)):
        values[name] = list(value + rng.normal(0, 0.01, 5))
    parts = ("off b", "image", "label", "uncoupled", "on b")
    plan = Plan((), (Cells("noise", 0, 4, PLAN.cells[0].crossed, parts),))
    found = read(values, plan)
    (told,) = found.told
    assert told.claim is not None
    assert told.coupling is not None
    assert told.claim.corrected > told.claim.contrast.p or told.coupling.corrected > told.coupling.contrast.p
    rows = confirmation.parts(told, "corrupted_nll")
    assert rows["both, uncoupled"].value + rows["the coupling"].value == pytest.approx(rows["both, coupled"].value)
    assert "oupling of label and image" in confirmation.verdicts(found)[0]
    assert "## Which part of noise does it" in confirmed.summary(found)


def test_what_a_method_does_to_calibration_has_an_interval_over_seeds_and_images() -> None:
    """Of 400 images with a clean ECE of 0.2 off and 0.05 on, and a corrupted one of 0.3 and 0.1."""
    study, rng = study_of_runs(cells(method=-0.05, settings=0.0)), np.random.default_rng(0)
    values = measured(study)
    draw = rng.uniform(size=400)
    for name, of in runs.completed(study).items():
        gaps = np.array([[0.05], *[[0.1]] * 3] if name.startswith("on") else [[0.2], *[[0.3]] * 3])
        for trial in of.values():
            confidence = np.full((4, 400), 0.9)
            correct = draw < confidence - gaps - rng.normal(0, 0.004)
            values[trial.number] |= {"confidence": confidence.astype(np.float32), "correct": correct}
    plan = Plan(tuple(Run(name, {}) for name in PLAN.cells[0].crossed), PLAN.cells)
    found = confirmation.read(study, plan, 0.01, values)
    crossed = found.told[0].crossed
    for metric, truth in (("clean_ece", -0.15), ("corrupted_ece", -0.2)):
        method = crossed[metric].method
        assert method.low < truth < method.high < 0
        assert method.high - method.low < 0.2
    assert found.metric == "corrupted_nll"
    searched = study_of_runs(cells(method=-0.05, settings=0.0), objectives=("corrupted_ece",))
    assert confirmation.read(searched, plan, 0.01, values).metric == "corrupted_ece", "judged by what was searched for"
    assert confirmation.read(searched, plan, 0.01, measured(study)).metric == "corrupted_nll"
    assert found.told == confirmation.read(study, plan, 0.01, values).told, "one page is as another"
    (sentence,) = confirmation.calibrations(found)
    assert sentence.startswith("Calibration: at the same other settings noise changes the corrupted ECE by -")
    assert "points and the clean ECE by -" in sentence
    assert sentence in confirmed.summary(found)
    assert sentence in str(confirmed.on_page(found)["extra"][0].parts)
    assert "clean ECE (points)" in confirmed.summary(found)
    assert "images are drawn again" in confirmation.note(found)
    old = read(cells(-0.1, 0.0))
    assert confirmation.calibrations(old) == [], "kept by a version that kept no confidences"
    assert "ECE" not in confirmation.note(old)


def least(text: str) -> float:
    """The effect that it says could be told."""
    return float(re.search(r"an effect on the corrupted NLL of ([\d.]+)", text)[1])  # type: ignore[index]


def test_what_can_be_told_comes_from_the_anchors_or_from_seeds_that_are_there(tmp_path: Path) -> None:
    setup = fair_setup(tmp_path, BASE, 6, "plain", "noise", shares={})
    run_trials(SweepStudy(setup))
    results = Results(study_of(setup))
    plain, paper = results.anchors
    assert [t.user_attrs["reference"] for t in (plain, paper)] == ["plain default", "noise default"]
    plan = crossing.plan(results, BASE, Confirm(0), lambda recipe: 0.0)
    assert "comes from nothing that was measured" in outlook(results, {}, plan, Confirm(0))
    rng = np.random.default_rng(0)
    images = rng.normal(2.0, 1.0, 400)
    values = {
        plain.number: {"corrupted_nll": images},
        paper.number: {"corrupted_nll": images + rng.normal(0, 0.2, 400)},
    }
    unknown = outlook(results, values, plan, Confirm(0))
    assert unknown.startswith("5 seeds and 400 judging images: if no seed differed from another")
    assert least(unknown) == pytest.approx((1.96 + 0.84) * 0.2 / 20, rel=0.1)
    assert "5 seeds are proposed" in unknown
    earlier = read(cells(method=-0.1, settings=0.0, spread=0.05, seeds=3))
    known = outlook(results, values, plan, Confirm(0, 7), earlier)
    assert known.startswith("7 seeds and 400 judging images: as the 3 seeds that are there differ")
    assert 0.03 < least(known) < 0.1, "about 2.9 x 0.05 / sqrt(7), of a spread that three seeds show"
    assert "proposed" not in known


def test_below_two_seeds_there_is_no_answer() -> None:
    found = read({name: values[:1] for name, values in cells(-0.1, 0.0).items()})
    assert confirmation.verdicts(found) == [
        "There is no answer about noise: fewer than two seeds of its recipes have completed."
    ]
    assert "no method to confirm" in confirmation.verdicts(read({"a": [1.0, 1.1]}, Plan((), ())))[0]


def kept_search(folder: Path) -> Plan:
    """A search in `folder`/s; returns what its confirmation trains."""
    (folder / "s").mkdir()
    setup = fair_setup(folder / "s", BASE, 8, "plain", "noise", shares={})
    run_trials(SweepStudy(setup))
    Store(str(folder / "s")).write(SWEEP, setup.description.to_json())
    return crossing.plan(Results(study_of(setup)), BASE, Confirm(0), lambda recipe: 0.0)


def kept_confirmation(folder: Path, plan: Plan, trials: int, **description: Any) -> None:
    """Its confirmation with three seeds in `folder`/s-confirm, of which so many trainings have ended.

    The method makes every image better by 0.1, the other settings do nothing.
    """
    place = folder / "s-confirm"
    place.mkdir(exist_ok=True)
    search = runs.search(plan.runs, [1, 2, 3])
    location = Location.of_file(place / "study.sqlite")
    started = Started(command=(), cwd="", host="", trials=len(search.references))
    about = described(BASE, name="s-confirm", started=started, **description)
    setup = Setup(location, about, BASE, (search,), trials)
    run_trials(SweepStudy(setup))
    store, rng = Store(str(place)), np.random.default_rng(0)
    store.write(SWEEP, about.to_json())
    images = rng.normal(1.0, 0.2, 400)
    for trial in study_of(setup).get_trials((optuna.trial.TrialState.COMPLETE,)):
        on = trial.user_attrs["recipe"]["method"] != "none"
        values = io.BytesIO()
        np.savez(values, corrupted_nll=images - 0.1 * on + rng.normal(0, 0.002))
        store.write(f"trials/{trial.number:05d}/validation.npz", values.getvalue())


def page_of(folder: Path) -> str:
    assert status.main([str(folder / "s"), "--report", str(folder / "now.html")]) == 0
    return re.sub(r"<[^>]*>", "", (folder / "now.html").read_text())


def test_the_page_of_a_kept_search_shows_its_confirmation_as_far_as_it_has_gone(tmp_path: Path, capsys: Any) -> None:
    plan = kept_search(tmp_path)
    assert "trainings of the confirmation" not in page_of(tmp_path)
    kept_confirmation(tmp_path, plan, 1)
    begun = page_of(tmp_path)
    assert "Unfinished: 1 of 12 trainings of the confirmation have ended." in begun
    assert "There is no answer about mollification by noise: fewer than two seeds" in begun
    assert "What the search alone suggests" not in begun, "it still is the answer"
    kept_confirmation(tmp_path, plan, 8)
    half = page_of(tmp_path)
    assert "Unfinished: 8 of 12 trainings of the confirmation have ended." in half
    answer = "Mollification by noise makes this classifier better: at the same other settings it changes"
    assert half.index(answer) < half.index("What the search alone suggests")
    assert "over 2 seeds and 400 images" in half
    kept_confirmation(tmp_path, plan, 12)
    whole = page_of(tmp_path)
    assert "Unfinished" not in whole
    assert "over 3 seeds and 400 images" in whole
    (tmp_path / "s-confirm" / "sweep.json").unlink()
    (tmp_path / "s-confirm" / "study.sqlite").unlink()
    kept_confirmation(tmp_path, plan, 12, matters=0.5)
    other = page_of(tmp_path)
    margins = [float(re.search(r"A difference matters from ([\d.]+)", page)[1]) for page in (whole, other)]  # type: ignore[index]
    assert margins[1] / margins[0] == pytest.approx(50, rel=0.01), "0.01 where nothing else was said"
    assert status.main([str(tmp_path / "s-confirm"), "--report", str(tmp_path / "now.html")]) == 2
    assert "a confirmation stands on the page of its search" in capsys.readouterr().err


def test_a_kept_confirmation_is_read_by_the_names_of_its_runs(tmp_path: Path) -> None:
    setup = fair_setup(tmp_path, BASE, 6, "plain", "mollification", shares={})
    run_trials(SweepStudy(setup))
    results = Results(study_of(setup))
    for asked in (Confirm(0), Confirm(2), Confirm(1, parts=True)):
        plan = crossing.plan(results, BASE, asked, lambda recipe: 0.25)
        found = crossing.kept(results, study_of_runs({run.name: [1.0, 1.1] for run in plan.runs}))
        assert found.cells == plan.cells
        assert {run.name for run in found.runs} == {run.name for run in plan.runs}


def test_the_page_of_a_search_is_kept_new_while_its_confirmation_runs(
    tmp_path: Path, digits: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rehearsal, "seconds_per_trial", lambda *_: None)
    monkeypatch.setattr(publishing, "_EVERY", 0.0)
    options = Search(
        *("digits", RecipeOptions(network="resnet8", epochs=3, train_fraction=0.2, batch_size=64)),
        methods=("plain", "noise"),
        trials=6,
        confirm=Confirm(0, 2, matters=0.25),
        name="s",
        running=Running(keeping=Keeping(str(tmp_path)), following=Following("off")),
    )
    searched = settle.search(options)
    searched.local.mkdir()
    run_trials(SweepStudy(searched.setup))
    study = study_of(searched.setup)
    plan = confirmation.planned(searched, Results(study), options.confirm)
    sweep = confirmation.settle_again(searched, plan, options)
    sweep.local.mkdir()
    run_trials(SweepStudy(dataclasses.replace(sweep.setup, trials=3)))
    with publishing.Publication(searched, study) as report:
        report.build(Console(quiet=True))
        file = tmp_path / "s/report/report.html"
        assert "of the confirmation" not in file.read_text()
        page = report.confirming(sweep, plan, 0.25)
        page.end(0, "COMPLETE", {})
        page.update({})
        page.close(60)
    text = file.read_text()
    assert f"Unfinished: 3 of {2 * len(plan.runs)} trainings of the confirmation have ended." in text
    assert "train the best again" in text, "what stood on the page stays"
    assert not (tmp_path / "s-confirm/report").exists()
    known = dataclasses.replace(
        sweep.setup.description, matters=0.01, started=Started("sweeps/search.py", (), "", "", 7)
    )
    sweep.store.write(SWEEP, known.to_json())
    keep_matters(sweep)  # as the same command with another --matters does, also when nothing is left to train
    now = Description.from_json(sweep.store.read(SWEEP) or b"")
    assert now == dataclasses.replace(known, matters=0.25)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--confirm", "-1"), "--confirm to be at least 0"),
        (("--confirm", "2", "--seeds", "1"), "--seeds to be at least 2"),
        (("--parts",), "--confirm with --parts"),
        (("--methods", "plain,nois"), "did you mean 'noise'"),
        (("--share", "plain=0"), "NAME=WEIGHT with positive weights"),
        (("--share", "noise=2"), "--share of a method in --methods"),
        (("--budget", "soon"), "--budget to be a time like 90m, 12h or 1d"),
    ],
)
def test_wrong_options_are_one_sentence(
    options: Any, words: str, capsys: Any, tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["--dataset", "digits", *options]) == 2
    assert words in capsys.readouterr().err


COMMAND = (
    *(sys.executable, str(ROOT / "sweeps/search.py"), "--dataset", "digits", "--name", "s", "--trials", "6"),
    *("--methods", "plain,mollification,matching", "--network", "resnet8", "--epochs", "2", "--train-fraction", "0.1"),
    *("--set", "validation_fraction=0.05", "--max-concurrent", "1", "--wandb", "off"),
    *("--confirm", "--seeds", "2", "--parts"),
)


def run(folder: Path) -> str:
    done = subprocess.run(COMMAND, cwd=folder, capture_output=True, text=True, timeout=1200)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def answers_of(folder: Path) -> tuple[Any, str]:
    """What the two sweeps and the page say, less what measures time."""
    told = []
    for name in ("s", "s-confirm"):
        ledger = Location.of_file(folder / f"runs/{name}/study.sqlite").load(name)
        assert ledger is not None
        told.append([(t.number, t.state, t.params, t.values, t.user_attrs["recipe"]) for t in ledger.get_trials()])
    return told, (folder / "runs/s/report/confirmation.md").read_text()


@pytest.mark.slow
@pytest.mark.timeout(2400)  # on a machine that does much else
def test_three_methods_and_their_crossed_confirmation_are_killed_and_go_on_to_the_same_page(tmp_path: Path) -> None:
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    for folder in (whole, cut):
        folder.mkdir()
    out = run(whole)
    assert "then at most 13 recipes with 2 seeds each: at most 26 trainings more" in out
    for after in (2, 9, 18):  # trials of both sweeps that have ended: in the search once, in the confirmation twice
        process = subprocess.Popen(COMMAND, cwd=cut, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 900
        while len(list(cut.glob("runs/*/trials/*/validation.npz"))) < after and process.poll() is None:
            assert time.monotonic() < deadline
            time.sleep(0.1)
        assert process.poll() is None, "it was to be killed on its way"
        process.send_signal(signal.SIGKILL)
        process.wait()
    run(cut)
    assert answers_of(cut) == answers_of(whole)
    page = (whole / "runs/s/report/report.html").read_text()
    assert page.index("at the same other settings it changes") < page.index("What the search alone suggests")
    assert "Which part of mollification does it" in page
    assert {path.name for path in (whole / "runs/s/report").glob("best_recipe*.json")} == {
        "best_recipe.json",
        *(f"best_recipe_{name}.json" for name in ("plain", "mollification", "matching")),
    }
    again = run(cut)
    assert "Sweep s-confirm is finished" in again
