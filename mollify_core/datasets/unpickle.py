"""Read the official Python pickles safely: a restricted unpickler, and checks of what it returns.

A pickle may name any function and have it called. Here the three NumPy names that an array needs are met by small
classes of this module, every other name is refused, and so a hostile file reaches no code but what is below.
"""

from __future__ import annotations

import io
import math
import pickle
import re
from typing import Any, ClassVar

import numpy as np

from mollify_core.errors import DataError
from mollify_core.foreign import clean, shown


class _Dtype:
    """Stands in for numpy.dtype: remembers the type's code and byte order."""

    def __init__(self, code: str | bytes, *_: object) -> None:
        self.code, self.order = _text(code), "|"

    def __setstate__(self, state: tuple) -> None:
        self.order = _text(state[1])


class _Array:
    """Stands in for numpy.ndarray and for the function that makes an empty one before its state arrives."""

    value: np.ndarray

    def __init__(self, *_: object) -> None:
        pass

    def __setstate__(self, state: tuple) -> None:
        _, shape, dtype, fortran, data = state
        if not re.fullmatch(r"[<>|][biuf][1248]", dtype.order + dtype.code):
            raise ValueError(f"array of type {dtype.order + dtype.code!r}")
        array = np.frombuffer(data, np.dtype(dtype.order + dtype.code))
        self.value = array.reshape(shape, order="F" if fortran else "C")


_ALLOWED = {
    ("numpy", "dtype"): _Dtype,
    ("numpy", "ndarray"): _Array,
    ("numpy.core.multiarray", "_reconstruct"): _Array,
    ("numpy._core.multiarray", "_reconstruct"): _Array,  # its name since NumPy 2
}


def _refuse(self: Any) -> None:
    raise DataError("what no plain container needs")


class _Unpickler(pickle._Unpickler):  # in Python: six bytes can make the one in C allocate, and fill, all memory
    """Keys are plain: the hash of tuples in tuples, twice in each, takes for ever. So there are no sets either."""

    # A bytearray is made as large as its first nine bytes say; what follows asks for what is not in the file.
    dispatch: ClassVar[dict[int, Any]] = pickle._Unpickler.dispatch | {
        code[0]: _refuse
        for code in (
            *(pickle.BYTEARRAY8, pickle.EMPTY_SET, pickle.ADDITEMS, pickle.FROZENSET),
            *(pickle.NEXT_BUFFER, pickle.READONLY_BUFFER, pickle.PERSID, pickle.BINPERSID),
            *(pickle.EXT1, pickle.EXT2, pickle.EXT4, pickle.INST, pickle.OBJ),
        )
    }

    def load_setitem(self) -> None:
        *_, key, value = self.stack  # type: ignore[attr-defined]
        del self.stack[-2:]  # type: ignore[attr-defined]
        self._set(self.stack[-1], [key, value])  # type: ignore[attr-defined]

    def load_setitems(self) -> None:
        items = self.pop_mark()  # type: ignore[attr-defined]
        self._set(self.stack[-1], items)  # type: ignore[attr-defined]

    def load_dict(self) -> None:
        items = self.pop_mark()  # type: ignore[attr-defined]
        self.append({})  # type: ignore[attr-defined]
        self._set(self.stack[-1], items)  # type: ignore[attr-defined]

    @staticmethod
    def _set(target: Any, items: list[Any]) -> None:
        keys = items[::2]
        if type(target) is not dict or not all(isinstance(key, str | bytes | int | float | None) for key in keys):
            raise DataError("a key that is no name or number")
        target.update(zip(keys, items[1::2], strict=True))

    dispatch |= {pickle.SETITEM[0]: load_setitem, pickle.SETITEMS[0]: load_setitems, pickle.DICT[0]: load_dict}

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ALLOWED:
            raise DataError(f"the global {shown(f'{module}.{name}')}")
        return _ALLOWED[module, name]


