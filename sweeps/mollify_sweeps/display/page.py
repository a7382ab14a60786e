"""A web page that is one file: sections of paragraphs, tables and figures, light and dark, for a desk and for a phone.

Every function takes plain text and escapes it; `Html` marks what is escaped already. The page loads nothing, and its
Content-Security-Policy allows no style and no script but its own. Without scripts it is complete; the script adds
sorting of tables, and lights up a trial in all figures at once.
"""

from __future__ import annotations

import base64
import hashlib
import html
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NewType

from mollify_core.foreign import clean

Html = NewType("Html", str)
"""Text that is HTML: whatever came from elsewhere is escaped in it."""


@dataclass(frozen=True)
class Section:
    """A part of a page.

    Attributes:
        title: its heading.
        parts: what `paragraph`, `table`, `figures` and the like give, in order.
    """

    title: str
    parts: Sequence[Html]

    @property
    def id(self) -> str:
        """What links to it name: the title in lower-case letters and digits."""
        return re.sub(r"[^a-z0-9]+", "-", self.title.lower()).strip("-") or "section"


def escape(text: object) -> Html:
    """Plain text as HTML; also fit for the value of an attribute in double quotes."""
    return Html(html.escape(clean(text)))


def element(name: str, body: str = "", **attributes: object) -> Html:
    """<name …>body</name>.

    Args:
        name: of the element.
        body: HTML.
        attributes: plain text, escaped here; `class_` is class, `_` becomes `-`; one that is None is left out.
    """
    pairs = ((key.strip("_").replace("_", "-"), value) for key, value in attributes.items() if value is not None)
    shown = "".join(f' {key}="{escape(value)}"' for key, value in pairs)
    return Html(f"<{name}{shown}>{body}</{name}>")


def paragraph(text: str, kind: str | None = None) -> Html:
    """A paragraph.

    Args:
        text: plain.
        kind: None, or how it looks: "answer", "note" (small) or "warning".
    """
    return element("p", escape(text), class_=kind)


def bullets(items: Iterable[str]) -> Html:
    """A list of plain texts."""
    return element("ul", "".join(element("li", escape(item)) for item in items))


def table(header: Sequence[str], rows: Iterable[Sequence[str]], caption: str = "", *, kind: str | None = None) -> Html:
    """A table of plain texts, in a box that scrolls sideways by itself.

    Args:
        header: of each column; empty: none.
        rows: the first cell heads its row, the others hold numbers.
        caption: below it.
        kind: None, "sortable" (a click on a column's header sorts), or "facts" (two columns, the second of text).
    """
    head = element("tr", "".join(element("th", escape(name), scope="col") for name in header))
    lines = []
    for first, *others in rows:
        cells = element("th", escape(first), scope="row") + "".join(element("td", escape(cell)) for cell in others)
        lines.append(element("tr", cells))
    inside = (element("caption", escape(caption)) if caption else "") + (element("thead", head) if header else "")
    return _scrolling(
        element("table", inside + element("tbody", "".join(lines)), class_=kind),
        caption or next(iter(header), "") or "table",
    )


def code(text: str) -> Html:
    """Lines to be copied."""
    return element("pre", element("code", escape(text)))


def details(summary: str, *parts: Html) -> Html:
    """Parts behind a line that opens them."""
    return element("details", element("summary", escape(summary)) + "".join(parts))


def figure(chart: Html, caption: str = "", *, wide: bool = False) -> Html:
    """A chart with words below it; a wide one scrolls inside its box where there is no room."""
    chart = _scrolling(chart, caption or "chart") if wide else chart
    below = element("figcaption", escape(caption)) if caption else ""
    return element("figure", chart + below, class_="wide" if wide else None)


def figures(*shown: Html, kind: str = "pair") -> Html:
    """Figures side by side where there is room.

    Args:
        shown: figures.
        kind: "pair", two in a row, or "small", five.
    """
    return element("div", "".join(shown), class_=f"figures {kind}")


