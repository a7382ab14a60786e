"""What can be searched, and the two references of every sweep."""

from __future__ import annotations

import math
from collections.abc import Callable

import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from mollify_core.errors import ConfigError
from mollify_core.recipe import SETTINGS, Recipe
from mollify_sweeps.study import pruning, sampling, space

BASE = Recipe().with_(lr=0.05)


def write(tmp_path, text):
    path = tmp_path / "space.yaml"
    path.write_text(text)
    return path


def test_built_in_space_holds_the_papers_schedule():
    built_in = space.load(None, BASE, 32)
    assert set(built_in.searched) == {
        *("max_noise", "max_blur", "smoothing", "noise_power", "blur_power"),
        *("beta_b", "p_clean", "noise_share", "lr", "weight_decay"),
    }
    paper, plain = space.references(built_in, BASE, 32)
    assert paper.params == {
        "max_noise": 1.0,
        "max_blur": 32.0,
        "smoothing": 1.0,
        "noise_power": 1.0,
        "blur_power": 1.0,
        "beta_b": 2.0,
        "p_clean": 1 / 3,
        "noise_share": 0.5,
        "lr": 0.05,
        "weight_decay": 5e-4,
    }
    assert paper.settings.items() >= {"beta_a": 1.0, "min_blur": 0.3, "label_mode": "ls"}.items()
    assert (paper.settings["method"], paper.settings["label"]) == ("mollification", "coupled")
    assert plain.params["p_clean"] == 1.0
    assert (plain.settings["method"], plain.settings["label"]) == ("none", "hard")
    for reference in (paper, plain):
        assert not set(reference.params) & set(reference.settings)
        recipe = BASE.with_({**reference.params, **reference.settings})
        assert recipe.optim == BASE.optim
    assert BASE.with_({**paper.params, **paper.settings, "max_blur": None}) == BASE


def test_file_chooses_narrows_and_fixes(tmp_path):
    lines = "max_noise: search", "lr: {low: 0.01, high: 0.1}", "beta_b: [2, 4, 9]", "blur_power: 0.86"
    loaded = space.load(write(tmp_path, "\n".join([*lines, "batch_size: {low: 16, high: 64}"])), BASE, 32)
    assert loaded.searched == {
        "max_noise": FloatDistribution(0.25, 1.0),
        "lr": FloatDistribution(0.01, 0.1, log=True),
        "beta_b": CategoricalDistribution([2, 4, 9]),
        "batch_size": IntDistribution(16, 64),
    }
    assert loaded.fixed == {"blur_power": 0.86}
    assert loaded.describe()["lr"] == {"low": 0.01, "high": 0.1, "log": True}
    grid = loaded.grid(3)
    assert grid["lr"] == pytest.approx([0.01, math.sqrt(0.001), 0.1])
    assert grid["beta_b"] == [2, 4, 9]
    assert grid["batch_size"] == [16, 40, 64]


def test_references_outside_a_narrowed_space_are_settings_of_their_own(tmp_path):
    narrow = space.load(write(tmp_path, "p_clean: {low: 0.2, high: 0.4}\nbeta_b: [4, 9]\nmax_noise: 0.5\n"), BASE, 32)
    paper, plain = space.references(narrow, BASE.with_(narrow.fixed), 32)
    assert paper.params == {"p_clean": 1 / 3, "beta_b": 4}
    assert paper.settings["beta_b"] == 2.0
    assert paper.settings["max_noise"] == 1.0
    assert plain.params["p_clean"] == 0.4
    assert plain.settings["p_clean"] == 1.0


@pytest.mark.parametrize(
    ("text", "params"),
    [
        ("method: [none, mollification]", [{"method": "mollification"}, {"method": "none"}]),
        ("label: [hard, coupled]", [{"label": "coupled"}, {"label": "hard"}]),
        ("arm: ['off', matching]", [{"arm": "off"}, {"arm": "off"}]),
        ("arm: [hard, matching]", [{"arm": "hard"}, {"arm": "hard"}]),  # neither is what the references train
    ],
)
@pytest.mark.parametrize("base", [BASE, BASE.with_(method="none", label="fixed"), BASE.with_(arm="matching")])
def test_methods_and_labels_can_be_searched_also_in_old_words(text, params, base, tmp_path):
    found = space.references(space.load(write(tmp_path, text), base, 32), base, 32)
    assert [reference.params for reference in found] == params
    paper, plain = (base.with_({**reference.params, **reference.settings}) for reference in found)
    assert paper == BASE
    assert plain.hash == BASE.with_(p_clean=1.0).hash


