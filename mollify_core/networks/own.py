"""Networks of one's own: `./net.py:factory`, a file, or `package.module:factory`, an installed module.

A factory is called with the number of outputs and the `network_kwargs`, and returns a `torch.nn.Module` from
(batch, channels, height, width) to (batch, outputs) logits. A recipe says the file's name and its sha256. Its code is
run only where a user has named it on a command line of this machine, see `mollify_core.given`.
"""

from __future__ import annotations

import functools
import importlib.util
import sys
import traceback
import types
from pathlib import Path
from typing import Any

from torch import nn

from mollify_core import given
from mollify_core.disk import regular
from mollify_core.errors import ConfigError, first_line, nearest
from mollify_core.foreign import clean, expanded, shown

_LARGEST = 1 << 20  # bytes of a file of code


def is_own(name: str) -> bool:
    """Whether a network's name says a callable of one's own."""
    return ":" in name and not name.startswith(("timm/", "torchvision/"))


def named(text: str) -> dict[str, str]:
    """The settings of a recipe that mean a network as a user names it; its code may be run from now on.

    Args:
        text: "FILE.py:FACTORY" or "MODULE:FACTORY".

    Raises:
        ConfigError: there is no such code, or it has no such factory.
        StorageError: the cache cannot be written.
    """
    where, _, factory = text.rpartition(":")
    if not where or not factory.isidentifier():
        raise ConfigError(f"Expected --network FILE.py:FACTORY or MODULE:FACTORY, but got {shown(text)}")
    sha256 = admit(where)
    name = f"{Path(where).name if where.endswith('.py') else where}:{factory}"
    _factory(name, sha256)
    return {"network": name, "network_sha256": sha256}


def admit(where: str) -> str:
    """Keeps the code of a file or module that the user names, so that it may be run; returns its sha256."""
    path = expanded(where) if where.endswith(".py") else _file_of(where)
    try:
        with regular(path) as file:
            code = file.read(_LARGEST + 1)
    except OSError as error:
        raise ConfigError(f"Cannot read the network's code {shown(where, 200)}: {error.strerror or error}") from None
    if len(code) > _LARGEST:
        raise ConfigError(f"Expected code of at most {_LARGEST:,} bytes, but {shown(where, 200)} has more")
    return given.put(code, ".py")


def build(name: str, sha256: str, num_classes: int, kwargs: dict[str, Any]) -> nn.Module:
    """A freshly built network of one's own.

    Args:
        name: as `named` writes it.
        sha256: of its code.
        num_classes: number of outputs.
        kwargs: further arguments of the factory.

    Raises:
        ConfigError: the code is not admitted, changed, or broke; or it gave something else.
    """
    factory = _factory(name, sha256)
    try:
        network = factory(num_classes, **kwargs)
    except Exception as error:  # whatever somebody's code may raise
        raise ConfigError(f"Network {shown(name)} cannot be built: {_where(error, sha256)}") from None
    if not isinstance(network, nn.Module):
        raise ConfigError(f"Expected {shown(name)} to return a torch.nn.Module, but got {type(network).__name__}")
    return network


def _factory(name: str, sha256: str) -> Any:
    where, _, called = name.rpartition(":")
    code = given.get(sha256, ".py")
    if code is None:
        how = f"sha256 {sha256[:12]}…" if sha256 else "its recipe says no sha256"
        raise ConfigError(
            f"Network {shown(name)} is code of somebody's own ({how}) that was never named on this machine: read it, "
            f"then allow it by --network-code {clean(where, 100)}, or by --network in a search"
        )
    module = _of_file(where, sha256, code) if where.endswith(".py") else _of_module(where, sha256)
    found = getattr(module, called, None)
    if not callable(found):
        names = [n for n, v in vars(module).items() if callable(v) and getattr(v, "__module__", "") == module.__name__]
        what = "is not callable" if hasattr(module, called) else f"is not in it{nearest(called, names)}"
        raise ConfigError(f"Expected a factory {shown(name)}, but {shown(called)} {what}")
    return found


@functools.cache
def _of_file(where: str, sha256: str, code: bytes) -> types.ModuleType:
    """Runs the code once in this process, under a name by which what it defines can be found again."""
    module = types.ModuleType(f"mollify_network_{sha256[:12]}")
    module.__file__ = str(given.place(sha256, ".py"))
    sys.modules[module.__name__] = module
    try:
        exec(compile(code, module.__file__, "exec"), vars(module))  # nosec B102: the user has named it
    except BaseException as error:
        del sys.modules[module.__name__]
        if not isinstance(error, (Exception, SystemExit)):
            raise
        hint = ""
        if isinstance(error, ImportError):
            hint = "; a file travels alone: put all into it, or install a package and name package.module:factory"
        raise ConfigError(f"Cannot run {shown(where)}: {_where(error, sha256)}{hint}") from None
    return module


def _of_module(where: str, sha256: str) -> types.ModuleType:
    file = _file_of(where)
    if given.digest(file.read_bytes()) != sha256:
        raise ConfigError(
            f"Expected the module {where!r} with sha256 {sha256[:12]}…, but here it is another: install the same one"
        )
    return importlib.import_module(where)


def _file_of(where: str) -> Path:
    """The file of an importable module."""
    if not all(part.isidentifier() for part in where.split(".")):
        raise ConfigError(f"Expected a .py file or a module's name, but got {shown(where)}")
    try:
        spec = importlib.util.find_spec(where)
    except Exception as error:  # a package that breaks when it is imported
        raise ConfigError(f"Cannot import {where!r}: {first_line(error)}") from None
    if spec is None or spec.origin is None or not spec.origin.endswith(".py"):
        raise ConfigError(f"Found no module {where!r} installed here; of a file say its path, as in ./net.py:factory")
    return Path(spec.origin)


def _where(error: BaseException, sha256: str) -> str:
    """What an error of somebody's code says, and in which line of it."""
    lines = [f.lineno for f in traceback.extract_tb(error.__traceback__) if f.filename.endswith(f"{sha256}.py")]
    line = error.lineno if isinstance(error, SyntaxError) else lines[-1] if lines else None
    return f"{type(error).__name__}: {clean(first_line(error), 200, '')}" + (f" (line {line})" if line else "")
