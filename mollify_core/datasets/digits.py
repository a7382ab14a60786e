"""The handwritten digits that scikit-learn ships, enlarged to 32x32 pixels in three equal channels."""

from __future__ import annotations

import hashlib
from functools import partial

import numpy as np

from mollify_core.datasets.download import Progress
from mollify_core.datasets.source import Arrays, Source
from mollify_core.datasets.split import stratified_split


def source() -> Source:
    """The 1797 images of 8x8 pixels, 0..16, and their labels."""
    import sklearn
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    raw = {"images": images.astype(np.uint8).tobytes(), "labels": labels.astype(np.uint8).tobytes()}
    checksums = {name: hashlib.md5(content, usedforsecurity=False).hexdigest() for name, content in raw.items()}
    return Source(f"scikit-learn {sklearn.__version__}", checksums, partial(_parse, raw))


def _parse(raw: dict[str, bytes], _: Progress | None) -> tuple[Arrays, list[str]]:
    small = np.frombuffer(raw["images"], np.uint8).reshape(-1, 8, 8).astype(np.float64)
    labels = np.frombuffer(raw["labels"], np.uint8).astype(np.int64)
    at = (np.arange(32) + 0.5) / 4 - 0.5  # pixel centres of the large image in the small one; the border replicates
    weights = np.stack([np.interp(at, np.arange(8), row) for row in np.eye(8)], axis=1)
    large = weights @ small @ weights.T  # all numbers are multiples of 1/64: exact, so equal on every machine
    images = np.rint(large * (255 / 16)).astype(np.uint8)[:, None].repeat(3, axis=1)
    train, test = stratified_split(labels, 0.2, seed=0, fingerprint="digits")
    arrays = {"train": (images[train], labels[train]), "test": (images[test], labels[test])}
    return arrays, [str(digit) for digit in range(10)]
