"""Data sets: what they are, how they are fetched and checked, and how they are read and split.

What a data set is, is light; what reads one is imported at its first use.
"""

import importlib
from typing import TYPE_CHECKING, Any

from mollify_core.datasets.specs import DATASETS, DatasetSpec, ImageFolder

if TYPE_CHECKING:
    from mollify_core.datasets.load import ImageSet, Prepared
    from mollify_core.datasets.lookup import spec
    from mollify_core.datasets.preparation import prepare
    from mollify_core.datasets.split import stratified_split, stratified_subset

__all__ = [
    "DATASETS",
    "DatasetSpec",
    "ImageFolder",
    "ImageSet",
    "Prepared",
    "prepare",
    "spec",
    "stratified_split",
    "stratified_subset",
]

_MODULES = {"ImageSet": "load", "Prepared": "load", "spec": "lookup", "prepare": "preparation"}
_MODULES |= dict.fromkeys(("stratified_split", "stratified_subset"), "split")


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
