"""What a sweep's study knows of running trials, and what it says while its own storage refuses."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Concatenate, ParamSpec, Protocol, TypeVar

from optuna.exceptions import StorageInternalError

from mollify_sweeps.study.database import cause


@dataclass
class Live:
    """What is known of a running trial."""

    number: int
    started: float
    epoch: int = 0
    epochs: int = 0
    value: float | None = None
    seconds: float = 0.0  # training time before this process, of an adopted trial
    note: str = ""
    workers: int | None = None  # that train it, once they do


class Teller(Protocol):
    """What `written` needs of a study: whether its storage refused the last time, and a line for the user."""

    refused: bool

    def notice(self, text: str) -> None: ...


P = ParamSpec("P")
R = TypeVar("R")
S = TypeVar("S", bound=Teller)


def written(method: Callable[Concatenate[S, P], R]) -> Callable[Concatenate[S, P], R]:
    """Tells the user once that the study's storage refuses, and once that it is well again; the caller asks again."""

    @functools.wraps(method)
    def told(self: S, *args: P.args, **kwargs: P.kwargs) -> R:
        try:
            result = method(self, *args, **kwargs)
        except StorageInternalError as error:
            if not self.refused:
                self.notice(f"the study cannot be written ({cause(error)}); trials wait until it can")
            self.refused = True
            raise
        if self.refused:
            self.notice("the study can be written again; nothing was lost")
        self.refused = False
        return result

    return told
