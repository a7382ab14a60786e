"""`mollify-sweeps completion SHELL`: a script with which a shell completes the command, its options and files."""

from __future__ import annotations

import importlib
import re

import shtab

from mollify_core.program import COMMAND, Parser, guarded
from mollify_sweeps.programs.command import PROGRAMS

_EPILOG = f"""
Written once to where the shell looks, it is fast: Tab starts no Python. Write it again after an update.

examples:
  {COMMAND} completion bash > ~/.local/share/bash-completion/completions/{COMMAND}
  {COMMAND} completion zsh > DIR/_{COMMAND}    # DIR is one of zsh's fpath
"""
_PATHS = re.compile(r"FILE|DIR|SWEEP|STORAGE|CHECKPOINT|IMAGE|MODEL|RECIPE")
"""Of metavars, whose values may be files."""


def parser() -> Parser:
    """The parser; every option says what it does and its default."""
    p = Parser(
        prog=f"{COMMAND} completion",
        description="Print a script with which a shell completes every command, its options and files.",
        epilog=_EPILOG,
    )
    p.add_argument("shell", metavar="SHELL", choices=shtab.SUPPORTED_SHELLS, help=", ".join(shtab.SUPPORTED_SHELLS))
    return p


def main(argv: list[str] | None = None) -> int:
    """Prints the script; returns the exit code: 0, 2 bad input."""
    return guarded(lambda: _run(argv))


def _run(argv: list[str] | None) -> int:
    args = parser().parse_args(argv)
    print(shtab.complete(_whole(), args.shell))
    return 0


def _whole() -> Parser:
    """All programs as one parser, as shtab wants it."""
    whole = Parser(prog=COMMAND)
    whole.add_argument("--version", action="store_true", help="say the version")
    commands = whole.add_subparsers()
    for name, (module, _, purpose) in PROGRAMS.items():
        one = importlib.import_module(module).parser()
        for action in one._actions:  # shtab reads them too: argparse has no public list
            if (
                action.dest == "dataset"
                or (name, action.dest) == ("prepare", "name")
                or _PATHS.search(str(action.metavar))
            ):
                action.complete = shtab.FILE
        commands.add_parser(name, help=purpose, parents=[one], add_help=False)
    return whole
