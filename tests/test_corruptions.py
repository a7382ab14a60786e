"""Held-out corruptions against SciPy, against their own statistics, and for repeatability."""

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter

from mollify_core.corruptions import HELDOUT, SEVERITIES, corrupt
from mollify_core.corruptions.heldout import CHUNK
from mollify_core.errors import ConfigError, DataError

SIGMAS = dict(zip(SEVERITIES, (0.4, 0.6, 0.7, 0.8, 1.0), strict=True))
SCALES = dict(zip(SEVERITIES, (0.06, 0.1, 0.12, 0.16, 0.2), strict=True))
CELLS = [(name, severity) for name in HELDOUT for severity in SEVERITIES]


def pictures(*shape: int) -> torch.Tensor:
    """Random images with black and white parts, where clipping and rounding show."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, shape, np.uint8)
    images[:, :, : shape[2] // 3] = 255
    images[:, :, :, : shape[3] // 3] = 0
    return torch.from_numpy(images)


@pytest.mark.parametrize("severity", SEVERITIES)
@pytest.mark.parametrize("shape", [(20, 3, 32, 32), (5, 3, 64, 64), (5, 1, 28, 28), (3, 4, 7, 50), (2, 1, 3, 1)])
def test_blur_equals_scipys(shape: tuple[int, ...], severity: int) -> None:
    images = pictures(*shape)
    sigma = SIGMAS[severity]
    reference = gaussian_filter(images.numpy() / 255, (0, 0, sigma, sigma), mode="nearest", truncate=4.0)
    expected = np.floor(np.clip(reference, 0, 1) * 255 + 1e-6)
    np.testing.assert_array_equal(corrupt(images, "gaussian_blur", severity), expected)


@pytest.mark.parametrize("severity", SEVERITIES)
@pytest.mark.parametrize("level", [0, 1, 77, 200, 255])
def test_blur_keeps_even_surfaces(severity: int, level: int) -> None:
    images = torch.full((2, 3, 32, 32), level, dtype=torch.uint8)
    assert torch.equal(corrupt(images, "gaussian_blur", severity), images)


@pytest.mark.parametrize("severity", SEVERITIES)
def test_speckle_has_the_stated_mean_and_deviation(severity: int) -> None:
    level, scale = 120, SCALES[severity]
    noisy = corrupt(torch.full((300, 3, 32, 32), level, dtype=torch.uint8), "speckle_noise", severity).double()
    count = noisy.numel()
    assert abs(noisy.mean() - (level - 0.5)) < 5 * level * scale / count**0.5  # truncation takes half a level
    assert abs(noisy.std() / (level * scale) - 1) < 5 / (2 * count) ** 0.5 + 1 / 12 / (level * scale) ** 2
    standard = (noisy[:256, 0] + 0.5 - level) / (level * scale)
    assert abs((standard**3).mean()) < 0.02
    assert abs((standard**4).mean() - 3) < 0.06
    neighbours = (standard[:, :, 1:] * standard[:, :, :-1]).mean(), (standard[1:] * standard[:-1]).mean()
    assert max(abs(c) for c in neighbours) < 0.01


def test_speckle_clips_and_leaves_black_alone() -> None:
    images = pictures(50, 3, 32, 32)
    noisy = corrupt(images, "speckle_noise", 5)
    assert (noisy[images == 0] == 0).all()
    white = noisy[images == 255]
    assert abs((white == 255).double().mean() - 0.5) < 0.02  # half of the noise is upwards, and clipped
    assert white.min() < 100


@pytest.mark.parametrize(("name", "severity"), CELLS)
def test_the_first_rows_do_not_depend_on_the_rest(name: str, severity: int) -> None:
    images = pictures(CHUNK + 20, 1, 5, 7)  # 35 numbers an image: no multiple of any vector width
    before = images.clone()
    whole = corrupt(images, name, severity, seed=3)
    assert torch.equal(images, before)
    assert (whole.dtype, whole.shape) == (torch.uint8, images.shape)
    for k in (0, 1, 2, CHUNK - 1, CHUNK, CHUNK + 1, CHUNK + 20):
        torch.randn(k)  # the global generator plays no part
        assert torch.equal(corrupt(images[:k], name, severity, seed=3), whole[:k])


def test_noise_differs_between_rows_chunks_severities_and_seeds() -> None:
    images = torch.full((2 * CHUNK, 1, 8, 8), 100, dtype=torch.uint8)
    noisy = corrupt(images, "speckle_noise", 5)
    assert len(torch.unique(noisy.flatten(1), dim=0)) == len(images)
    for other in (corrupt(images, "speckle_noise", 5, seed=-1), corrupt(images, "speckle_noise", 4)):
        correlation = torch.corrcoef(torch.stack([noisy.flatten().double(), other.flatten().double()]))[0, 1]
        assert abs(correlation) < 5 / noisy.numel() ** 0.5


def test_corruption_grows_with_severity() -> None:
    images = pictures(50, 3, 32, 32)
    for name in HELDOUT:
        change = [(corrupt(images, name, s).double() - images).square().mean().item() for s in SEVERITIES]
        assert change == sorted(change)
        assert change[0] > 0


def test_memory_layout_does_not_matter() -> None:
    images = pictures(30, 3, 16, 16)
    for name in HELDOUT:
        last = images.to(memory_format=torch.channels_last)
        assert torch.equal(corrupt(last, name, 3), corrupt(images, name, 3))


def test_none_of_the_benchmarks_fifteen_is_here() -> None:
    fifteen = (
        "brightness contrast defocus_blur elastic_transform fog frost gaussian_noise glass_blur impulse_noise "
        "jpeg_compression motion_blur pixelate shot_noise snow zoom_blur"
    )
    assert not set(HELDOUT) & set(fifteen.split())


def test_errors() -> None:
    images = pictures(2, 3, 8, 8)
    with pytest.raises(ConfigError, match="did you mean 'speckle_noise'"):
        corrupt(images, "speckle", 1)
    with pytest.raises(ConfigError, match=r"one of \(1, 2, 3, 4, 5\), but got 0"):
        corrupt(images, "speckle_noise", 0)
    with pytest.raises(DataError, match=r"but got torch.float32 of shape \(2, 3, 8, 8\)"):
        corrupt(images.float(), "speckle_noise", 1)
    with pytest.raises(DataError, match=r"but got torch.uint8 of shape \(3, 8, 8\)"):
        corrupt(images[0], "gaussian_blur", 1)