def load_pickle(raw: bytes, what: str) -> dict[str, Any]:
    """The dictionary in a pickle of plain containers, bytes, strings, numbers and NumPy arrays.

    Args:
        raw: the pickle, of any protocol, from Python 2 or 3.
        what: the file's name, for errors.

    Returns:
        The dictionary with its keys as text; strings of Python 2 come as bytes.

    Raises:
        DataError: the pickle names anything else, which is not run; or it is damaged, or holds no dictionary.
    """
    try:
        tree = _Unpickler(io.BytesIO(raw), encoding="bytes").load()
    except DataError as error:
        raise DataError(f"Expected {what} to hold only arrays and plain containers, but got {error}") from None
    except Exception as error:  # hostile or damaged bytes can make the unpickler raise nearly anything
        reason = clean(" ".join(str(error).split()), 160) or type(error).__name__
        raise DataError(f"Expected {what} to be a readable pickle, but got: {reason}") from None
    if not isinstance(tree, dict) or not all(isinstance(key, (str, bytes)) for key in tree):
        raise DataError(f"Expected {what} to hold a dictionary with names as keys, but got {_kind(tree)}")
    return {_text(key): getattr(v, "value", None) if isinstance(v, _Array) else v for key, v in tree.items()}


def read_batch(
    raw: bytes, what: str, *, image_shape: tuple[int, int, int], classes: int, labels_key: str
) -> tuple[np.ndarray, np.ndarray]:
    """Images and labels of one official file.

    Args:
        raw: the pickle: under "data" (n, channels * height * width) uint8, under `labels_key` n integers.
        what: the file's name, for errors.
        image_shape: (channels, height, width).
        classes: number of classes; labels must be in [0, classes).
        labels_key: key of the labels.

    Returns:
        images (n, channels, height, width) uint8, read-only, and labels (n,) int64.

    Raises:
        DataError: the file is not of this form.
    """
    tree = load_pickle(raw, what)
    for key in ("data", labels_key):
        if key not in tree:
            raise DataError(f"Expected {what} to hold {key!r}, but got only {shown(sorted(tree), 160)}")
    data, labels = tree["data"], tree[labels_key]
    size = math.prod(image_shape)
    if not isinstance(data, np.ndarray) or data.dtype != np.uint8 or data.ndim != 2 or data.shape[1] != size:
        raise DataError(f"Expected images in {what} to be uint8 of shape (n, {size}), but got {_kind(data)}")
    if isinstance(labels, np.ndarray) and labels.ndim == 1:
        labels = labels.tolist()
    if not isinstance(labels, list) or not all(type(label) is int for label in labels):
        raise DataError(f"Expected labels in {what} to be a list of integers, but got {_kind(labels)}")
    if not 0 < len(labels) == len(data):
        raise DataError(f"Expected as many labels as images in {what}, but got {len(labels)} and {len(data)}")
    if min(labels) < 0 or max(labels) >= classes:
        worst = min(labels) if min(labels) < 0 else max(labels)
        raise DataError(f"Expected labels in {what} to be in [0, {classes}), but got {shown(worst)}")
    return data.reshape(-1, *image_shape), np.array(labels, np.int64)


def read_names(raw: bytes, what: str, *, key: str, classes: int) -> list[str]:
    """The class names in the official meta file `raw`, in the order of the labels.

    Raises:
        DataError: the file does not hold `classes` names under `key`.
    """
    names = load_pickle(raw, what).get(key)
    if not isinstance(names, list) or not all(isinstance(name, (str, bytes)) for name in names):
        raise DataError(f"Expected {what} to hold a list of names under {key!r}, but got {_kind(names)}")
    if len(names) != classes:
        raise DataError(f"Expected {what} to hold {classes} names, but got {len(names)}")
    return [_text(name) for name in names]


def _text(value: str | bytes) -> str:
    return value.decode("latin1") if isinstance(value, bytes) else value


def _kind(value: object) -> str:
    if isinstance(value, np.ndarray):
        return f"{value.dtype} of shape {value.shape}"
    return "none" if value is None else type(value).__name__
