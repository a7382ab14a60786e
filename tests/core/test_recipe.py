"""A recipe is a value: validated, hashed, and the same after a trip through JSON."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mollify_core import presets
from mollify_core.errors import ConfigError
from mollify_core.presets import PRESETS, preset
from mollify_core.recipe import SETTINGS, Recipe, parse_setting, section_of
from mollify_core.settings import LABELS, METHODS

settings = st.fixed_dictionaries(
    {},
    optional={
        "lr": st.floats(1e-6, 10),
        "epochs": st.integers(1, 1000),
        "augment": st.lists(st.sampled_from(["flip", "crop", "rotate", "mixup"]), unique=True).map(tuple),
        "max_noise": st.floats(0, 1, exclude_min=True),
        "max_blur": st.none() | st.floats(0.3, 64),
        "p_clean": st.floats(0, 1),
        "method": st.sampled_from(METHODS),
        "label": st.sampled_from(LABELS),
        "nesterov": st.booleans(),
        "seed": st.integers(0, 2**63 - 1),
    },
)


@given(settings)
def test_json_round_trip_keeps_value_and_hash(changes):
    recipe = Recipe().with_(changes)
    again = Recipe.from_json(recipe.to_json())
    assert again == recipe
    assert again.hash == recipe.hash
    assert all(recipe.get(name) == value for name, value in changes.items() if name != "augment")


def test_any_change_changes_the_hash():
    base = Recipe()
    changed = [base.with_(lr=0.02), base.with_(seed=1), base.with_(max_blur=5), base.with_(network="resnet20"), base]
    assert len({r.hash for r in changed}) == len(changed)


def test_a_later_setting_at_its_default_leaves_hash_and_json_as_they_were():
    recipe = Recipe()
    expected = ("8c9bddffcaff",) * 2  # of version 0.1
    assert (recipe.with_(lr=0.03).hash, recipe.with_(lr=0.03, judging_fraction=0.0).hash) == expected
    assert "judging_fraction" not in recipe.to_json()
    judged = recipe.with_(judging_fraction=0.5)
    assert judged.to_dict()["data"]["judging_fraction"] == 0.5
    assert Recipe.from_json(judged.to_json()) == judged != recipe


def test_hash_is_equal_in_another_process():
    code = "from mollify_core.recipe import Recipe; print(Recipe().with_(lr=0.03, max_blur=7).hash)"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
    assert out == Recipe().with_(lr=0.03, max_blur=7).hash


@pytest.mark.parametrize(
    ("changes", "known"),
    [
        ({}, "ede0de807492"),
        (preset("mollification"), "848652815141"),
        (preset("plain"), "653444e14a68"),
        (preset("matching"), "96aa252de56d"),
        (preset("smoothing"), "ebbf18a7186b"),
        (preset("hard"), "f909b7b79eb1"),
        (preset("matching_published"), "5556b4e781ec"),
        (preset("smoothing_published"), "f1f78b3522ae"),
        (preset("hard_published"), "36cf5a7ef68f"),
        ({"p_clean": 1.0}, "53b36985964b"),
        ({"p_clean": 1.0, "method": "none", "label": "hard"}, "53b36985964b"),
        ({"p_clean": 1.0, "label_smoothing": 0.1}, "9ae8a265aa4d"),
        ({"lr": 0.03, "max_blur": 7}, "f65a85bec6b4"),
        ({"arm": "smoothing", "fixed_epsilon": 0.2, "spread": "others"}, "76b74d61ccbd"),
        ({"method": "matching", "label": "hard", "p_clean": 1.0}, "e5863abb9ca6"),
        ({"arm": "matching", "seed": 3, "corrected": True}, "f01e265b42aa"),
        ({"label_source": "nmi", "p_clean": 0.2, "seed": 1}, "4b5c51857879"),
    ],
)
def test_hashes_are_those_of_version_0_1(changes, known):
    assert Recipe().with_(changes).hash == known


def test_new_pairs_have_hashes_of_their_own():
    pairs = [Recipe().with_(method=method, label=label) for method in METHODS for label in LABELS]
    assert len({recipe.hash for recipe in pairs}) == len(pairs)


@pytest.mark.parametrize(
    ("arm", "p_clean", "pair"),
    [
        ("off", 1 / 3, ("mollification", "coupled")),
        ("off", 1.0, ("none", "hard")),
        ("hard", 1.0, ("matching", "hard")),
        ("smoothing", 0.5, ("matching", "fixed")),
        ("matching", 1.0, ("matching", "coupled")),
    ],
)
def test_recipes_of_format_1_are_read_and_written_in_the_words_of_now(arm, p_clean, pair):
    rest = {"mollify": {"p_clean": p_clean}, "optim": {"label_smoothing": 0.1}}
    old = Recipe.from_dict({"format": 1, "matching": {"arm": arm, "bins": 8}, **rest})
    assert (old.method, old.label) == pair
    assert (old.mollify.p_clean, old.matching.bins, old.optim.label_smoothing) == (p_clean, 8, 0.1)
    assert old.get("arm") == arm
    tree = old.to_dict()
    assert (tree["format"], tree["method"], tree["label"]) == (2, *pair)
    assert "arm" not in tree["matching"]
    assert Recipe.from_dict(tree) == old
    assert Recipe.from_dict({"format": 1, **rest}).get("arm") == "off"


def test_arm_is_an_alias_where_settings_are_addressed_by_name():
    assert "arm" not in SETTINGS
    assert section_of("arm") == "matching"
    recipe = Recipe().with_(arm=parse_setting("arm", "smoothing"))
    assert recipe == Recipe().with_(method="matching", label="fixed")
    assert recipe.with_(arm="off") == Recipe()
    assert Recipe().with_({"arm": "matching"}, label="hard").get("arm") == "hard"  # the later counts
    with pytest.raises(ConfigError, match="`arm` can say, but got 'none' with 'fixed'"):
        Recipe().with_(method="none", label="fixed").get("arm")


def test_defaults_are_the_papers():
    recipe = Recipe()
    expected = {"network": "presnet50", "lr": 0.01, "momentum": 0.9, "weight_decay": 5e-4, "batch_size": 128}
    expected |= {"beta_a": 1, "beta_b": 2, "noise_power": 1, "blur_power": 1, "min_blur": 0.3, "max_blur": None}
    expected |= {"max_noise": 1, "smoothing": 1, "label_mode": "ls", "loss": "ce", "epochs": 200}
    assert {name: recipe.get(name) for name in expected} == expected


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"lrr": 0.1}, "did you mean 'lr'"),
        ({"max_nois": 0.1}, "did you mean 'max_noise'"),
        ({"lr": "fast"}, "`lr` to be a number, but got 'fast'"),
        ({"lr": float("nan")}, "`lr` to be a number"),
        ({"lr": True}, "`lr` to be a number"),
        ({"judging_fraction": 0.95}, "`judging_fraction` to be in [0, 0.9], but got 0.95"),
        ({"epochs": 1.5}, "`epochs` to be an integer, but got 1.5"),
        ({"epochs": 0}, "`epochs` to be a positive integer, but got 0"),
        ({"max_noise": 0}, r"`max_noise` to be in (0, 1], but got 0.0"),
        ({"max_blur": 0.1}, "`max_blur` to be at least min_blur = 0.3, but got 0.1"),
        ({"p_clean": 1.5}, "`p_clean` to be in [0, 1], but got 1.5"),
        ({"augment": ["flop"]}, "did you mean"),
        ({"augment": ["flip", "flip"]}, "without repetition"),
        ({"momentum": 0.0, "nesterov": True}, "`nesterov` to be false when momentum is 0"),
        ({"precision": "fp8"}, "`precision` to be one of"),
        ({"noise_share": 0.7, "both_share": 0.4}, "noise_share + both_share + pure_share` to be at most 1"),
        ({"label_mode": "ld", "loss": "nce"}, "label_mode 'ls' for loss 'nce', but got 'ld'"),
        ({"augment": ["mixup", "cutmix"]}, "at most one augmentation"),
        ({"warmup_epochs": 200}, "`warmup_epochs` to be at least 0 and below epochs, but got 200"),
        ({"ema": 1.0}, "`ema` to be in [0, 1), but got 1.0"),
        ({"clip_norm": 0}, "`clip_norm` to be positive, but got 0.0"),
        ({"method": "molification"}, "Unknown method 'molification'; did you mean 'mollification'?"),
        ({"label": "uncouple"}, "Unknown label 'uncouple'; did you mean 'uncoupled'?"),
        ({"method": None}, "`method` to be a name, but got None"),
        ({"arm": "mi"}, "`arm` to be one of"),
        ({"arm": False}, "`arm` to be a name, but got False"),
        ({"seed": -1}, "`seed` to be an integer in [0, 2**63)"),
    ],
)
def test_bad_settings_say_what_was_expected_and_what_came(changes, says):
    with pytest.raises(ConfigError) as error:
        Recipe().with_(changes)
    assert says in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("tree", "says"),
    [
        ({"optim": {"lrr": 1}}, "optim.lrr; did you mean 'lr'"),
        ({"optm": {"lr": 1}}, "'optm'"),
        ({"lr": 1}, "'lr' belongs inside 'optim'"),
        ({"optim": 3}, "section 'optim' to be a mapping"),
        ({"format": 99}, "format 99"),
        ({"format": 2, "matching": {"arm": "off"}}, "Unknown recipe key matching.arm"),
        ({"format": 1, "matching": {"arm": ["off"]}}, "`arm` to be one of"),
        ({"format": 1, "label": "hard"}, "`label` in a recipe of format 2 without `arm`"),
        ({"method": "none", "matching": {"arm": "hard"}}, "`method` in a recipe of format 2 without `arm`"),
        ({"arm": "hard"}, "'arm' belongs inside 'matching'"),
        ([1], "mapping, but got list"),
    ],
)
def test_bad_trees(tree, says):
    with pytest.raises(ConfigError) as error:
        Recipe.from_json(json.dumps(tree))
    assert says in str(error.value)


def test_files(tmp_path):
    recipe = Recipe().with_(lr=0.5)
    (tmp_path / "a.json").write_text(recipe.to_json())
    (tmp_path / "report.json").write_text(json.dumps({"recipe": recipe.to_dict(), "metrics": {}}))
    (tmp_path / "b.yaml").write_text("optim: {lr: 0.5}\n")
    assert {Recipe.from_file(tmp_path / n) for n in ("a.json", "report.json", "b.yaml")} == {recipe}
    (tmp_path / "bad.json").write_text("{")
    for name in ("bad.json", "missing.json"):
        with pytest.raises(ConfigError, match="Cannot read recipe"):
            Recipe.from_file(tmp_path / name)


def test_parse_setting_and_sections():
    assert parse_setting("lr", "3e-2") == 0.03
    assert parse_setting("max_blur", "none") is None
    assert parse_setting("nesterov", "true") is True
    assert parse_setting("augment", "crop,flip") == ("crop", "flip")
    assert parse_setting("augment", "none") == ()
    assert parse_setting("network", "resnet20") == "resnet20"
    assert section_of("seed") is None
    assert {section_of(name) for name in SETTINGS} == {None, "data", "model", "mollify", "matching", "soft", "optim"}
    with pytest.raises(ConfigError, match="`lr` to be a number, but got 'x'"):
        parse_setting("lr", "x")


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_is_a_recipe_that_the_command_prints(name, capsys):
    assert presets.main([name, "--dataset", "cifar100"]) == 0
    recipe = Recipe.from_json(capsys.readouterr().out)
    assert recipe == Recipe().with_(dataset="cifar100", **presets.preset(name))


def test_the_fair_presets_differ_in_the_label_only_and_the_published_one_in_what_the_paper_confounds():
    hard, matching = (Recipe().with_(presets.preset(name)) for name in ("hard", "matching"))
    assert hard.with_(label="coupled") == matching
    published = Recipe().with_(presets.preset("matching_published"))
    assert published == matching.with_(lr=5e-4, augment=(), constants_match=False)


def test_an_unknown_preset_names_the_nearest(capsys):
    assert presets.main(["matchin"]) == 2
    assert "matching" in capsys.readouterr().err
