"""The one reader of JSON and YAML: what comes from a file is small, shallow and finite before anybody looks at it.

YAML is read by the core schema of YAML 1.2, as people write it: `1e-3` is a number, `no` and `off` are text. Parsing is
PyYAML's; its own schema is that of YAML 1.1, and no library bounds aliases, so that what a scalar means and what a
document may hold stand here. A name that stands twice in a mapping is refused in both languages.
"""

from __future__ import annotations

import json
import os
import re
from typing import Any

from yaml.composer import Composer, ComposerError
from yaml.error import MarkedYAMLError, YAMLError
from yaml.events import AliasEvent
from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode
from yaml.parser import Parser
from yaml.reader import Reader
from yaml.resolver import BaseResolver
from yaml.scanner import Scanner

from mollify_core.disk import regular
from mollify_core.errors import DataError, first_line
from mollify_core.foreign import clean, shown

MOST_BYTES = 8 << 20
"""Of a JSON document; what we write is smaller by far."""
_MOST_YAML = 256 << 10  # which people write, and which is read slowly
_DEEPEST = 64  # lists in lists
_MOST_NODES = 20_000  # of a YAML document, each alias counted as all that it stands for
LARGEST = 1 << 64  # integers are smaller than that

Place = tuple[str | int, ...]
"""Where a value stands in a document: names and positions, from the outside in."""


def load(path: str | os.PathLike[str], what: str = "") -> Any:
    """What a .json, .yaml or .yml file holds: plain containers; `what` it is, for the error.

    Raises:
        DataError: it cannot be read, or holds something else; one sentence that names the file.
    """
    return located(path, what, yaml=str(path).endswith((".yaml", ".yml")))[0]


def located(path: str | os.PathLike[str], what: str = "", *, yaml: bool = True) -> tuple[Any, dict[Place, int]]:
    """The same of YAML, or JSON, whatever the file is called; and the line on which each value stands, none of JSON."""
    try:
        with regular(path) as file:
            data = file.read(MOST_BYTES + 1)
        return yaml_of(data) if yaml else (json_of(data), {})
    except OSError as error:
        raise DataError(f"Cannot read {what}{shown(str(path), 200)}: {error.strerror or first_line(error)}") from None
    except ValueError as error:  # ours, or a path with a NUL
        raise DataError(f"Cannot read {what}{shown(str(path), 200)}: {clean(first_line(error), 300)}") from None


def _text(data: bytes | str, most: int) -> str:
    if len(data) > most:
        raise DataError(f"expected a document of at most {most:,} bytes, but it is larger")
    try:
        text = data if isinstance(data, str) else data.decode()
    except UnicodeDecodeError as error:
        raise DataError(f"expected text in UTF-8, but byte {error.start} is not") from None
    text = text.removeprefix("\ufeff")  # some editors write it
    if not text.strip():
        raise DataError("expected a document, but it is empty")
    return text


# ---- JSON


def json_of(data: bytes | str) -> Any:
    """What a JSON document holds.

    Raises:
        DataError: it is none, is too large or too deep, has a name twice or an integer beyond 64 bits; one sentence
            that does not say where it comes from.
    """
    text = _text(data, MOST_BYTES)
    try:
        tree = json.loads(text, object_pairs_hook=_once, parse_int=_integer)
    except DataError:
        raise
    except RecursionError:
        raise DataError(_TOO_DEEP) from None
    except ValueError as error:
        raise DataError(f"it is not valid JSON: {error}") from None
    bounded(tree)
    return tree


_TOO_DEEP = f"expected at most {_DEEPEST} values inside each other, but there are more"


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        seen: set[str] = set()
        twice = next(name for name, _ in pairs if name in seen or seen.add(name))  # type: ignore[func-returns-value]
        raise DataError(f"expected every name once, but {shown(twice)} stands twice")
    return found


def _integer(text: str) -> int:
    if len(text) > 20 or abs(int(text)) >= LARGEST:
        raise DataError(f"expected integers of at most 64 bits, but got one of {len(text.lstrip('-'))} digits")
    return int(text)


def bounded(tree: Any, *, nul: bool = False) -> None:
    """Checks plain containers that somebody else has read.

    Raises:
        DataError: a tree is too deep; or has a NUL in a text, which no path, name or database takes, unless `nul`.
    """
    level = [tree]
    for _ in range(_DEEPEST):
        below: list[Any] = []
        for node in level:
            if isinstance(node, dict):
                below += node.keys()
                below += node.values()
            elif isinstance(node, list):
                below += node
            elif not nul and isinstance(node, str) and "\0" in node:
                raise DataError(f"expected text without NUL characters, but got {shown(node)}")
        if not below:
            return
        level = below
    raise DataError(_TOO_DEEP)


# ---- YAML

_CORE = {  # YAML 1.2, section 10.3.2
    "null": re.compile(r"~|null|Null|NULL|"),
    "bool": re.compile(r"true|True|TRUE|false|False|FALSE"),
    "int": re.compile(r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+"),
    "float": re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)"),
    "str": re.compile(r".*", re.DOTALL),
}
_TAG = "tag:yaml.org,2002:"


