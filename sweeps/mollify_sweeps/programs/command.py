"""`mollify-sweeps COMMAND …`: every program, under one name, from any folder."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence

import mollify_core
from mollify_core.errors import ConfigError, nearest
from mollify_core.foreign import shown
from mollify_core.program import COMMAND, guarded

PROGRAMS = {  # name -> (module, arguments that come first, what it is for)
    "search": ("mollify_sweeps.programs.search", (), "find out whether a method helps, and how best: a sweep"),
    "status": ("mollify_sweeps.programs.status", (), "how sweeps are; stop, continue or show one"),
    "evaluate": ("mollify_sweeps.programs.evaluate", (), "measure models on the test set and its corruptions"),
    "train": ("mollify_core.train", (), "train one recipe alone, as a sweep's best_recipe.json"),
    "predict": ("mollify_core.predict", (), "what a trained model says of images, and how sure it is"),
    "export": ("mollify_core.export", (), "write a trained model as ONNX, a torch program or a state dict"),
    "reproduce": ("mollify_sweeps.programs.reproduce", (), "a paper's grid of experiments again"),
    "check": ("mollify_sweeps.programs.check", (), "prove that nothing of a sweep is lost, doubled or damaged"),
    "prepare": (
        "mollify_core.datasets.__main__",
        ("prepare",),
        "fetch and check a data set, and write it to the cache",
    ),
    "networks": ("mollify_core.networks.__main__", (), "list and measure networks"),
    "presets": ("mollify_core.presets", (), "list the papers' set-ups"),
    "completion": ("mollify_sweeps.programs.completion", (), "a shell's script that completes all of these"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a program; returns its exit code, or 2 when there is none of that name."""
    words = list(sys.argv[1:] if argv is None else argv)
    if not words or words[0] in ("-h", "--help"):
        print(_help())
        return 0
    if words[0] == "--version":
        print(f"{COMMAND} {mollify_core.__version__}")
        return 0

    def act() -> int:
        if words[0] not in PROGRAMS:
            raise ConfigError(f"{COMMAND} has no command {shown(words[0])}{nearest(words[0], PROGRAMS)}")
        module, first, _ = PROGRAMS[words[0]]
        return importlib.import_module(module).main([*first, *words[1:]])

    return guarded(act)


def _help() -> str:
    lines = [f"  {name:<11}{purpose}" for name, (_, _, purpose) in PROGRAMS.items()]
    return "\n".join(
        [
            f"usage: {COMMAND} COMMAND …",
            "",
            "Find out whether degrading images and softening labels makes your image classifier more robust and better",
            "calibrated.",
            "",
            *lines,
            "",
            f"`{COMMAND} COMMAND --help` teaches each. A complete small sweep, with nothing to download:",
            "",
            f"  {COMMAND} search --dataset digits --confirm",
        ]
    )
