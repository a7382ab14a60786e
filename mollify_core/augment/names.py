"""The names of the augmentations, their order of application, and which of them exclude each other."""

from __future__ import annotations

from collections.abc import Iterable

from mollify_core.errors import ConfigError, nearest
from mollify_core.foreign import shown

POLICIES = ("trivialaugment", "randaugment", "autoaugment", "autoaugment_cifar10", "augmix", "augmix_reduced")
"""Automatic augmentations, of which a batch goes through one at most."""

BATCH_AUGMENTATIONS = ("mixup", "cutmix")
"""What mixes the images of a batch and their labels, one of them at most: see `mollify_core.augment.mix`."""

SOFT = {
    "soft-trivialaugment": "trivialaugment",
    "soft-crop": "crop",
    "soft-erasing": "erasing",
    "soft-noise": "patch_noise",
}
"""What softens the label by its own strength, in the order of application, and the plain form that it replaces."""

AUGMENTATIONS = (
    *("flip", "crop", "rotate", "resized_crop"),
    *POLICIES,
    *SOFT,
    *("erasing", "patch_noise"),
    *BATCH_AUGMENTATIONS,
)
"""All names, in the order of application."""

_ALTERNATIVES = ((*POLICIES, "soft-trivialaugment"), BATCH_AUGMENTATIONS, *SOFT.items())
"""Augmentations of which one excludes the others."""


def canonical(names: Iterable[str]) -> tuple[str, ...]:
    """`names` in the order of application.

    Raises:
        ConfigError: a name is unknown or repeated, or two are named that exclude each other: automatic ones, mixing
            ones, a soft one and its plain form.
    """
    names = list(names)
    for name in names:
        if name not in AUGMENTATIONS:
            raise ConfigError(f"Unknown augmentation {shown(name)}{nearest(name, AUGMENTATIONS)}")
    if len(set(names)) < len(names):
        raise ConfigError(f"Expected augmentations without repetition, but got {', '.join(names[:20])}")
    for alternatives in _ALTERNATIVES:
        chosen = [name for name in names if name in alternatives]
        if len(chosen) > 1:
            raise ConfigError(
                f"Expected at most one augmentation out of {', '.join(alternatives)}, "
                f"but got {' and '.join(chosen[:9])}"
            )
    return tuple(name for name in AUGMENTATIONS if name in names)


def softens(names: Iterable[str]) -> bool:
    """Whether labels may follow one of these augmentations."""
    return not SOFT.keys().isdisjoint(names)


def with_method(names: Iterable[str], method: str) -> tuple[str, ...]:
    """The augmentations of a recipe: `names`, and its method where that is a soft one, in place of its plain form.

    Raises:
        ConfigError: see `canonical`.
    """
    if method not in SOFT:
        return canonical(names)
    return canonical((*(name for name in names if name not in (method, SOFT[method])), method))