def tiles(shown: Iterable[tuple[str, str, str]]) -> Html:
    """Numbers to be seen first: (what it is, the number, what it means) each."""
    parts = ("dt", "dd", "dd")
    return element(
        "dl",
        "".join(
            element("div", "".join(element(p, escape(t)) for p, t in zip(parts, texts, strict=True))) for texts in shown
        ),
        class_="tiles",
    )


def download(name: str, data: str, kind: str = "application/json") -> Html:
    """A link that saves `data`, which is in the page itself, as a file."""
    encoded = base64.b64encode(data.encode()).decode()
    link = element("a", f"Save {escape(name)}", href=f"data:{kind};base64,{encoded}", download=name)
    return element("p", link)


def document(
    title: str, opening: Sequence[Html], sections: Sequence[Section], *, above: str = "", warning: str = ""
) -> str:
    """A whole page.

    Args:
        title: plain; its main heading.
        opening: what stands below that.
        sections: with different titles; linked from the top.
        above: plain; a small line above the heading.
        warning: plain; a bar above everything.

    Returns:
        The HTML document.
    """
    policy = (
        f"default-src 'none'; style-src '{_digest(_STYLE)}'; script-src '{_digest(_SCRIPT)}'; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )
    links = (element("a", escape(section.title), href=f"#{section.id}") for section in sections)
    bodies = (element("section", element("h2", escape(s.title)) + "".join(s.parts), id=s.id) for s in sections)
    return "\n".join(
        [
            "<!doctype html>",
            '<html lang="en">',
            "<head>",
            '<meta charset="utf-8">',
            f'<meta http-equiv="Content-Security-Policy" content="{policy}">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            '<meta name="color-scheme" content="light dark">',
            '<meta name="referrer" content="no-referrer">',
            '<link rel="icon" href="data:,">',
            element("title", escape(f"{title} {above}".strip())),
            f"<style>{_STYLE}</style>",
            "</head>",
            "<body>",
            element("p", escape(warning), class_="warning bar", role="note") if warning else "",
            "<main>",
            element(
                "header",
                (element("p", escape(above), class_="above") if above else "")
                + element("h1", escape(title))
                + "".join(opening),
            ),
            element("nav", "".join(links), aria_label="Sections"),
            *bodies,
            "</main>",
            f"<script>{_SCRIPT}</script>",
            "</body>",
            "</html>",
            "",
        ]
    )


def _scrolling(body: Html, name: str) -> Html:
    """A box that scrolls sideways by itself; in the order of the tabulator, so that a keyboard can scroll it."""
    return element("div", body, class_="scroll", tabindex=0, role="region", aria_label=name)


def _digest(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"


# Series: Okabe & Ito (2008), Color Universal Design, darker or lighter where they would not show on the ground.
_STYLE = """
:root{color-scheme:light dark;
--page:#f7f6f3;--card:#fff;--ink:#1d2126;--muted:#5a616a;--line:#e2e0da;--grid:#ecebe6;--link:#00588c;--warn:#fdeee4;--shade:#1d212626;
--best:#d55e00;--paper:#0072b2;--plain:#00845f;--done:#8d96a3;--fill:#bcd3e3;
--s0:#0072b2;--s1:#d55e00;--s2:#00845f;--s3:#b3548a;--s4:#9a6b00;--s5:#2d89bd;--s6:#1d2126;--s7:#7b828c;
--h0:#fff3e6;--h1:#fee3c6;--h2:#fdcd9c;--h3:#fbb06b;--h4:#f7923f;--h5:#ee7420;--h6:#c64400;--h7:#9c3503;--h8:#742a04;
--d0:#1f62a6;--d1:#5595ca;--d2:#92bddd;--d3:#d1e3f0;--d4:#f1f0ec;--d5:#fbdac4;--d6:#f3aa83;--d7:#e07646;--d8:#ad370c;
--on:#1d2126;--off:#fff}
@media (prefers-color-scheme:dark){:root{
--page:#121417;--card:#1a1d21;--ink:#e8e9eb;--muted:#a3aab3;--line:#30353b;--grid:#282c32;--link:#7cc4f5;--warn:#3a2415;--shade:#0009;
--best:#ff8b3d;--paper:#5ab6ee;--plain:#34c99c;--done:#78828f;--fill:#35546b;
--s0:#5ab6ee;--s1:#ff8b3d;--s2:#34c99c;--s3:#e08bbd;--s4:#e3b341;--s5:#9ad3f5;--s6:#e8e9eb;--s7:#9aa2ad;
--h0:#2a2521;--h1:#42301f;--h2:#5c3819;--h3:#773f13;--h4:#94490d;--h5:#cf6a1f;--h6:#e8842f;--h7:#f8a75f;--h8:#ffcf9f;
--d0:#74b8f5;--d1:#4489c8;--d2:#2b5f8d;--d3:#25405a;--d4:#2c3036;--d5:#56382a;--d6:#874825;--d7:#d06a30;--d8:#ffa06b;
--on:#e8e9eb;--off:#101214}}
*{box-sizing:border-box}
html{-webkit-text-size-adjust:100%;text-size-adjust:100%;scroll-behavior:smooth}
body{margin:0;background:var(--page);color:var(--ink);overflow-wrap:break-word;
font:16px/1.55 system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue",Arial,sans-serif}
main{max-width:62rem;margin:0 auto;padding:3.5rem 1.5rem 5rem}
h1,h2{line-height:1.2;text-wrap:balance;letter-spacing:-.015em;margin:0}
h1{font-size:2.35rem;font-weight:650}
h2{font-size:1.4rem;font-weight:620;margin-bottom:.75rem}
p,ul{max-width:44rem;margin:.75rem 0}
a{color:var(--link);text-underline-offset:.2em}
:focus-visible{outline:2px solid var(--link);outline-offset:2px}
.above{color:var(--muted);margin:0 0 .4rem;font-size:.95rem}
.answer{font-size:1.3rem;line-height:1.45;margin:.9rem 0 1rem}
.note,figcaption,caption{color:var(--muted);font-size:.875rem;line-height:1.45}
.warning{background:var(--warn);border-left:4px solid var(--best);padding:.6rem 1rem;max-width:none}
.bar{margin:0;border-left:0;border-bottom:2px solid var(--best);text-align:center;font-weight:600}
nav{display:flex;flex-wrap:wrap;gap:.25rem 1.25rem;margin:2rem 0 0;padding:.9rem 0;border:solid var(--line);
border-width:1px 0;font-size:.925rem}
nav a{text-decoration:none;padding:.15rem 0}
nav a:hover{text-decoration:underline}
section{margin-top:3.25rem;scroll-margin-top:1rem}
.tiles{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(100%,13rem),1fr));gap:1rem;margin:1.5rem 0}
.tiles>div,figure,.scroll,details{background:var(--card);border:1px solid var(--line);border-radius:10px}
.tiles>div{padding:1rem 1.15rem}
.tiles dt{color:var(--muted);font-size:.875rem;line-height:1.4}
.tiles dd{margin:.3rem 0 0;font-size:.875rem;line-height:1.45}
.tiles dt+dd{font-size:1.55rem;font-weight:620;line-height:1.2;letter-spacing:-.01em;font-variant-numeric:tabular-nums}
.figures{display:grid;gap:1rem;margin:1.1rem 0;align-items:start}
.pair{grid-template-columns:repeat(2,minmax(0,1fr))}
.small{grid-template-columns:repeat(5,minmax(0,1fr));gap:.6rem}
figure{margin:0;padding:1rem 1rem .9rem;min-width:0}
.small figure{padding:.5rem}
figure.wide{margin:1.1rem 0}
figcaption{margin-top:.5rem}
svg{display:block;width:100%;height:auto;overflow:visible;
font:12px system-ui,-apple-system,"Segoe UI",Roboto,sans-serif;
font-variant-numeric:tabular-nums}
.wide svg{min-width:44rem}
.scroll{overflow-x:auto;width:fit-content;max-width:100%;margin:1.1rem 0;background:
linear-gradient(90deg,var(--card) 40%,transparent) 0/2.5rem 100% no-repeat local,
linear-gradient(270deg,var(--card) 40%,transparent) 100%/2.5rem 100% no-repeat local,
linear-gradient(90deg,var(--shade),transparent) 0/.9rem 100% no-repeat scroll,
linear-gradient(270deg,var(--shade),transparent) 100%/.9rem 100% no-repeat scroll,var(--card)}
figure .scroll,details .scroll{width:auto;margin:0;border:0;border-radius:0}
table{border-collapse:collapse;width:100%;font-size:.9rem;font-variant-numeric:tabular-nums}
caption{caption-side:bottom;text-align:left;padding:.6rem .9rem;border-top:1px solid var(--line)}
th,td{padding:.42rem .8rem;text-align:right;white-space:nowrap}
th:first-child{text-align:left}
td{max-width:28rem;overflow:hidden;text-overflow:ellipsis}
thead th{color:var(--muted);font-weight:560;border-bottom:1px solid var(--line);vertical-align:bottom;
white-space:normal}
tbody th{font-weight:500}
tbody tr+tr>*{border-top:1px solid var(--grid)}
tbody tr:hover>*{background:var(--page)}
.sortable tbody th{position:sticky;left:0;background:var(--card)}
.facts td{text-align:left;white-space:normal;max-width:none;overflow-wrap:anywhere;min-width:9rem}
.facts th{vertical-align:top;white-space:normal}
th button{all:unset;cursor:pointer}
th button:focus-visible{outline:2px solid var(--link);outline-offset:2px}
th[aria-sort] button{color:var(--ink)}
th[aria-sort=ascending] button::after{content:" \\2191"}
th[aria-sort=descending] button::after{content:" \\2193"}
details{padding:.7rem 1rem;margin:1.1rem 0}
summary{cursor:pointer;font-weight:560}
details[open]>summary{margin-bottom:.7rem}
pre{margin:.75rem 0;padding:.8rem 1rem;background:var(--card);border:1px solid var(--line);border-radius:8px;
white-space:pre-wrap;overflow-wrap:anywhere}
details pre,details figure{border:0;padding:0}
code{font:.84rem/1.5 ui-monospace,SFMono-Regular,Menlo,Consolas,monospace}
.legend{display:flex;flex-wrap:wrap;gap:.15rem 1.1rem;list-style:none;padding:0;margin:.4rem 0 0;font-size:.875rem;
max-width:none}
.legend li{display:flex;align-items:center;gap:.4rem;min-width:0}
.legend svg{width:16px;height:16px;flex:none}
svg text{fill:var(--muted)}
svg .strong{fill:var(--ink)}
svg .title{fill:var(--ink);font-weight:560}
.end{text-anchor:end}.mid{text-anchor:middle}
.gridline{stroke:var(--grid)}.axis{stroke:var(--line)}.zero{stroke:var(--muted)}
.halo{paint-order:stroke;stroke:var(--card);stroke-width:4px;stroke-linejoin:round}
.best{--c:var(--best)}.paper{--c:var(--paper)}.plain{--c:var(--plain)}.done,.pruned,.failed{--c:var(--done)}
.s0{--c:var(--s0)}.s1{--c:var(--s1)}.s2{--c:var(--s2)}.s3{--c:var(--s3)}.s4{--c:var(--s4)}.s5{--c:var(--s5)}
.s6{--c:var(--s6)}.s7{--c:var(--s7)}.front{--c:var(--ink)}.ideal{--c:var(--muted)}
.line{fill:none;stroke:var(--c);stroke-width:2.4;stroke-linejoin:round;stroke-linecap:round}
.line.done,.line.pruned{stroke-width:1.2}.line.pruned{stroke-dasharray:3 3;stroke-opacity:.6}
.line.front{stroke-width:1.2;stroke-opacity:.6}.line.ideal{stroke-width:1.2;stroke-dasharray:2 4}
.line.band{stroke-width:1;stroke-dasharray:2 3;stroke-opacity:.7}
.mark{fill:var(--c);stroke:var(--card);stroke-width:1}
.mark.pruned{fill:var(--card);stroke:var(--c);stroke-width:1.5}
.mark.failed{fill:none;stroke:var(--ink);stroke-width:1.6}
.mark.beyond{fill:none;stroke:var(--ink);stroke-width:1}
.bar-fill{fill:var(--fill)}
.span{stroke:var(--c);stroke-width:2.4;stroke-linecap:round}
.q0{stroke-opacity:1}.q1{stroke-opacity:.75}.q2{stroke-opacity:.5}.q3{stroke-opacity:.32}.q4{stroke-opacity:.2}
.cell text{fill:var(--t);text-anchor:middle}.cell rect{fill:var(--f)}
.h0{--f:var(--h0);--t:var(--on)}.h1{--f:var(--h1);--t:var(--on)}.h2{--f:var(--h2);--t:var(--on)}
.h3{--f:var(--h3);--t:var(--on)}.h4{--f:var(--h4);--t:var(--on)}.h5{--f:var(--h5);--t:var(--h5t)}
.h6{--f:var(--h6);--t:var(--off)}.h7{--f:var(--h7);--t:var(--off)}.h8{--f:var(--h8);--t:var(--off)}
.d0{--f:var(--d0);--t:var(--off)}.d1{--f:var(--d1);--t:#101214}.d2{--f:var(--d2);--t:var(--on)}
.d3{--f:var(--d3);--t:var(--on)}.d4{--f:var(--d4);--t:var(--on)}.d5{--f:var(--d5);--t:var(--on)}
.d6{--f:var(--d6);--t:var(--on)}.d7{--f:var(--d7);--t:#101214}.d8{--f:var(--d8);--t:var(--off)}
.h5{--h5t:#101214}
svg:has(.lit) [data-trial]:not(.lit){opacity:.18}
.lit .line,.line.lit{stroke-width:3.4;stroke-opacity:1}
[data-trial]{cursor:default}
@media (max-width:60rem){.small{grid-template-columns:repeat(3,minmax(0,1fr))}}
@media (max-width:50rem){.pair{grid-template-columns:minmax(0,1fr)}}
@media (max-width:40rem){main{padding:2rem 1rem 4rem}h1{font-size:1.8rem}.answer{font-size:1.15rem}
h2{font-size:1.25rem}.small{grid-template-columns:repeat(2,minmax(0,1fr))}figure,details{padding:.6rem}section{margin-top:2.5rem}
th,td{padding:.4rem .6rem}}
@media (prefers-reduced-motion:reduce){html{scroll-behavior:auto}}
@media print{nav{display:none}main{padding:0;max-width:none}figure,tr,.tiles>div{break-inside:avoid}}
"""
_SCRIPT = """
"use strict";
for (const table of document.querySelectorAll("table.sortable")) {
  const body = table.tBodies[0], heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => {
    const button = document.createElement("button");
    button.textContent = head.textContent;
    head.replaceChildren(button);
    button.addEventListener("click", () => {
      const up = head.getAttribute("aria-sort") !== "ascending";
      heads.forEach(other => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", up ? "ascending" : "descending");
      const key = row => row.cells[column].textContent;
      body.append(...[...body.rows].sort((a, b) => {
        const x = parseFloat(key(a)), y = parseFloat(key(b));
        if (isNaN(x) !== isNaN(y)) return isNaN(x) - isNaN(y);
        const order = isNaN(x) ? key(a).localeCompare(key(b)) : x - y;
        return up ? order : -order;
      }));
    });
  });
}
let lit = null;
document.addEventListener("pointerover", event => {
  const over = event.target.closest("[data-trial]"), trial = over ? over.dataset.trial : null;
  if (trial === lit) return;
  for (const old of document.querySelectorAll(".lit")) old.classList.remove("lit");
  lit = trial;
  if (lit !== null)
    for (const one of document.querySelectorAll(`[data-trial="${lit}"]`)) one.classList.add("lit");
});
"""
