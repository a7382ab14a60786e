"""Held-out corruptions against SciPy and colorsys, against their own statistics, and for repeatability."""

import colorsys

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter
from scipy.stats import norm

from mollify_core.corruptions import HELDOUT, SEVERITIES, corrupt
from mollify_core.corruptions.benchmark import BENCHMARK
from mollify_core.corruptions.draws import CHUNK, normal, stream
from mollify_core.corruptions.strengths import strength
from mollify_core.errors import ConfigError, DataError

SIGMAS = {32: (0.4, 0.6, 0.7, 0.8, 1.0), 64: (0.5, 0.75, 1.0, 1.25, 1.5)}
SCALES = {32: (0.06, 0.1, 0.12, 0.16, 0.2), 64: (0.15, 0.2, 0.25, 0.3, 0.35)}
SATURATIONS = {
    32: ((0.3, 0), (0.1, 0), (1.5, 0), (2, 0.1), (2.5, 0.2)),
    64: ((0.3, 0), (0.1, 0), (2, 0), (5, 0.1), (30, 0.2)),
}
CELLS = [(name, severity) for name in HELDOUT for severity in SEVERITIES]


def pictures(*shape: int) -> torch.Tensor:
    """Random images with black and white parts, where clipping and rounding show."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, shape, np.uint8)
    images[:, :, : shape[2] // 3] = 255
    images[:, :, :, : shape[3] // 3] = 0
    return torch.from_numpy(images)


@pytest.mark.parametrize("severity", SEVERITIES)
@pytest.mark.parametrize("shape", [(20, 3, 32, 32), (5, 3, 64, 64), (5, 1, 28, 28), (3, 3, 9, 50), (2, 1, 13, 8)])
def test_blur_equals_scipys(shape: tuple[int, ...], severity: int) -> None:
    images = pictures(*shape)
    sigma = SIGMAS[64 if max(shape[2:]) > 48 else 32][severity - 1]
    reference = gaussian_filter(images.numpy() / 255, (0, 0, sigma, sigma), mode="nearest", truncate=4.0)
    expected = np.floor(np.clip(reference, 0, 1) * 255 + 1e-6)
    np.testing.assert_array_equal(corrupt(images, "gaussian_blur", severity), expected)


@pytest.mark.parametrize("severity", SEVERITIES)
@pytest.mark.parametrize("level", [0, 1, 77, 200, 255])
def test_blur_keeps_even_surfaces(severity: int, level: int) -> None:
    images = torch.full((2, 3, 32, 32), level, dtype=torch.uint8)
    assert torch.equal(corrupt(images, "gaussian_blur", severity), images)


@pytest.mark.parametrize("side", [32, 64])
@pytest.mark.parametrize("severity", SEVERITIES)
def test_speckle_has_the_stated_mean_and_deviation(severity: int, side: int) -> None:
    level, scale = 100, SCALES[side][severity - 1]
    noisy = corrupt(torch.full((256, 3, side, side), level, dtype=torch.uint8), "speckle_noise", severity).double()
    below = norm.cdf(np.arange(1, 256), level, level * scale)  # clipped and truncated: P(result < 1), ... < 255
    share = np.diff(below, prepend=0, append=1)
    mean = (share * np.arange(256)).sum()
    deviation = (share * (np.arange(256) - mean) ** 2).sum() ** 0.5
    count = noisy.numel()
    assert abs(noisy.mean() - mean) < 5 * deviation / count**0.5
    assert abs(noisy.std() / deviation - 1) < 5 / (2 * count) ** 0.5
    standard = (noisy[:, 0] - mean) / deviation
    assert abs((standard**3).mean()) < (0.02 if scale <= 0.2 else 0.1)
    assert abs((standard**4).mean() - 3) < (0.06 if scale <= 0.2 else 0.2)
    neighbours = (standard[:, :, 1:] * standard[:, :, :-1]).mean(), (standard[1:] * standard[:-1]).mean()
    assert max(abs(c) for c in neighbours) < 0.01


def test_speckle_clips_and_leaves_black_alone() -> None:
    images = pictures(50, 3, 32, 32)
    noisy = corrupt(images, "speckle_noise", 5)
    assert (noisy[images == 0] == 0).all()
    white = noisy[images == 255]
    assert abs((white == 255).double().mean() - 0.5) < 0.02  # half of the noise is upwards, and clipped
    assert white.min() < 100


@pytest.mark.parametrize("side", [32, 64])
@pytest.mark.parametrize("severity", SEVERITIES)
def test_saturation_equals_colorsys(severity: int, side: int) -> None:
    factor, add = SATURATIONS[side][severity - 1]
    images = pictures(1, 3, side, side)
    images[0, :, side // 2 :, -9:] = images[0, :1, side // 2 :, -9:]  # grey
    expected = np.empty((3, side, side))
    for y, x in np.ndindex(side, side):
        hue, saturation, value = colorsys.rgb_to_hsv(*(images[0, :, y, x].numpy() / 255))
        expected[:, y, x] = colorsys.hsv_to_rgb(hue, min(1, saturation * factor + add), value)
    np.testing.assert_array_equal(corrupt(images, "saturate", severity)[0], np.floor(expected * 255 + 1e-3))


def test_saturation_leaves_images_of_one_channel() -> None:
    images = pictures(3, 1, 28, 28)
    assert torch.equal(corrupt(images, "saturate", 5), images)


@pytest.mark.parametrize("side", [32, 64])
@pytest.mark.parametrize("severity", [4, 5])
def test_mud_equals_scipys(severity: int, side: int) -> None:
    images = pictures(20, 3, side, side)
    mean, deviation, sigma, threshold, last, _ = strength("spatter", severity, side)
    noise = normal(20, (side, side), stream(0, "spatter", severity, 0)).numpy()
    drops = gaussian_filter(noise * deviation + mean, (0, sigma, sigma), mode="nearest") > threshold
    opacity = gaussian_filter(drops.astype(np.float64), (0, last, last), mode="nearest")
    opacity[opacity < 0.8] = 0
    opacity = opacity[:, None]
    brown = np.array([63, 42, 20]).reshape(3, 1, 1)
    expected = np.floor(images.numpy() * (1 - opacity) + brown * opacity + 1e-4)
    result = corrupt(images, "spatter", severity).numpy()
    assert (result != expected).mean() < 1e-3  # noise is float32 there
    assert abs(result - expected).max() <= 1
    assert 0.005 < (opacity > 0).mean() < 0.2


@pytest.mark.parametrize("side", [32, 64])
@pytest.mark.parametrize("severity", [1, 2, 3])
def test_water_lightens_drops_only(severity: int, side: int) -> None:
    images = torch.full((60, 3, side, side), 60, dtype=torch.uint8)
    mean, deviation, sigma, threshold, last, _ = strength("spatter", severity, side)
    noise = normal(60, (side, side), stream(0, "spatter", severity, 0)).numpy()
    drops = gaussian_filter(noise * deviation + mean, (0, sigma, sigma), mode="nearest") > threshold
    added = corrupt(images, "spatter", severity).int().numpy() - 60
    assert added.min() == 0
    assert (added.max(1)[~drops] == 0).mean() > 0.9999
    red, green, blue = added.transpose(1, 0, 2, 3)
    np.testing.assert_array_equal(green, blue)  # pale turquoise
    np.testing.assert_allclose(red, green * (175 / 238), atol=1)
    brightest = added.max((1, 2, 3))[drops.any((1, 2))]  # the most opaque pixel of an image
    np.testing.assert_allclose(brightest, np.floor(238 * last), atol=1)


@pytest.mark.parametrize(("name", "severity"), CELLS)
def test_the_first_rows_do_not_depend_on_the_rest(name: str, severity: int) -> None:
    images = pictures(CHUNK + 20, 3, 9, 11)  # 297 numbers an image: no multiple of any vector width
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
    assert set(HELDOUT) == {"speckle_noise", "gaussian_blur", "spatter", "saturate"}
    assert not set(HELDOUT) & set(fifteen.split())
    for name in BENCHMARK:
        with pytest.raises(ConfigError, match="Unknown held-out corruption"):
            corrupt(pictures(1, 3, 32, 32), name, 1)


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
    with pytest.raises(DataError, match=r"but got torch.uint8 of shape \(2, 2, 8, 8\)"):
        corrupt(images[:, :2], "saturate", 1)
    with pytest.raises(DataError, match="at least 8 pixels a side, but got 8 x 7"):
        corrupt(images[..., :7], "spatter", 1)
