"""Programs called as functions."""

from __future__ import annotations

from collections.abc import Callable

import pytest


def refused(main: Callable[[list[str]], int], *argv: str, capsys: pytest.CaptureFixture[str]) -> str:
    """What a program says that refuses: one sentence, with exit code 2."""
    assert main([*argv]) == 2
    err = capsys.readouterr().err
    assert err.startswith("error: "), err
    assert err.count("\n") == 1, err
    return err.removeprefix("error: ")
