"""The watchman of hostile files sees what he is there for."""

from __future__ import annotations

import pickle
import subprocess
from collections import OrderedDict
from pathlib import Path

import pytest

from hostile import watched


def test_what_is_forbidden_is_seen(tmp_path: Path) -> None:
    inside, outside = tmp_path / "in", tmp_path / "out"
    inside.mkdir()
    (inside / "x").write_bytes(pickle.dumps(OrderedDict()))
    with watched(inside):
        (inside / "x").read_bytes()
    for forbidden, named in (
        (lambda: outside.write_text("x"), "written"),
        (lambda: outside.read_text(), "read"),
        (lambda: subprocess.run(["true"]), "Popen"),
        (lambda: pickle.loads((inside / "x").read_bytes()), "find_class"),
    ):
        with pytest.raises(AssertionError, match=named), watched(inside):
            forbidden()
