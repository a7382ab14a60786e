"""Image augmentations of whole uint8 batches on their device, each row with its own drawn parameters.

The names alone are light; what needs torch is imported at its first use.
"""

import importlib
from typing import TYPE_CHECKING, Any

from mollify_core.augment.names import AUGMENTATIONS, BATCH_AUGMENTATIONS, canonical

if TYPE_CHECKING:
    from mollify_core.augment.geometry import crop, flip
    from mollify_core.augment.mix import draw_mix, mix_batch
    from mollify_core.augment.pipeline import augment

__all__ = ["AUGMENTATIONS", "BATCH_AUGMENTATIONS", "augment", "canonical", "crop", "draw_mix", "flip", "mix_batch"]

_MODULES = {"augment": "pipeline", "crop": "geometry", "draw_mix": "mix", "flip": "geometry", "mix_batch": "mix"}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