def test_plain_training_is_varied_as_mollification_of_no_image():
    """What is drawn for `p_clean` counts, whichever way the base recipe says it."""
    plain = BASE.with_(p_clean=1.0, method="none", label="hard")
    assert space.varied(plain, {"p_clean": None}) == BASE.with_(p_clean=1.0)
    assert space.varied(plain, {"lr": None}) == plain
    for other in (BASE, plain.with_(p_clean=0.5), plain.with_(label="fixed"), plain.with_(method="matching")):
        assert space.varied(other, {"p_clean": None}) == other


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("max_nois: search", "did you mean 'max_noise'"),
        ("momentum: search", "'momentum' has no built-in range"),
        ("lr: {low: 0.1, high: 0.01}", "low < high for 'lr', but got 0.1 and 0.01"),
        ("lr: {lo: 0.1}", "did you mean 'low'"),
        ("max_noise: {low: 0.2, high: 1.5}", "`max_noise` to be in (0, 1], but got 1.5"),
        ("momentum: {low: 0, high: 0.9, log: true}", "positive low for 'momentum' on a log scale"),
        ("momentum: {low: 0.5}", "low and high for 'momentum'"),
        ("clip_norm: {low: null, high: 1}", "low and high for 'clip_norm' to be numbers, but got None and 1.0"),
        ("nesterov: {low: false, high: true}", "low and high for 'nesterov' to be numbers, but got False and True"),
        ("lr: {low: 0.01, high: 0.1, log: maybe}", "log for 'lr' to be true or false, but got 'maybe'"),
        ("beta_b: []", "an empty list"),
        ("beta_b: [1, x]", "`beta_b` to be a number, but got 'x'"),
        ("epochs: [1, 2]", "'epochs' is the same for all trials"),
        ("train_fraction: 0.5", "'train_fraction' is the same for all trials"),
        ("blur_power: 1.0", "to search at least one setting"),
        ("- lr", "a mapping of settings to ranges"),
        ("", "it is empty"),
        ("a: [", "Cannot read space file"),
    ],
)
def test_bad_files(text, says, tmp_path):
    with pytest.raises(ConfigError) as error:
        space.load(write(tmp_path, text), BASE, 32)
    assert says in str(error.value)
    assert "\n" not in str(error.value)


NUMBERS = [name for name in SETTINGS if type(BASE.get(name)) in (int, float) or name in ("max_blur", "clip_norm")]


@pytest.mark.parametrize("name", NUMBERS)
def test_an_anchor_keeps_any_value_against_any_range_and_the_sampler_hears_the_nearest(name):
    """Zeros against ranges on a log scale, no bound at all (None) against bounds, and both ends."""
    whole = type(BASE.get(name)) is int
    ranges: list = [IntDistribution(3, 9), IntDistribution(3, 9, log=True)] if whole else []
    ranges += [] if whole else [FloatDistribution(0.2, 0.7), FloatDistribution(0.2, 0.7, log=True)]
    ranges += [CategoricalDistribution([3, 5] if whole else [0.2, 0.7])]
    for value in (BASE.get(name), None, 0, 0.0, 0.2, 0.7, 1, 3, 9, 10):
        try:
            anchor = BASE.with_(epochs=50).with_({name: value, **({"final_lr": 0.0} if name == "lr" else {})})
        except ConfigError:
            continue
        for distribution in ranges:
            made = space.reference("anchor", {}, space.Space({name: distribution}, {}), anchor, 32)
            told = made.params[name]
            assert distribution._contains(distribution.to_internal_repr(told))
            study = optuna.create_study()
            study.enqueue_trial(made.params)
            assert study.ask(fixed_distributions={name: distribution}).params == made.params
            kept = anchor.with_({**made.params, **made.settings})
            assert kept == (anchor.with_(max_blur=32.0) if (name, value) == ("max_blur", None) else anchor)
            if value is not None:
                ends = list(getattr(distribution, "choices", ())) or [distribution.low, distribution.high]
                assert abs(told - value) <= min(abs(end - value) for end in ends)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("label_mode: [ls, ld]\nloss: [ce, nce]", "but got 'ld'; the search may draw label_mode=ld with loss=nce"),
        ("both_share: [0, 0.4]\npure_share: [0, 0.4]", "but got 1.3; the search may draw both_share=0.4 with pure"),
        ("min_blur: {low: 0.2, high: 2}\nmax_blur: search", "may draw min_blur=2.0 with max_blur=0.5"),
        ("lr: search\nfinal_lr: 0.02", "in [0, lr = 0.003], but got 0.02; the search may draw lr=0.003"),
        ("blur_kernel: {low: 31, high: 51}", "a positive odd integer, but got 32; the search may draw blur_kernel=32"),
        ("blur_kernel: [3, 5, 7, 9, 11, 13, 14, 15, 17]", "but got 14; the search may draw blur_kernel=14"),
        ("momentum: [0, 0.9]\nnesterov: [false, true]", "may draw momentum=0 with nesterov=True"),
    ],
)
def test_values_that_do_not_go_together_are_refused_wherever_they_lie(text, says, tmp_path):
    with pytest.raises(ConfigError) as error:
        space.load(write(tmp_path, text), BASE, 32)
    assert says in str(error.value)


