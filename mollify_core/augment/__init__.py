"""Image augmentations of whole uint8 batches on their device, each row with its own drawn parameters."""

from mollify_core.augment.geometry import augment, crop, flip

__all__ = ["augment", "crop", "flip"]