class _Composer(Reader, Scanner, Parser, Composer, BaseResolver):
    """PyYAML's nodes, of a bounded document; scalars are not resolved."""

    def __init__(self, text: str) -> None:
        Reader.__init__(self, text)
        Scanner.__init__(self)
        Parser.__init__(self)
        Composer.__init__(self)
        BaseResolver.__init__(self)
        self._depth = self._nodes = 0
        self._sizes: dict[int, int] = {}  # of the nodes that an alias may stand for

    def compose_node(self, parent: Node | None, index: Any) -> Node | None:
        if self.check_event(AliasEvent):
            event = self.peek_event()
            node = super().compose_node(parent, index)
            if id(node) not in self._sizes:
                raise ComposerError(None, None, "an alias stands inside of what it stands for", event.start_mark)
            self._count(self._sizes[id(node)], event.start_mark)
            return node
        before, mark = self._nodes, self.peek_event().start_mark
        self._depth += 1
        if self._depth > _DEEPEST:
            raise ComposerError(None, None, _TOO_DEEP, mark)
        self._count(1, mark)
        node = super().compose_node(parent, index)
        self._depth -= 1
        self._sizes[id(node)] = self._nodes - before
        return node

    def resolve(self, kind: type[Node], value: Any, implicit: Any) -> str:
        """The tag of what has none of its own: in quotes it is text."""
        if kind is not ScalarNode:
            return _TAG + ("map" if kind is MappingNode else "seq")
        plain = isinstance(implicit, tuple) and implicit[0]
        return _TAG + (next(name for name, form in _CORE.items() if form.fullmatch(value)) if plain else "str")

    def _count(self, nodes: int, mark: Any) -> None:
        self._nodes += nodes
        if self._nodes > _MOST_NODES:
            problem = f"expected at most {_MOST_NODES:,} values, aliases counted as what they stand for"
            raise ComposerError(None, None, problem, mark)


def yaml_of(data: bytes | str) -> tuple[Any, dict[Place, int]]:
    """What a YAML document holds, and the line, from 1, on which each value stands.

    Raises:
        DataError: it is none, or several; is too large, too deep, or too large with its aliases; has a name twice, a
            name that is no text, a tag that is none of the core schema, or an integer beyond 64 bits; one sentence that
            does not say where it comes from.
    """
    text = _text(data, _MOST_YAML)
    lines: dict[Place, int] = {}
    try:
        node = _Composer(text).get_single_node()
        tree = _value(node, (), lines) if node is not None else None
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"line {mark.line + 1}: " if mark else ""
        raise DataError(f"{where}{clean(error.problem or error.context or 'it is not valid YAML', 200, '')}") from None
    except (YAMLError, RecursionError) as error:
        said = " ".join(str(error).split())
        raise DataError(f"it is not valid YAML: {clean(said, 200, '')}") from None
    bounded(tree)
    return tree, lines


def _value(node: Node, path: Place, lines: dict[Place, int]) -> Any:
    line = node.start_mark.line + 1
    lines[path] = line
    if isinstance(node, MappingNode):
        _only(node, "map", line)
        found: dict[str, Any] = {}
        for key, item in node.value:
            here = key.start_mark.line + 1
            name = _value(key, (*path, ""), {}) if isinstance(key, ScalarNode) else None
            if not isinstance(name, str):
                raise DataError(f"line {here}: expected names that are text, but got {shown(name)}")
            if name in found:
                raise DataError(
                    f"line {here}: expected every name once, but {shown(name)} stands on line "
                    f"{lines[(*path, name)]} too"
                )
            found[name] = _value(item, (*path, name), lines)
            lines[(*path, name)] = here
        return found
    if isinstance(node, SequenceNode):
        _only(node, "seq", line)
        return [_value(item, (*path, i), lines) for i, item in enumerate(node.value)]
    assert isinstance(node, ScalarNode)
    return _scalar(node, line)


def _only(node: Node, kind: str, line: int) -> None:
    if node.tag != _TAG + kind:
        raise DataError(f"line {line}: expected plain values, but got the tag {shown(node.tag)}")


def _scalar(node: ScalarNode, line: int) -> Any:
    kind, text = node.tag.removeprefix(_TAG), str(node.value)
    if kind not in _CORE or not node.tag.startswith(_TAG):
        raise DataError(f"line {line}: expected plain values, but got the tag {shown(node.tag)}")
    if not _CORE[kind].fullmatch(text):  # as `!!int x`
        raise DataError(f"line {line}: expected a value of the tag {shown(node.tag)}, but got {shown(text)}")
    try:
        return _plain(kind, text)
    except DataError as error:
        raise DataError(f"line {line}: {error}") from None


def _plain(kind: str, text: str) -> Any:
    if kind == "null":
        return None
    if kind == "bool":
        return text.lower() == "true"
    if kind == "int":
        base = {"0o": 8, "0x": 16}.get(text[:2])
        if base is None:
            return _integer(text.removeprefix("+"))
        if len(text) > 24 or int(text[2:], base) >= LARGEST:
            raise DataError(f"expected integers of at most 64 bits, but got one of {len(text) - 2} digits")
        return int(text[2:], base)
    if kind == "float":
        return float(text.lower().replace(".inf", "inf").replace(".nan", "nan"))
    return text
