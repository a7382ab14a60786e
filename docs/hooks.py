"""Brings into the site what stands elsewhere in the project, so that nothing stands twice, and turns links to it."""

from __future__ import annotations

import base64
import posixpath
import re
from pathlib import Path
from typing import Any

import nbformat
from latex2mathml.converter import convert
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page
from nbconvert import MarkdownExporter

ROOT = Path(__file__).resolve().parents[1]
PAGES = {  # page of the site -> where it stands
    "index.md": "README.md",
    "clusters.md": "clusters/README.md",
    "mollification.md": "mollify_core/mollification/MOLLIFICATION.md",
    "matching.md": "mollify_core/matching/MATCHING.md",
    "soft.md": "mollify_core/augment/SOFT.md",
    "augment.md": "mollify_core/augment/AUGMENT.md",
    "measure.md": "mollify_core/measure/MEASURE.md",
    "architecture.md": "ARCHITECTURE.md",
    "contributing.md": "CONTRIBUTING.md",
    "security.md": "SECURITY.md",
    "changelog.md": "CHANGELOG.md",
    "notebooks/index.md": "notebooks/README.md",
}
PAGES |= {f"notebooks/{path.stem}.md": f"notebooks/{path.name}" for path in sorted(ROOT.glob("notebooks/*.ipynb"))}
_SITE = {source: page for page, source in PAGES.items()}
_FORMULA = re.compile(r"(\$\$?)([^$]+?)\1")  # no text of ours has a dollar otherwise
_LINK = re.compile(r"(!?)\[([^\]]*)\]\(([^)\s]+)\)")
_SECTION = re.compile(r"<!-- (\S+): (.+?) -->")  # of another file, by its heading


def on_files(files: Files, config: MkDocsConfig) -> Files:
    for page, source in PAGES.items():
        path = ROOT / source
        made = {"content": _notebook(path)} if path.suffix == ".ipynb" else {"abs_src_path": str(path)}
        files.append(File.generated(config, page, **made))
    return files


def _notebook(path: Path) -> str:
    """A notebook with its output as one page; its pictures are inside."""
    notebook = nbformat.read(path, as_version=4)
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            cell.source = _FORMULA.sub(lambda found: _formula(*found.groups()), cell.source)
    text, resources = MarkdownExporter().from_notebook_node(notebook)
    for name, content in resources["outputs"].items():
        text = text.replace(f"]({name})", f"](data:image/png;base64,{base64.b64encode(content).decode()})")
    return text


def _formula(dollars: str, latex: str) -> str:
    """A formula as MathML, which browsers draw without a script."""
    return convert(latex.strip(), display="block" if len(dollars) == 2 else "inline")


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    here = PAGES.get(page.file.src_uri, f"docs/{page.file.src_uri}")
    if here.endswith(".ipynb"):
        return markdown
    markdown = _SECTION.sub(lambda found: _section(*found.groups()), markdown)
    return _LINK.sub(lambda found: _link(found, here, page.file.src_uri), markdown)


def _section(source: str, heading: str) -> str:
    """What stands under a heading of the second level, without links to elsewhere."""
    _, _, rest = (ROOT / source).read_text(encoding="utf-8").partition(f"\n## {heading}\n")
    if not rest:
        raise ValueError(f"{source} has no section {heading!r}")
    return _LINK.sub(r"\2", rest.partition("\n## ")[0])


def _link(found: re.Match[str], here: str, page: str) -> str:
    image, text, target = found.groups()
    path, _, anchor = target.partition("#")
    if "://" in target or not path:
        return found[0]
    meant = posixpath.normpath(posixpath.join(posixpath.dirname(here), path))
    if meant.startswith("notebooks/"):
        meant = re.sub(r"\.py$", ".ipynb", meant)
    if meant == "notebooks":
        meant = "notebooks/README.md"
    to = _SITE.get(meant) or (meant.removeprefix("docs/") if meant.startswith("docs/") else None)
    if to is None:  # a file of the project that is no page
        return f"`{meant}`" if text.strip("`") == meant else f"{text} (`{meant}`)"
    relative = posixpath.relpath(to, posixpath.dirname(page) or ".")
    return f"{image}[{text}]({relative}{'#' + anchor if anchor else ''})"


def on_config(config: MkDocsConfig) -> Any:
    config.watch.extend(str(ROOT / source) for source in PAGES.values())
    return config
