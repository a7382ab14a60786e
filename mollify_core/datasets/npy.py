"""The one reader of .npy files: mapped into memory, never unpickled, and only as large as the file is."""

from __future__ import annotations

import math
import os
import warnings
from pathlib import Path
from typing import Literal

import numpy as np

from mollify_core.datasets.files import reason
from mollify_core.disk import regular
from mollify_core.errors import DataError
from mollify_core.foreign import shown

_HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
_LONGEST = 10_000  # characters of a header, which is evaluated as a literal


def load(path: Path, refusal: str) -> np.ndarray:
    """An array of numbers, mapped privately, so that PyTorch may take it for writable.

    Args:
        path: the file.
        refusal: how an error begins, to which the reason is added.

    Raises:
        DataError: it is no .npy file of numbers, or its header says another size than it has.
    """
    try:
        with regular(path) as file, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what NumPy says of headers that Python 2 has written
            if file.peek(4)[:4] == b"PK\3\4":
                raise ValueError("it is a .npz archive")
            header = _HEADERS.get(np.lib.format.read_magic(file))
            if header is None:
                raise ValueError("its version is neither 1.0 nor 2.0")
            shape, fortran, dtype = header(file, _LONGEST)
            start, size = file.tell(), os.fstat(file.fileno()).st_size
        if dtype.kind not in "biuf":
            raise ValueError("it holds Python objects" if dtype.hasobject else f"it holds {dtype!s:.60}")
        if min(shape, default=0) < 0 or start + math.prod(shape) * dtype.itemsize > size:
            raise ValueError(f"its header says shape {shown(shape)} of {dtype}, and the file has {size} bytes")
        order: Literal["F", "C"] = "F" if fortran else "C"
        return np.memmap(path, dtype, "c", start, shape, order)
    except Exception as error:  # a header that lies can have nearly anything raised
        raise DataError(f"{refusal}: {reason(error)}") from None