def test_sound_values_that_the_base_contradicts_are_taken(tmp_path):
    for text, values in (
        ("lr: {low: 0.1, high: 0.3}\nfinal_lr: 0.06", {"lr": 0.1, "final_lr": 0.06}),
        ("lr: {low: 0.1, high: 0.3}\nfinal_lr: {low: 0.02, high: 0.09}", {"lr": 0.05, "final_lr": 0.0}),
        ("noise_share: {low: 0.1, high: 0.2}\nboth_share: 0.7", {"noise_share": 0.2, "both_share": 0.7}),
        ("max_blur: {low: 3, high: 9}\nmin_blur: 2", {"max_blur": None, "min_blur": 2.0}),
    ):
        loaded = space.load(write(tmp_path, text), BASE, 32)
        applied = space.applied(loaded, BASE)
        assert {name: applied.get(name) for name in values} == values


@pytest.mark.parametrize("name", sampling.SAMPLERS)
def test_samplers_are_a_function_of_seed_and_study(name):
    built_in = space.load(None, BASE, 32)
    if name == "grid":
        built_in = space.Space({"lr": FloatDistribution(0.01, 0.1), "beta_b": CategoricalDistribution([1, 2])}, {})

    def run() -> list[dict]:
        study = optuna.create_study()
        for number in range(9):
            study.sampler = sampling.make_sampler(name, number, built_in.searched, built_in.grid(3), 6)
            trial = study.ask(fixed_distributions=built_in.searched)
            study.tell(trial, sum(v for v in trial.params.values() if isinstance(v, float)))
        return [t.params for t in study.trials]

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    first = run()
    assert first == run()
    if name != "grid":
        assert len({tuple(p.values()) for p in first}) == len(first)


def test_tpe_proposes_what_optunas_own_does():
    searched = space.load(None, BASE, 32).searched | {"max_noise": FloatDistribution(0.5, 0.5)}

    def run(make: Callable[[int], optuna.samplers.BaseSampler]) -> list[dict]:
        study = optuna.create_study()
        for number in range(20):
            study.sampler = make(number)
            trial = study.ask(fixed_distributions=searched)
            study.tell(trial, sum(v for v in trial.params.values() if isinstance(v, float)))
        return [t.params for t in study.trials]

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    options = {"n_startup_trials": 6, "multivariate": True, "constant_liar": True}
    own = run(lambda number: optuna.samplers.TPESampler(seed=number, **options))
    assert run(lambda number: sampling.make_sampler("tpe", number, searched, {}, 6)) == own


@pytest.mark.parametrize("epochs", [1, 2, 5, 30, 300])
@pytest.mark.parametrize("name", pruning.PRUNERS)
def test_pruners_take_any_number_of_epochs(name, epochs):
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(pruner=pruning.make_pruner(name, epochs))
    pruned = 0
    for value in range(30):
        trial = study.ask()
        state = optuna.trial.TrialState.COMPLETE
        for epoch in range(epochs):
            trial.report(float(value), epoch)
            if trial.should_prune():
                state = optuna.trial.TrialState.PRUNED
                break
        pruned += state == optuna.trial.TrialState.PRUNED
        study.tell(trial, float(value) if state == optuna.trial.TrialState.COMPLETE else None, state)
    assert (pruned > 0) == (name != "none" and epochs > 1)
