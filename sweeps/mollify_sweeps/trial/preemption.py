"""Why a process leaves: SIGTERM (a spot notice, a batch system), a word from the study, or a device that broke."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Callable
from types import FrameType, TracebackType

import ray

_POLL = 0.5  # seconds between questions to the study

_heard = _broken = False
_training = 0


def listen() -> None:
    """Lets SIGTERM ask the trial of this process to leave; between trials, and the second time, it ends the process.

    Python lets only the main thread say so. Ray Train runs a worker of a group in another one, but its actor takes
    calls in the main thread meanwhile. Where that is not so the signal stays Ray's: it ends the worker, and its trial
    goes on from the last checkpoint.
    """
    if threading.current_thread() is not threading.main_thread():
        with contextlib.suppress(Exception):
            ray.get(ray.get_runtime_context().current_actor.execute.remote(listen), timeout=10)
        return
    before = signal.getsignal(signal.SIGTERM)

    def hear(signum: int, frame: FrameType | None) -> None:
        global _heard
        if _training and not _heard:
            _heard = True
        elif callable(before):
            before(signum, frame)
        else:
            os._exit(128 + signum)

    signal.signal(signal.SIGTERM, hear)


def replace() -> None:
    """After an error of its device a process can train nothing more: another one is to take its place."""
    global _broken
    _broken = True


def ends() -> bool:
    """Whether this process is to end when its trial has left it."""
    return _heard or _broken


class Watch:
    """Whether a trial is to leave at its next step. A context: within it a trial is running.

    Args:
        ask: the study's word; asked in a thread. None: only the signal counts.
    """

    def __init__(self, ask: Callable[[], bool] | None) -> None:
        self._ask, self._asked = ask, False
        self._ended = threading.Event()

    def __call__(self) -> bool:
        return _heard or self._asked

    def __enter__(self) -> Watch:
        global _training
        _training += 1
        if self._ask is not None:
            threading.Thread(target=self._poll, args=(self._ask,), name="watch", daemon=True).start()
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        global _training
        _training -= 1
        self._ended.set()

    def _poll(self, ask: Callable[[], bool]) -> None:
        with contextlib.suppress(Exception):  # a lost study: the trial notices it when it reports
            while not self._asked and not self._ended.wait(_POLL):
                self._asked = ask()
