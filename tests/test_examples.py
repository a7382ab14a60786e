"""The examples run as they are."""

from __future__ import annotations

import json
import runpy
from pathlib import Path
from typing import Any

import pytest

from mollify_core.recipe import Recipe
from places import ROOT


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("plain_pytorch", {"max_blur": 8.0}),
        ("lightning_module", {"max_blur": 8.0}),
        ("timm_training", {"method": "matching", "p_undistorted": 0.3}),
    ],
)
def test_it_learns_with_and_without_a_recipe(
    name: str, settings: dict[str, Any], tmp_path: Path, digits: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # where a framework may leave its logs
    main = runpy.run_path(str(ROOT / "examples" / f"{name}.py"))["main"]
    if name == "plain_pytorch":  # without one the others differ in nothing
        assert main(epochs=1) < 0.7
    path = tmp_path / "best_recipe.json"
    path.write_text(json.dumps({"recipe": Recipe().with_({**settings, "dataset": "digits"}).to_dict()}))
    assert main(str(path), epochs=1) < 0.7
