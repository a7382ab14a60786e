"""Work on many small things in threads."""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from typing import TypeVar

import torch

from mollify_core import granted

T = TypeVar("T")
R = TypeVar("R")


def in_threads(function: Callable[[Sequence[T]], R], items: Sequence[T], block: int = 256) -> Iterator[R]:
    """Yields function(items[:block]), function(items[block : 2 * block]) ... in this order, computed in threads.

    After an error, or when the caller stops, what has not begun never does.
    """
    pool = ThreadPoolExecutor(granted.cores())
    try:
        yield from pool.map(function, [items[i : i + block] for i in range(0, len(items), block)])
    finally:
        pool.shutdown(cancel_futures=True)


def ahead(pool: Executor, function: Callable[[T], R], items: Iterable[T], most: int) -> Iterator[R]:
    """Yields function(item) for each item, in order, computed in a pool; never more than `most` wait to be taken."""
    waiting: deque[Future[R]] = deque()
    try:
        for item in items:
            waiting.append(pool.submit(function, item))
            if len(waiting) >= most:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        for future in waiting:
            future.cancel()


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
