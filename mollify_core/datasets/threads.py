"""Work on many small things in threads."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

T = TypeVar("T")
R = TypeVar("R")


def in_threads(function: Callable[[Sequence[T]], R], items: Sequence[T], block: int = 256) -> Iterator[R]:
    """Yields function(items[:block]), function(items[block : 2 * block]) ... in this order, computed in threads.

    After an error, or when the caller stops, what has not begun never does.
    """
    pool = ThreadPoolExecutor(os.cpu_count())
    try:
        yield from pool.map(function, [items[i : i + block] for i in range(0, len(items), block)])
    finally:
        pool.shutdown(cancel_futures=True)


@contextlib.contextmanager
def single_threads(number: int) -> Iterator[ThreadPoolExecutor]:
    """A pool of threads in each of which PyTorch uses one; after an error what has not begun never does.

    PyTorch keeps one number for the whole process, so that of before is set again afterwards.
    """
    before = torch.get_num_threads()
    pool = ThreadPoolExecutor(number, initializer=torch.set_num_threads, initargs=(1,))
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(before)
