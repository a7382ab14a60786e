"""Checkpoints that are good only when their manifest verifies.

A checkpoint is a folder on any pyarrow file system (local, S3, ...): ``epoch-0007/`` after seven finished epochs,
``epoch-0007-step-000123/`` after 123 steps more. Its files:

- ``model.safetensors``   weights and buffers of the network
- ``optimizer.safetensors``   tensors of the optimiser's state
- ``average.safetensors``   the average of the weights, where there is one (else without tensors)
- ``state.json``   epoch, progress of the next one, recipe, scalars of the optimiser's state, versions
- ``manifest.json``   size and sha256 of each file above; written last

A folder without a manifest, or with a file that does not match it, is not a checkpoint. Nothing is ever unpickled.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from typing import Any

import safetensors
import safetensors.torch
from pyarrow import fs
from torch import Tensor

from mollify_core.disk import sync
from mollify_core.documents import MOST_BYTES, json_of
from mollify_core.errors import CheckpointError, first_line
from mollify_core.foreign import clean, shown
from mollify_core.kinds import Flag, ListOf, MapOf, Maybe, Number, Record, Text, Whole, checked

FORMAT = 1
MANIFEST = "manifest.json"
_FILES = {"model.safetensors", "optimizer.safetensors", "average.safetensors", "state.json"}
_HASH = Record({"size": Whole(), "sha256": Text(64)})
_MANIFEST = Record({"format": Whole(), "files": MapOf(_HASH, 100)})
_LOSS = Number(any=True)
_PROGRESS = Record({"step": Whole(1), "losses": ListOf(_LOSS, most=10**7), "errors": _LOSS, "seconds": Number(0)})
DATA = Record(
    {
        "classes": Whole(2, 10**6),
        "names": ListOf(Text(1000), most=10**6),
        **dict.fromkeys(("mean", "std"), ListOf(Number(0, 1), 1, 100)),
        "image_shape": ListOf(Whole(1, 10**5), 3, 3),
    }
)
"""What a model has to know of its images; checkpoints of earlier versions lack it."""
_META = Record(
    {},
    {
        "recipe": MapOf(),
        "fingerprint": Text(1000),
        "versions": MapOf(Text(1000)),
        "commit": Maybe(Text(1000)),
        **dict.fromkeys(("verified", "final"), Flag()),
        "feed": Text(20),
        "data": DATA,
    },
)
"""What is told of a checkpoint, where it is; `accumulate` is read by `Parts`."""
_STATE = Record(
    {"epoch": Whole(0, 1_000_000), "optimizer": MapOf(_LOSS), "meta": _META}, {"progress": Maybe(_PROGRESS)}
)
_NAME = re.compile(r"^epoch-(\d{4,})(?:-step-(\d{6,}))?$")


@dataclass(frozen=True)
class Progress:
    """What is done of an epoch that has not ended.

    Attributes:
        step: number of its steps that are done, at least 1.
        losses: sum of the losses of each of them, over all workers.
        errors: number of errors in all of them, over all workers.
        seconds: what they took.
    """

    step: int
    losses: list[float]
    errors: float
    seconds: float


@dataclass(frozen=True)
class Checkpoint:
    """The training state after `epoch` finished epochs, and what is done of the next one.

    Attributes:
        epoch: number of finished epochs.
        model: state dict of the network, tensors on the CPU.
        optimizer: the "state" part of the optimiser's state dict: parameter index -> name -> tensor or scalar.
        meta: what else belongs to it, JSON-able (recipe, versions, ...).
        average: state dict of the averaged network; empty where nothing is averaged.
        progress: of the next epoch; None between epochs.
    """

    epoch: int
    model: dict[str, Tensor]
    optimizer: dict[int, dict[str, Any]]
    meta: dict[str, Any]
    average: dict[str, Tensor] = field(default_factory=dict)
    progress: Progress | None = None

    @property
    def step(self) -> int:
        """Steps done of the next epoch; 0 between epochs."""
        return self.progress.step if self.progress else 0


def name(epoch: int, step: int = 0) -> str:
    """Folder name of the checkpoint after `epoch` finished epochs and `step` steps of the next one."""
    return f"epoch-{epoch:04d}" + (f"-step-{step:06d}" if step else "")


def to_files(checkpoint: Checkpoint) -> dict[str, bytes]:
    """The files of a checkpoint, the manifest last."""
    tensors: dict[str, Tensor] = {}
    scalars: dict[str, Any] = {}
    for index, state in checkpoint.optimizer.items():
        for key, value in state.items():
            (tensors if isinstance(value, Tensor) else scalars)[f"{index}.{key}"] = value
    progress = asdict(checkpoint.progress) if checkpoint.progress else None
    state = {"format": FORMAT, "epoch": checkpoint.epoch, "progress": progress, "optimizer": scalars}
    state["meta"] = checkpoint.meta
    files = {
        "model.safetensors": safetensors.torch.save({k: v.contiguous() for k, v in checkpoint.model.items()}),
        "optimizer.safetensors": safetensors.torch.save({k: v.contiguous() for k, v in tensors.items()}),
        "average.safetensors": safetensors.torch.save({k: v.contiguous() for k, v in checkpoint.average.items()}),
        "state.json": json.dumps(state).encode(),
    }
    return {**files, MANIFEST: _manifest(files)}


def _manifest(files: dict[str, bytes]) -> bytes:
    sizes = {k: {"size": len(v), "sha256": hashlib.sha256(v).hexdigest()} for k, v in files.items()}
    return json.dumps({"format": FORMAT, "files": sizes}).encode()


def from_files(read: Callable[[str], bytes]) -> Checkpoint:
    """The checkpoint whose files `read(name)` returns, after verifying every one of them.

    Raises:
        CheckpointError: a file is missing, damaged, or of another format.
        OSError: the storage failed; nothing is known about the checkpoint.
    """
    try:
        written = read(MANIFEST)
        manifest = checked(json_of(written), _MANIFEST, "the manifest")
        if manifest["format"] != FORMAT:
            raise CheckpointError(f"Expected a checkpoint of format {FORMAT}, but got {manifest['format']}")
        names = manifest["files"].keys()
        if names not in (_FILES, _FILES - {"average.safetensors"}):  # the first ones had no average
            raise CheckpointError(
                f"Expected the manifest to name {', '.join(sorted(_FILES))}, but got {shown(sorted(names))}"
            )
        files = {}
        for file, expected in manifest["files"].items():
            files[file] = data = read(file)
            digest = hashlib.sha256(data).hexdigest()
            if digest != expected["sha256"]:
                raise CheckpointError(
                    f"Checkpoint file {file} is damaged: expected {expected['size']} bytes with sha256 "
                    f"{expected['sha256'][:12]}…, but got {len(data)} bytes with {digest[:12]}…"
                )
        if _manifest(files) != written:
            raise CheckpointError("The checkpoint's manifest is damaged: it does not read as it was written")
        state = checked(json_of(files["state.json"]), _STATE, "state.json")
        optimizer: dict[int, dict[str, Any]] = {}
        entries = {**state["optimizer"], **safetensors.torch.load(files["optimizer.safetensors"])}
        for key, value in entries.items():
            index, _, field = key.partition(".")
            optimizer.setdefault(int(index), {})[field] = value
        model = safetensors.torch.load(files["model.safetensors"])
        average = safetensors.torch.load(files["average.safetensors"]) if "average.safetensors" in files else {}
        done = state.get("progress")  # older ones are of whole epochs
        progress = None if done is None else Progress(**{name: done[name] for name in Progress.__dataclass_fields__})
        return Checkpoint(state["epoch"], model, optimizer, state["meta"], average, progress)
    except CheckpointError:
        raise
    except (FileNotFoundError, AttributeError, KeyError, ValueError, TypeError, safetensors.SafetensorError) as error:
        # Any other OSError is the storage's fault, not the checkpoint's: it must not condemn a good one.
        raise CheckpointError(f"The checkpoint is incomplete or damaged: {clean(first_line(error), 300)}") from error


def make_folder(filesystem: fs.FileSystem, path: str) -> None:
    """Makes a folder where folders exist; object stores have none, and markers for them upset some servers."""
    if isinstance(filesystem, fs.LocalFileSystem):
        filesystem.create_dir(path, recursive=True)


def save(filesystem: fs.FileSystem, folder: str, checkpoint: Checkpoint) -> str:
    """Writes the checkpoint into its folder below `folder`, the manifest last, and returns that folder's path.

    On a local disk all of it survives a loss of power then, so that older ones may be removed.

    Raises:
        OSError: the storage failed; on a local disk, which may be full, what was written is removed again.
    """
    path = f"{folder}/{name(checkpoint.epoch, checkpoint.step)}"
    local = isinstance(filesystem, fs.LocalFileSystem)  # an object store answers when it has an object
    try:
        make_folder(filesystem, path)
        for file, data in to_files(checkpoint).items():
            with filesystem.open_output_stream(f"{path}/{file}", compression=None) as stream:
                stream.write(data)
            if local:  # each before the next: a manifest stands for files that are there
                sync(f"{path}/{file}")
        for kept in (path, folder) if local else ():
            sync(kept)
    except OSError:
        if local:
            with contextlib.suppress(OSError):
                remove(filesystem, path)
        raise
    return path


def load(filesystem: fs.FileSystem, path: str) -> Checkpoint:
    """The checkpoint in folder `path`.

    Raises:
        CheckpointError: it is incomplete or damaged.
        OSError: the storage failed.
    """

    def read(file: str) -> bytes:
        with filesystem.open_input_stream(f"{path}/{file}", compression=None) as stream:
            return stream.read(MOST_BYTES + 1) if file.endswith(".json") else stream.read()

    return from_files(read)


def positions(filesystem: fs.FileSystem, folder: str) -> list[tuple[int, int]]:
    """(epoch, step) of every finished (not necessarily undamaged) checkpoint under `folder`, ascending."""
    return sorted({found for found, finished in _found(filesystem, folder) if finished})


def epochs(filesystem: fs.FileSystem, folder: str) -> list[int]:
    """The whole epochs with a finished (not necessarily undamaged) checkpoint under `folder`, ascending."""
    return [epoch for epoch, step in positions(filesystem, folder) if not step]


def _found(filesystem: fs.FileSystem, folder: str) -> Iterable[tuple[tuple[int, int], bool]]:
    """((epoch, step), whether this is its manifest) of everything that belongs to a checkpoint under `folder`."""
    selector = fs.FileSelector(folder, allow_not_found=True, recursive=True)
    for info in filesystem.get_file_info(selector):
        parts = info.path.split("/")
        match = _NAME.match(parts[-1 if info.type == fs.FileType.Directory else -2])
        if match:
            yield (int(match.group(1)), int(match.group(2) or 0)), parts[-1] == MANIFEST


def load_newest(
    filesystem: fs.FileSystem, folder: str, warn: Callable[[str], None] = lambda message: None
) -> Checkpoint | None:
    """The newest good checkpoint under `folder`, or None.

    A damaged one is set aside, so that it is met once only, `warn` is told in one sentence, and the one before it is
    tried.

    Raises:
        OSError: the storage failed.
    """
    for epoch, step in reversed(positions(filesystem, folder)):
        try:
            return load(filesystem, f"{folder}/{name(epoch, step)}")
        except CheckpointError as error:
            warn(f"Set aside the checkpoint of epoch {epoch}{f', step {step}' if step else ''}: {error}")
            set_aside(filesystem, folder, epoch, step)
    return None


def keep_newest(filesystem: fs.FileSystem, folder: str, count: int) -> None:
    """Removes all checkpoints under `folder` but the newest `count`, and those that were never finished."""
    found = list(_found(filesystem, folder))
    finished = sorted({position for position, manifest in found if manifest})
    for epoch, step in sorted({position for position, _ in found} - set(finished[-count:])):
        remove(filesystem, f"{folder}/{name(epoch, step)}")


def set_aside(filesystem: fs.FileSystem, folder: str, epoch: int, step: int = 0) -> None:
    """Renames a checkpoint to ``bad-epoch-NNNN``, under which it is not found again."""
    _move(filesystem, f"{folder}/{name(epoch, step)}", f"{folder}/bad-{name(epoch, step)}")


def remove(filesystem: fs.FileSystem, path: str) -> None:
    """Removes a checkpoint, the manifest first, file by file: some S3 servers cannot delete many at once."""
    files = [info.path for info in filesystem.get_file_info(fs.FileSelector(path, allow_not_found=True))]
    for file in sorted(files, key=lambda f: not f.endswith(MANIFEST)):
        filesystem.delete_file(file)
    if isinstance(filesystem, fs.LocalFileSystem) and filesystem.get_file_info(path).type == fs.FileType.Directory:
        filesystem.delete_dir(path)


def _move(filesystem: fs.FileSystem, source: str, target: str) -> None:
    make_folder(filesystem, target)
    for info in filesystem.get_file_info(fs.FileSelector(source)):
        filesystem.move(info.path, f"{target}/{info.base_name}")
    if isinstance(filesystem, fs.LocalFileSystem):
        filesystem.delete_dir(source)


KEEP = 2  # checkpoints of a running trial: the newest, and the one before should it be damaged
