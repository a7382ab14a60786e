"""The examples run as they are."""

from __future__ import annotations

import json
import runpy

from mollify_core.recipe import Recipe
from places import ROOT


def test_plain_pytorch(tmp_path, digits):
    main = runpy.run_path(str(ROOT / "examples" / "plain_pytorch.py"))["main"]
    assert main(epochs=1) < 0.7
    path = tmp_path / "best_recipe.json"
    path.write_text(json.dumps({"recipe": Recipe().with_(dataset="digits", max_blur=8.0).to_dict()}))
    assert main(str(path), epochs=1) < 0.7
