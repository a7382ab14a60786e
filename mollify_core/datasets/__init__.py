"""Data sets: what they are, how they are fetched and checked, and how they are read and split."""

from mollify_core.datasets.load import ImageSet
from mollify_core.datasets.lookup import spec
from mollify_core.datasets.prepare import Prepared, prepare
from mollify_core.datasets.specs import DATASETS, DatasetSpec, ImageFolder
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
