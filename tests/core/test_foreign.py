"""Text and paths that come from elsewhere."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mollify_core.errors import ConfigError, MollifyError
from mollify_core.foreign import clean, expanded, shown
from mollify_core.program import guarded


@settings(deadline=None, derandomize=True)
@given(st.text(alphabet=st.characters(codec=None)))
def test_nothing_that_is_cleaned_steers_a_terminal(text: str) -> None:
    said = clean(text)
    said.encode()  # no lone surrogate
    assert said.replace("\n", "").isprintable() or not text.isprintable()
    assert not set(said) & {"\x1b", "\r", "\b", "\x07", "\x9b", "\u202e", "\u2028"}
    assert clean(said) == said, "twice is once"
    assert "\n" not in clean(text, keep="")


def test_what_can_be_read_stays() -> None:
    assert clean("Müller's résumé, 猫 [x] 🦊") == "Müller's résumé, 猫 [x] 🦊"
    assert clean("\x1b[2J\x1b]0;title\x07") == r"\x1b[2J\x1b]0;title\x07"
    assert clean("x" * 100, 10) == "x" * 9 + "…"


def test_any_value_can_be_quoted() -> None:
    nested: list = []
    for _ in range(100_000):
        nested = [nested]
    for value in (10**5000, nested, {"a": "\x1b[31m"}, float("nan"), "a\nb"):
        said = shown(value)
        assert len(said) < 90
        assert said.isprintable()


def test_homes_that_nobody_has(monkeypatch: pytest.MonkeyPatch) -> None:
    assert expanded("~/x") == Path.home() / "x"
    with pytest.raises(ConfigError, match="no user has that name here"):
        expanded("~nobody-of-this-name/x")
    with pytest.raises(ConfigError, match="NUL"):
        expanded("a\0b")
    monkeypatch.delenv("HOME")
    monkeypatch.setattr("pwd.getpwuid", lambda uid: (_ for _ in ()).throw(KeyError(uid)))
    with pytest.raises(ConfigError, match="set HOME"):
        expanded("~/x")


def test_an_error_that_quotes_a_file_does_not_steer_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    def fails() -> int:
        raise MollifyError("Expected a name, but got \x1b[31mred\x1b[0m")

    assert guarded(fails) == 2
    assert "\x1b" not in capsys.readouterr().err
    assert sys.getrecursionlimit()
