"""What the environment says where the command line says nothing."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest

from mollify_core.errors import ConfigError
from mollify_sweeps.cli.surroundings import following, take_address
from mollify_sweeps.plan.options import Following
from search import parser

VARIABLES = ("WANDB_MODE", "WANDB_PROJECT", "WANDB_DIR", "WANDB_DISABLED", "RAY_ADDRESS")


@pytest.fixture(autouse=True)
def nothing_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)


def parsed(*words: str) -> argparse.Namespace:
    argv = ("--dataset", "digits", *words)
    return parser().parse_args(argv, argparse.Namespace(words=argv, environment=()))


@pytest.mark.parametrize(
    ("variables", "words", "means", "said"),
    [
        ({}, (), Following(), ()),
        ({"WANDB_MODE": "disabled"}, (), Following("off", asked=True), ("WANDB_MODE",)),
        ({"WANDB_MODE": "dryrun"}, (), Following("offline", asked=True), ("WANDB_MODE",)),
        ({"WANDB_MODE": "online"}, ("--wandb", "off"), Following("off", asked=True), ()),
        ({"WANDB_DISABLED": "true"}, (), Following("off", asked=True), ("WANDB_DISABLED",)),
        ({"WANDB_PROJECT": "p"}, (), Following(project="p"), ("WANDB_PROJECT",)),
        ({"WANDB_PROJECT": "p"}, ("--wandb-project", "q"), Following(project="q"), ()),
        ({"WANDB_DIR": "/data/w"}, (), Following(folder="/data/w"), ("WANDB_DIR",)),
        ({"WANDB_DIR": "w"}, (), Following(folder=str(Path("w").absolute())), ("WANDB_DIR",)),
    ],
)
def test_wandb(
    variables: dict[str, str],
    words: tuple[str, ...],
    means: Following,
    said: tuple[str, ...],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    args = parsed(*words)
    assert following(args) == means
    assert args.environment == said


@pytest.mark.parametrize(
    ("found", "words", "address"),
    [
        ("ray://head:10001", (), "ray://head:10001"),
        ("auto", ("--address", "ray://other:10001"), "ray://other:10001"),
        ("http://head:8265", (), None),  # of jobs
        ("http://head:8265", ("--submit",), None),
    ],
)
def test_ray(found: str, words: tuple[str, ...], address: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", found)
    args = parsed(*words)
    take_address(args)
    assert args.address == address
    assert args.environment == (("RAY_ADDRESS",) if address == found else ())


@pytest.mark.parametrize("name", ["team/project", "x" * 129, "a:b", "a%b", "a\x1b[2J", " ", "a?b", "a#b", "a\\b"])
def test_a_project_that_wandb_would_refuse(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="Expected a wandb project"):
        following(parsed("--wandb-project", name))
    monkeypatch.setenv("WANDB_PROJECT", name)
    with pytest.raises(ConfigError, match="Expected a wandb project"):
        following(parsed())


def test_a_mode_that_wandb_does_not_know(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "on\x1b")
    with pytest.raises(ConfigError, match=r"\$WANDB_MODE to be online, offline or disabled, but got 'on\\x1b'"):
        following(parsed())
