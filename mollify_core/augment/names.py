"""The names of the augmentations, their order of application, and which of them exclude each other."""

from __future__ import annotations

from collections.abc import Iterable

from mollify_core.errors import ConfigError, nearest

POLICIES = ("trivialaugment", "randaugment", "autoaugment", "autoaugment_cifar10", "augmix", "augmix_reduced")
"""Automatic augmentations, of which a batch goes through one at most."""

BATCH_AUGMENTATIONS = ("mixup", "cutmix")
"""What mixes the images of a batch and their labels, one of them at most: see `mollify_core.augment.mix`."""

AUGMENTATIONS = ("flip", "crop", "rotate", "resized_crop", *POLICIES, *BATCH_AUGMENTATIONS)
"""All names, in the order of application."""


def canonical(names: Iterable[str]) -> tuple[str, ...]:
    """`names` in the order of application.

    Raises:
        ConfigError: a name is unknown or repeated, or two automatic or two mixing augmentations are named.
    """
    names = list(names)
    for name in names:
        if name not in AUGMENTATIONS:
            raise ConfigError(f"Unknown augmentation {name!r}{nearest(name, AUGMENTATIONS)}")
    if len(set(names)) < len(names):
        raise ConfigError(f"Expected augmentations without repetition, but got {', '.join(names)}")
    for alternatives in (POLICIES, BATCH_AUGMENTATIONS):
        chosen = [name for name in names if name in alternatives]
        if len(chosen) > 1:
            raise ConfigError(
                f"Expected at most one augmentation out of {', '.join(alternatives)}, but got {' and '.join(chosen)}"
            )
    return tuple(name for name in AUGMENTATIONS if name in names)
