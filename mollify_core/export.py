"""`python -m mollify_core.export CHECKPOINT --to onnx`: a trained model for other programs.

`onnx` and `torch` take images, float32 in [0, 1], (batch, channels, side, side), and give log-probabilities of the
classes, (batch, classes): normalisation, a sink class and a temperature are inside. `state-dict` is the network's
weights alone, as safetensors; what belongs to them is in its metadata. All compute in float32.
"""

from __future__ import annotations

import io
import json
import logging
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mollify_core.datasets.options import add_data_options, add_network_code, data_options
from mollify_core.errors import ConfigError, StorageError, first_line
from mollify_core.foreign import clean, expanded, shown
from mollify_core.predict import TEMPERATURE_HELP, temperature_of
from mollify_core.program import Parser, guarded

if TYPE_CHECKING:  # slow to import: --help answers at once
    from torch import nn

    from mollify_core.trained import Trained

FORMS = {"onnx": ".onnx", "torch": ".pt2", "state-dict": ".safetensors"}
KEY = "mollify"
"""Of the metadata, in JSON, in each form's file."""


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit code: 0 done, 2 bad input."""
    return guarded(lambda: _run(argv))


def parser() -> Parser:
    """The parser; every option says what it does and its default."""
    p = Parser(
        prog="python -m mollify_core.export",
        description="Write a trained model for other programs.",
        epilog="""
            onnx and torch: images in, float32 in [0, 1], (batch, channels, side, side); log-probabilities of the
            classes out, (batch, classes). Normalisation and temperature are inside. state-dict: the network's
            weights, which safetensors.torch.load_file opens. Class names, mean, std and the recipe are in each
            file's metadata, as JSON under "mollify".

            examples:
              python -m mollify_core.export runs/train-0123456789ab --to onnx
              python -m mollify_core.export runs/SWEEP/trials/00007 --to state-dict --out model.safetensors
        """,
    )
    p.add_argument("checkpoint", metavar="CHECKPOINT", help="a checkpoint's folder, or one that has some, as a trial's")
    p.add_argument("--to", required=True, choices=tuple(FORMS), help="onnx needs the extra `export`")
    p.add_argument("--out", metavar="FILE", help="(default: model with the form's suffix)")
    p.add_argument("--temperature", default="1", metavar="T", help=TEMPERATURE_HELP)
    add_network_code(p)
    add_data_options(p.add_argument_group("its data set, for --temperature validation, and for old checkpoints"))
    return p


def _run(argv: Sequence[str] | None) -> int:
    args = parser().parse_args(argv)
    if args.to == "state-dict" and args.temperature != "1":
        raise ConfigError("Expected no --temperature for a state dict, which holds weights alone")
    out = expanded(args.out or f"model{FORMS[args.to]}", written=True)
    from mollify_core.networks import own
    from mollify_core.trained import load

    if args.network_code:
        own.admit(args.network_code)
    data = data_options(args)
    model = load(args.checkpoint, data)
    export(model, args.to, out, temperature_of(args.temperature, model, data))
    print(f"{out}: {model.classifier.recipe.model.network}, {len(model.names)} classes, {args.to}")
    return 0


def export(model: Trained, form: str, out: Path, temperature: float = 1.0) -> None:
    """Writes a model.

    Args:
        model: what is written; it is on the CPU.
        form: one of `FORMS`.
        out: the file.
        temperature: by which log-probabilities are divided; of no effect on a state dict.

    Raises:
        ConfigError: the form takes a package that is not installed, or the network cannot be traced.
        StorageError: the file cannot be written.
    """
    inside = {"input": "float32 in [0, 1], (batch, channels, side, side)", "normalisation": "inside"}
    beside = {"input": "(pixels in [0, 1] - mean) / std, (batch, channels, side, side)", "normalisation": "beside"}
    known = {**_about(model), **(beside if form == "state-dict" else inside | {"temperature": temperature})}
    write = {"onnx": _onnx, "torch": _torch, "state-dict": _state_dict}[form]
    try:
        write(model, out, json.dumps(known), temperature)
    except OSError as error:
        raise StorageError(f"Cannot write {shown(str(out), 200)}: {error.strerror or first_line(error)}") from None


def _about(model: Trained) -> dict[str, Any]:
    recipe = model.classifier.recipe
    known = {"classes": model.names, "image_shape": model.image_shape, "scaling": recipe.data.scaling}
    mean, std = (t.flatten().tolist() for t in (model.classifier.normalise.mean, model.classifier.normalise.std))
    return {**known, "mean": mean, "std": std, "network": recipe.model.network, "recipe": recipe.to_dict()}


def _state_dict(model: Trained, out: Path, about: str, temperature: float) -> None:
    import safetensors.torch

    tensors = {name: tensor.contiguous().clone() for name, tensor in model.classifier.network.state_dict().items()}
    out.write_bytes(safetensors.torch.save(tensors, {KEY: about}))


def _torch(model: Trained, out: Path, about: str, temperature: float) -> None:
    import torch

    def trace(module: nn.Module, args: tuple, shapes: Any) -> Any:
        return torch.export.export(module, args, dynamic_shapes=shapes)

    program, buffer = _traced(trace, model, temperature), io.BytesIO()
    with warnings.catch_warnings(action="ignore"):
        torch.export.save(program, buffer, extra_files={KEY: about})
    out.write_bytes(buffer.getvalue())


def _onnx(model: Trained, out: Path, about: str, temperature: float) -> None:
    try:
        import onnx  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError:
        raise ConfigError("Expected onnx and onnxscript for --to onnx: pip install 'mollify-core[export]'") from None
    import torch

    def trace(module: nn.Module, args: tuple, shapes: Any) -> Any:
        names: dict[str, Any] = {"input_names": ["images"], "output_names": ["log_probabilities"]}
        return torch.onnx.export(module, args, dynamo=True, dynamic_shapes=shapes, verbose=False, **names)

    program = _traced(trace, model, temperature)
    program.model.metadata_props[KEY] = about
    program.save(str(out))


def _traced(trace: Any, model: Trained, temperature: float) -> Any:
    """What a tracer makes of images -> log-probabilities, for any number of images."""
    import torch
    from torch import Tensor, nn

    from mollify_core import labels
    from mollify_core.measure.calibration import scaled

    classes, recipe, normalise = len(model.names), model.classifier.recipe, model.classifier.normalise
    scale, shift = 1 / normalise.std, -normalise.mean / normalise.std

    class Program(nn.Module):
        """Images -> log-probabilities, in float32."""

        def __init__(self) -> None:
            super().__init__()
            self.network = model.classifier.network

        def forward(self, images: Tensor) -> Tensor:
            logits = self.network(torch.addcmul(shift, images, scale))
            return scaled(labels.log_probabilities(logits, classes, recipe.mollify.loss), temperature)

    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    example = torch.rand(2, *model.image_shape)
    try:
        with warnings.catch_warnings(action="ignore"), torch.no_grad():
            return trace(Program().eval(), (example,), ({0: torch.export.Dim("batch", min=1)},))
    except Exception as error:  # of a tracer that meets code it cannot follow
        network = recipe.model.network
        raise ConfigError(
            f"Cannot trace {shown(network)}: {clean(first_line(error), 200, '')}; --to state-dict needs no trace"
        ) from None


if __name__ == "__main__":
    sys.exit(main())
