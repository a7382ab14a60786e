"""What the site says of the programs, they say too."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

from places import ROOT


def said(node: ast.AST) -> str:
    """A string of the code as the page writes it: `…` for what differs."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        return "".join(value.value if isinstance(value, ast.Constant) else "…" for value in node.values)
    return ""


def texts() -> Iterator[str]:
    for folder in ("mollify_core", "sweeps"):
        for path in (ROOT / folder).rglob("*.py"):
            yield from map(said, ast.walk(ast.parse(path.read_text(encoding="utf-8"))))


def test_every_error_that_is_told_stands_in_the_code() -> None:
    """Each part between what differs; a long sentence may be built of several strings."""
    page = (ROOT / "docs/troubleshooting.md").read_text(encoding="utf-8")
    sentences = re.findall(r"^### `(.+)`$", page, flags=re.MULTILINE)
    assert len(sentences) > 30
    code = "\n".join(texts())
    missing = [
        (sentence, part)
        for sentence in sentences
        for part in sentence.split("…")
        if len(part.strip()) > 3 and part.strip() not in code
    ]
    assert not missing
