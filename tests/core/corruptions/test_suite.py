"""The nineteen corruptions against independent programs of the published algorithms, and against their own statistics.

The references go image by image and pixel by pixel, with SciPy, Pillow, colorsys and NumPy. They take the random draws
from the same streams, in the order that each corruption's function states or has.
"""

import colorsys
import importlib.util
import io
import math
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import ndimage, stats

from mollify_core.corruptions import draws, spatter, weather
from mollify_core.corruptions.benchmark import CORRUPTIONS, SEVERITIES
from mollify_core.corruptions.draws import CHUNK, stream
from mollify_core.corruptions.frost import PHOTOGRAPHS
from mollify_core.corruptions.strengths import CIFAR, TINY_IMAGENET, strength
from mollify_core.corruptions.suite import corrupt
from mollify_core.errors import ConfigError, DataError

SIDES = [32, 64]


def pictures(n: int, channels: int, height: int, width: int) -> torch.Tensor:
    """Smooth images with edges and a little noise, some of it black or white; reproducible."""
    rng = np.random.default_rng(0)
    coarse = rng.normal(128, 90, (n, channels, 4, 4))
    smooth = ndimage.zoom(coarse, (1, 1, height / 4, width / 4), order=1, mode="nearest", grid_mode=True)
    smooth[:, :, height // 4 : height // 2, width // 3 : width // 2] += 90
    return torch.from_numpy(np.clip(smooth + rng.normal(0, 6, smooth.shape), 0, 255).astype(np.uint8))


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of photographs of noise, in the published sizes or near them."""
    folder = tmp_path_factory.mktemp("frost")
    rng = np.random.default_rng(1)
    for i, name in enumerate(PHOTOGRAPHS):
        coarse = rng.integers(0, 256, (65 + i, 100, 3), np.uint8)
        Image.fromarray(coarse).resize((560 + i, 350 + 5 * i)).save(folder / name)
    return folder


def agree(result: torch.Tensor, expected: np.ndarray, share: float = 0.0) -> None:
    """At most this share of values differs, and by no more than one level."""
    difference = np.abs(result.numpy().astype(int) - expected)
    assert difference.max() <= (1 if share else 0)
    assert (difference > 0).mean() <= share


# ---------------------------------------------------------------- strengths


def test_strengths_are_the_published_ones() -> None:
    for name, cifar, tiny in (  # first and last severity, and one in between where it is odd
        ("gaussian_noise", (0.04, 0.10), (0.04, 0.18)),
        ("shot_noise", (500, 50), (250, 15)),
        ("impulse_noise", (0.01, 0.07), (0.01, 0.14)),
        ("defocus_blur", ((0.3, 0.4), (1.5, 0.1)), ((0.5, 0.6), (3, 0.1))),
        ("glass_blur", ((0.05, 1, 1), (0.4, 1, 2)), ((0.1, 1, 1), (0.9, 2, 2))),
        ("motion_blur", ((6, 1), (9, 2.5)), ((10, 1), (12, 3))),
        ("zoom_blur", (1.06, 1.26), (1.06, 1.26)),
        ("snow", ((0.1, 0.2, 1, 0.6, 8, 3, 0.95), (0.3, 0.3, 1.25, 0.65, 14, 12, 0.8)), None),
        ("snow", None, ((0.1, 0.2, 1, 0.6, 8, 3, 0.8), (0.3, 0.3, 1.25, 0.65, 14, 12, 0.6))),
        ("frost", ((1, 0.2), (0.75, 0.45)), ((1, 0.3), (0.7, 0.55))),
        ("fog", ((0.2, 3), (1.5, 1.75)), ((0.4, 3), (2, 1.75))),
        ("brightness", (0.05, 0.3), (0.1, 0.5)),
        ("contrast", (0.75, 0.15), (0.4, 0.05)),
        ("elastic_transform", ((0, 0, 0.08), (0.1, 0.03, 0.03)), ((0, 0, 0.08), (0.16, 0.03, 0.02))),
        ("pixelate", (0.95, 0.65), (0.9, 0.5)),
        ("jpeg_compression", (80, 40), (65, 25)),
        ("speckle_noise", (0.06, 0.2), (0.15, 0.35)),
        ("gaussian_blur", (0.4, 1), (0.5, 1.5)),
        ("spatter", ((0.62, 0.1, 0.7, 0.7, 0.5, 0), (0.65, 0.1, 0.5, 0.68, 0.6, 1)), None),
        ("spatter", None, ((0.62, 0.1, 0.7, 0.7, 0.6, 0), (0.65, 0.1, 0.5, 0.67, 0.6, 1))),
        ("saturate", ((0.3, 0), (2.5, 0.2)), ((0.3, 0), (30, 0.2))),
    ):
        for side, ends in ((32, cifar), (64, tiny)):
            for severity, value in zip((1, 5), ends or (), strict=False):
                assert strength(name, severity, side) == (value if isinstance(value, tuple) else (value,)), name


def test_every_corruption_has_five_strengths_of_the_nearer_set() -> None:
    for table in (CIFAR, TINY_IMAGENET):
        assert sorted(table) == sorted(CORRUPTIONS)
        assert all(len(severities) == 5 for severities in table.values())
    for side, table in ((8, CIFAR), (28, CIFAR), (48, CIFAR), (49, TINY_IMAGENET), (224, TINY_IMAGENET)):
        assert strength("glass_blur", 4, side) == table["glass_blur"][3]


# ---------------------------------------------------------------- noise


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("severity", SEVERITIES)
def test_gaussian_noise_has_the_stated_distribution(severity: int, side: int) -> None:
    noisy = corrupt(torch.full((100, 3, side, side), 128, dtype=torch.uint8), "gaussian_noise", severity).double()
    (scale,) = strength("gaussian_noise", severity, side)
    expected = stats.norm.cdf(np.arange(1, 256), 128, 255 * scale)  # clipped and truncated: P(result < 1), ... < 255
    found = np.bincount(noisy.flatten().int(), minlength=256).cumsum()[:255] / noisy.numel()
    assert np.abs(found - expected).max() < 2.2 / noisy.numel() ** 0.5  # Kolmogorov and Smirnov, at 1e-4


@pytest.mark.parametrize("photons", [500, 75, 15])
@pytest.mark.parametrize("level", [0, 1, 40, 200, 255])
def test_shot_noise_is_poissons(level: int, photons: int) -> None:
    side, severity = {500: (32, 1), 75: (32, 4), 15: (64, 5)}[photons]
    noisy = corrupt(torch.full((100, 1, side, side), level, dtype=torch.uint8), "shot_noise", severity)
    found = np.bincount(noisy.flatten().numpy(), minlength=256)
    counts = np.arange(2 * photons + 50)
    result = np.uint8(np.clip(counts / photons, 0, 1) * 255)
    expected = np.bincount(result, stats.poisson.pmf(counts, level / 255 * photons), minlength=256) * noisy.numel()
    frequent = expected > 10
    assert found[expected == 0].sum() == 0
    assert found[~frequent].sum() < 10 * (10 + expected[~frequent].sum())
    chi_square = ((found - expected)[frequent] ** 2 / expected[frequent]).sum()
    assert chi_square < frequent.sum() + 6 * (2 * frequent.sum()) ** 0.5


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("severity", SEVERITIES)
def test_impulse_noise_replaces_the_stated_share(severity: int, side: int) -> None:
    images = torch.full((100, 3, side, side), 77, dtype=torch.uint8)
    noisy = corrupt(images, "impulse_noise", severity)
    (amount,) = strength("impulse_noise", severity, side)
    for level in (0, 255):
        share = (noisy == level).double().mean().item()
        assert abs(share - amount / 2) < 5 * (amount / 2 / noisy.numel()) ** 0.5
    assert set(noisy.unique().tolist()) == {0, 77, 255}


# ---------------------------------------------------------------- blur


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("severity", SEVERITIES)
def test_defocus_equals_scipys_correlation(severity: int, side: int) -> None:
    radius, alias = strength("defocus_blur", severity, side)
    disk = np.array([[float(math.hypot(x, y) <= radius) for x in range(-8, 9)] for y in range(-8, 9)])
    edge = [math.exp(-((i / alias) ** 2) / 2) for i in (-1, 0, 1)]
    for axis in (0, 1):
        disk = ndimage.correlate1d(disk, np.array(edge) / sum(edge), axis, mode="constant")
    images = pictures(6, 3, side, side)
    blurred = ndimage.correlate(images.numpy() / 255.0, (disk / disk.sum())[None, None], mode="mirror")
    agree(corrupt(images, "defocus_blur", severity), np.floor(blurred * 255 + 1e-6))


def zoomed(image: np.ndarray, factor: float) -> np.ndarray:
    """The middle of image (height, width), magnified by SciPy and cut to size."""
    side = len(image)
    crop = math.ceil(side / factor)
    top = (side - crop) // 2
    large = ndimage.zoom(image[top : top + crop, top : top + crop], factor, order=1)
    cut = (len(large) - side) // 2
    return large[cut : cut + side, cut : cut + side]


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("severity", SEVERITIES)
def test_zoom_equals_scipys(severity: int, side: int) -> None:
    images = pictures(2, 3, side, side)
    factors = np.arange(1, (1.06, 1.11, 1.16, 1.21, 1.26)[severity - 1], 0.01)  # the published ones, to the last bit
    assert len(factors) == (7, 12, 16, 21, 26)[severity - 1]
    expected = [
        [np.mean([channel, *(zoomed(channel, factor) for factor in factors)], axis=0) for channel in image]
        for image in images.numpy() / 255.0
    ]
    agree(corrupt(images, "zoom_blur", severity), np.floor(np.array(expected) * 255 + 1e-6), 1e-4)


def smeared(image: np.ndarray, radius: float, sigma: float, angle: float) -> np.ndarray:
    """ImageMagick's motion blur of image (height, width), pixel by pixel, truncated to whole levels."""
    taps = 2 * int(radius) + 1
    weights = [math.exp(-(i**2) / (2 * sigma**2)) for i in range(taps)]
    rows, columns = np.indices(image.shape)
    total = np.zeros(image.shape)
    for i, weight in enumerate(weights):
        right = math.ceil(i * math.cos(math.radians(angle)) - 0.5)
        down = math.ceil(i * math.sin(math.radians(angle)) - 0.5)
        y, x = np.clip(rows + down, 0, len(image) - 1), np.clip(columns + right, 0, image.shape[1] - 1)
        total += weight / sum(weights) * image[y, x]
    return np.floor(np.floor(total * 257 + 0.5) / 257)  # by way of 16 bits


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("severity", SEVERITIES)
def test_motion_blur_equals_a_loop_over_images(severity: int, side: int) -> None:
    images = pictures(8, 3, side, side)
    angles = draws.uniform(8, (), stream(0, "motion_blur", severity, 0)) * 90 - 45
    expected = [
        [smeared(channel, *strength("motion_blur", severity, side), angle) for channel in image]
        for image, angle in zip(images.numpy(), angles.tolist(), strict=True)
    ]
    agree(corrupt(images, "motion_blur", severity), np.array(expected), 1e-3)


def test_motion_blur_draws_all_its_angles() -> None:
    point = torch.zeros(200, 1, 33, 33, dtype=torch.uint8)
    point[:, :, 16, 25] = 255
    blurred = corrupt(point, "motion_blur", 5).double().numpy()[:, 0]
    y, x = np.indices((33, 33)) - np.array([16, 25]).reshape(2, 1, 1)
    slope = (blurred * y).sum((1, 2)) / (blurred * x).sum((1, 2))
    angle = np.degrees(np.arctan(slope))
    assert stats.kstest(angle, "uniform", (-45, 90)).statistic < 0.13
    assert (blurred[:, :, 26:] == 0).all()  # to one side only


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("severity", SEVERITIES)
def test_glass_blur_equals_the_walk_over_pixels(severity: int, side: int) -> None:
    images = pictures(2, 3, side, side)
    sigma, reach, passes = strength("glass_blur", severity, side)
    generator = stream(0, "glass_blur", severity, 0)
    blurred = ndimage.gaussian_filter(images.numpy() / 255.0, (0, 0, sigma, sigma), mode="nearest")
    pixels = np.floor(blurred * 255 + 1e-6)
    for _ in range(int(passes)):
        drawn = draws.bits(2, (side, side), generator).numpy()
        for image, bits in zip(pixels, drawn, strict=True):
            for y in range(side - int(reach), int(reach), -1):
                for x in range(side - int(reach), int(reach), -1):
                    down, right = (int(bits[y, x]) >> shift & int(2 * reach - 1) for shift in (0, 8))
                    image[:, y, x] = image[:, y + down - int(reach), x + right - int(reach)]
    blurred = ndimage.gaussian_filter(pixels / 255, (0, 0, sigma, sigma), mode="nearest")
    agree(corrupt(images, "glass_blur", severity), np.floor(blurred * 255 + 1e-6))


# ---------------------------------------------------------------- weather


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("severity", SEVERITIES)
def test_snow_equals_a_loop_over_images(severity: int, side: int) -> None:
    images = pictures(4, 3, side, side)
    mean, deviation, magnify, threshold, radius, sigma, keep = strength("snow", severity, side)
    generator = stream(0, "snow", severity, 0)
    noise = draws.normal(4, (side, side), generator).double().numpy()
    angles = draws.uniform(4, (), generator).numpy() * 90 - 135
    expected = []
    for image, normal, angle in zip(images.numpy() / 255.0, noise, angles, strict=True):
        layer = zoomed(normal * deviation + mean, magnify)
        layer[layer < threshold] = 0
        flakes = smeared(np.floor(np.clip(layer, 0, 1) * 255), radius, sigma, angle) / 255
        grey = 0.299 * image[0] + 0.587 * image[1] + 0.114 * image[2]
        light = keep * image + (1 - keep) * np.maximum(image, grey * 1.5 + 0.5)
        expected.append(np.floor(np.clip(light + flakes + flakes[::-1, ::-1], 0, 1) * 255))
    agree(corrupt(images, "snow", severity), np.array(expected), 2e-3)


def diamond_square(noise: np.ndarray, decay: float) -> np.ndarray:
    """A cloud on a torus, point by point, scaled to [0, 1]."""
    side, points = len(noise), np.zeros_like(noise)
    step, wibble = side, 100.0
    while step > 1:
        half = step // 2
        for diamond in (False, True):
            for y in range(0, side, half):
                for x in range(0, side, half):
                    odd = (y // half % 2, x // half % 2)
                    if odd == (1, 1) and not diamond:
                        near = [(y + a * half, x + b * half) for a in (-1, 1) for b in (-1, 1)]
                    elif sum(odd) == 1 and diamond:
                        near = [(y - half, x), (y + half, x), (y, x - half), (y, x + half)]
                    else:
                        continue
                    mean = sum(points[i % side, j % side] for i, j in near) / 4
                    points[y, x] = mean + wibble * wibble * noise[y, x]
        step, wibble = half, wibble / decay
    points -= points.min()
    return points / points.max()


@pytest.mark.parametrize("side", [28, *SIDES])
@pytest.mark.parametrize("severity", [1, 5])
def test_fog_equals_diamond_squares_point_by_point(severity: int, side: int) -> None:
    images = pictures(2, 3, side, side)
    amount, decay = strength("fog", severity, side)
    noise = (
        draws.uniform(2, (max(side, 32),) * 2, stream(0, "fog", severity, 0), torch.float32).double().numpy() * 2 - 1
    )
    clouds = np.stack([diamond_square(n, decay)[:side, :side] for n in noise])[:, None]
    x = images.numpy() / 255.0
    brightest = x.max((1, 2, 3), keepdims=True)
    expected = np.floor(np.clip((x + amount * clouds) * brightest / (brightest + amount), 0, 1) * 255)
    agree(corrupt(images, "fog", severity), expected, 2e-3)


def test_clouds_of_slower_decay_are_rougher() -> None:
    uniform = torch.rand(50, 64, 64, generator=torch.Generator().manual_seed(0))
    steps = [weather.plasma(uniform, decay).diff(dim=2).square().mean() for decay in (3, 2.5, 2, 1.75)]
    assert steps == sorted(steps)
    cloud = weather.plasma(uniform, 2.0)
    assert torch.equal(cloud.amin((1, 2)), torch.zeros(50))
    assert torch.equal(cloud.amax((1, 2)), torch.ones(50))


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("severity", SEVERITIES)
def test_frost_lays_a_part_of_a_photograph_over(severity: int, side: int, channels: int, photographs: Path) -> None:
    images = pictures(30, channels, side, side)
    keep, add = strength("frost", severity, side)
    scale = 0.2 if side == 32 else 0.3
    textures = []
    for name in PHOTOGRAPHS:
        photograph = np.asarray(Image.open(photographs / name).convert("RGB" if channels == 3 else "L"), dtype=float)
        at = np.meshgrid(
            *((np.arange(round(n * scale)) + 0.5) / scale - 0.5 for n in photograph.shape[:2]), indexing="ij"
        )
        planes = photograph.reshape(*photograph.shape[:2], channels).transpose(2, 0, 1)
        textures.append(np.stack([ndimage.map_coordinates(p, at, order=1, mode="nearest") for p in planes]))
    expected = []
    for image, (which, y, x) in zip(
        images.numpy(), draws.uniform(30, (3,), stream(0, "frost", severity, 0)).tolist(), strict=True
    ):
        texture = textures[int(which * 5)]
        top, left = int(y * (texture.shape[1] - side)), int(x * (texture.shape[2] - side))
        part = np.rint(texture[:, top : top + side, left : left + side])
        expected.append(np.floor(np.clip(keep * image.astype(float) + add * part, 0, 255)))
    agree(corrupt(images, "frost", severity, frost_dir=photographs), np.array(expected), 0.01)


@pytest.mark.skipif(importlib.util.find_spec("imagecorruptions") is None, reason="needs `uv sync --extra corruptions`")
def test_the_packages_photographs_are_found_without_running_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MOLLIFY_FROST_DIR", raising=False)
    before = set(sys.modules)
    for side in SIDES:
        images = torch.zeros(50, 3, side, side, dtype=torch.uint8)
        assert corrupt(images, "frost", 5).float().mean() > 20
    assert not any(name.startswith("imagecorruptions") for name in set(sys.modules) - before)


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("severity", SEVERITIES)
def test_brightness_equals_colorsys(severity: int, side: int) -> None:
    (add,) = strength("brightness", severity, side)
    images = pictures(1, 3, side, side)
    images[0, :, :4], images[0, :, 4:8, :9] = 0, 90  # black, and grey
    expected = np.empty((1, 3, side, side))
    for y, x in np.ndindex(side, side):
        hue, saturation, value = colorsys.rgb_to_hsv(*(images[0, :, y, x].numpy() / 255))
        expected[0, :, y, x] = colorsys.hsv_to_rgb(hue, saturation, min(1, value + add))
    agree(corrupt(images, "brightness", severity), np.floor(expected * 255), 0.03)  # rounding, where levels are whole


# ---------------------------------------------------------------- digital


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("severity", SEVERITIES)
def test_contrast_moves_towards_the_mean(severity: int, side: int) -> None:
    (keep,) = strength("contrast", severity, side)
    images = pictures(20, 3, side, side)
    x = images.numpy() / 255.0
    mean = x.mean((2, 3), keepdims=True)
    agree(corrupt(images, "contrast", severity), np.floor(((x - mean) * keep + mean) * 255 + 1e-4), 1e-3)


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("severity", SEVERITIES)
def test_elastic_transform_equals_scipys_resampling(severity: int, side: int) -> None:
    images = pictures(3, 3, side, side)
    reach, sigma, corners = strength("elastic_transform", severity, side)
    generator = stream(0, "elastic_transform", severity, 0)
    moves = (draws.uniform(3, (3, 2), generator).numpy() * 2 - 1) * corners * side
    fields = draws.uniform(3, (2, side, side), generator, torch.float32).double().numpy() * 2 - 1
    middle, third = side // 2, side // 3
    old = np.array(
        [(middle + third, middle + third), (middle + third, middle - third), (middle - third, middle - third)]
    )
    rows, columns = np.indices((side, side))
    expected = []
    for image, move, field in zip(images.numpy() / 255.0, moves, fields, strict=True):
        matrix = np.linalg.solve(np.c_[old + move, np.ones(3)], old)  # new point to old point, both (across, down)
        across, down = (np.rint((columns * a + rows * b + c) * 32) / 32 for a, b, c in matrix.T)
        warped = [ndimage.map_coordinates(channel, (down, across), order=1, mode="mirror") for channel in image]
        if reach > 0:
            across, down = (
                columns_or_rows
                + ndimage.gaussian_filter(noise, sigma * side, mode="reflect", truncate=3) * reach * side
                for columns_or_rows, noise in zip((columns, rows), field, strict=True)
            )
            warped = [ndimage.map_coordinates(channel, (down, across), order=1, mode="reflect") for channel in warped]
        expected.append(np.floor(np.array(warped) * 255 + 2e-4))
    agree(corrupt(images, "elastic_transform", severity), np.array(expected), 2e-3)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("side", [28, *SIDES, 96])
@pytest.mark.parametrize("name", ["pixelate", "jpeg_compression"])
def test_pixelate_and_jpeg_equal_pillow(name: str, side: int, channels: int) -> None:
    images = pictures(4, channels, side, side)
    for severity in SEVERITIES:
        (value,) = strength(name, severity, side)
        expected = []
        for image in images:
            picture = Image.fromarray(image.permute(1, 2, 0).numpy().squeeze())
            if name == "pixelate":
                small = picture.resize((int(side * value), int(side * value)), Image.Resampling.BOX)
                changed = small.resize((side, side), Image.Resampling.BOX)
            else:
                file = io.BytesIO()
                picture.save(file, "JPEG", quality=int(value))
                changed = Image.open(file)
            expected.append(np.asarray(changed).reshape(side, side, channels).transpose(2, 0, 1))
        agree(corrupt(images, name, severity), np.array(expected))


# ---------------------------------------------------------------- spatter (the rest is in test_corruptions.py)


def test_edge_distance_is_the_chamfers() -> None:
    rng = np.random.default_rng(0)
    marked = rng.random((6, 17, 23)) < np.array([0.004, 0.01, 0.05, 0.3, 0, 1]).reshape(6, 1, 1)
    one, diagonal, knight = 10_000, 14_000, 21_969
    steps = {(0, 1): one, (1, 0): one, (1, 1): diagonal, (1, 2): knight, (2, 1): knight}
    expected = np.where(marked, 0.0, np.inf)
    while True:  # relaxation to the end
        before = expected.copy()
        around = np.pad(expected, ((0, 0), (2, 2), (2, 2)), constant_values=np.inf)
        for (dy, dx), length in steps.items():
            for y, x in ((dy, dx), (-dy, dx), (dy, -dx), (-dy, -dx)):
                moved = around[:, 2 + y : 19 + y, 2 + x : 25 + x] + length
                expected = np.minimum(expected, moved)
        if np.array_equal(before, expected):
            break
    found = spatter.edge_distance(torch.from_numpy(marked)).numpy()
    np.testing.assert_array_equal(found, np.minimum(expected, 20 * 10_000))


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("severity", [1, 2, 3])
def test_water_equals_opencvs(severity: int, side: int) -> None:
    cv2 = pytest.importorskip("cv2")
    mean, deviation, sigma, threshold, _, _ = strength("spatter", severity, side)
    noise = np.random.default_rng(severity).normal(mean, deviation, (100, side, side))
    layer = ndimage.gaussian_filter(noise, (0, sigma, sigma), mode="nearest")
    drops = np.uint8(np.where(layer < threshold, 0, layer) * 255)
    edges = np.stack([cv2.Canny(drop, 50, 150) for drop in drops])
    np.testing.assert_array_equal(spatter.edges(torch.from_numpy(drops)).numpy(), edges > 0)
    expected = []
    for edge in edges:
        distance = np.minimum(cv2.distanceTransform(255 - edge, cv2.DIST_L2, 5), 20)
        equal = cv2.equalizeHist(cv2.blur(distance, (3, 3)).astype(np.uint8))
        embossed = cv2.filter2D(equal, cv2.CV_8U, np.array([[-2, -1, 0], [-1, 1, 1], [0, 1, 2]]))
        expected.append(cv2.blur(embossed, (3, 3)))
    difference = spatter.shine(torch.from_numpy(drops)).numpy() - expected
    assert np.abs(difference).max() <= 2
    assert (difference != 0).any((1, 2)).mean() <= 0.03  # a level of the equalised histogram may round otherwise


def test_images_without_drops_stay() -> None:
    drops = torch.zeros(2, 32, 32, dtype=torch.uint8)
    assert torch.isfinite(spatter.shine(drops)).all()
    images = pictures(3 * CHUNK, 3, 8, 8)  # so small that some have no drop
    changed = (corrupt(images, "spatter", 1) != images).flatten(1).any(1)
    assert 0 < changed.sum() < len(images)


# ---------------------------------------------------------------- all of them


@pytest.mark.parametrize("name", CORRUPTIONS)
@pytest.mark.parametrize("shape", [(CHUNK + 4, 1, 28, 28), (CHUNK + 4, 3, 21, 17)])
def test_the_first_rows_do_not_depend_on_the_rest_nor_on_threads(
    name: str, shape: tuple[int, int, int, int], photographs: Path
) -> None:
    images = pictures(*shape)
    before = images.clone()
    severity = sum(shape) % 5 + 1
    whole = corrupt(images, name, severity, seed=3, frost_dir=photographs)
    assert torch.equal(images, before)
    assert (whole.dtype, whole.shape) == (torch.uint8, images.shape)
    assert not torch.equal(whole, images) or (name == "saturate" and shape[1] == 1)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(3 - min(threads, 2))
        for k in (0, 1, CHUNK + 1):
            torch.randn(k)  # the global generator plays no part
            assert torch.equal(corrupt(images[:k], name, severity, seed=3, frost_dir=photographs), whole[:k])
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_large_images_and_other_layouts(name: str, photographs: Path) -> None:
    images = pictures(2, 3, 96, 96)
    result = corrupt(images, name, 5, frost_dir=photographs)
    assert result.is_contiguous()
    last = images.to(memory_format=torch.channels_last)
    assert torch.equal(corrupt(last, name, 5, frost_dir=photographs), result)


FIXED = ["defocus_blur", "zoom_blur", "brightness", "contrast", "pixelate", "jpeg_compression"]
FIXED += ["gaussian_blur", "saturate"]
RANDOM = [name for name in CORRUPTIONS if name not in FIXED]


@pytest.mark.parametrize("name", RANDOM)
def test_draws_differ_between_rows_chunks_severities_and_seeds(name: str, photographs: Path) -> None:
    images = pictures(1, 3, 32, 32).expand(2 * CHUNK, -1, -1, -1)
    result = corrupt(images, name, 5, frost_dir=photographs)
    different = len(torch.unique(result.flatten(1), dim=0)) / len(images)
    assert different > (0.1 if name == "motion_blur" else 0.95)  # motion blur has 83 lines of whole pixels
    others = corrupt(images[:CHUNK], name, 5, seed=1, frost_dir=photographs), result[CHUNK:]
    for other in others:
        assert (other == result[:CHUNK]).flatten(1).all(1).double().mean() < 0.05


@pytest.mark.parametrize("name", CORRUPTIONS)
@pytest.mark.parametrize("side", SIDES)
def test_corruption_grows_with_severity(name: str, side: int, photographs: Path) -> None:
    images = pictures(60, 3, side, side)
    errors = []
    for severity in SEVERITIES:
        change = corrupt(images, name, severity, frost_dir=photographs).double() - images
        errors.append(change.square().mean().item())
    assert errors[0] > 0
    if name not in {"saturate", "elastic_transform"}:  # their severities differ in kind
        assert errors[4] > 1.2 * errors[0]
    if name not in {"saturate", "elastic_transform", "spatter", "glass_blur", "snow", "frost", "pixelate"}:
        assert errors == sorted(errors)


@pytest.mark.parametrize("name", ["defocus_blur", "zoom_blur", "contrast", "pixelate"])
@pytest.mark.parametrize("level", [0, 1, 77, 200, 255])
def test_even_surfaces_keep_their_value(name: str, level: int) -> None:
    for side in SIDES:
        images = torch.full((2, 3, side, side), level, dtype=torch.uint8)
        for severity in SEVERITIES:
            assert torch.equal(corrupt(images, name, severity), images)


def test_errors(tmp_path: Path, photographs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images = pictures(2, 3, 32, 32)
    with pytest.raises(ConfigError, match="did you mean 'motion_blur'"):
        corrupt(images, "motion", 1)
    with pytest.raises(ConfigError, match=r"one of \(1, 2, 3, 4, 5\), but got 6"):
        corrupt(images, "fog", 6)
    with pytest.raises(DataError, match=r"uint8 .* but got torch.float32"):
        corrupt(images.float(), "fog", 1)
    with pytest.raises(DataError, match="on the CPU, but got meta"):
        corrupt(images.to("meta"), "fog", 1)
    with pytest.raises(ConfigError, match=r"lacks frost1\.png, frost2\.png"):
        corrupt(images, "frost", 1, frost_dir=tmp_path)
    monkeypatch.setenv("MOLLIFY_FROST_DIR", str(photographs))
    assert torch.equal(corrupt(images, "frost", 1), corrupt(images, "frost", 1, frost_dir=photographs))
    for name in PHOTOGRAPHS:
        (tmp_path / name).write_bytes(b"no picture")
    with pytest.raises(ConfigError, match=r"Cannot read the photograph '.*frost1\.png'"):
        corrupt(images, "frost", 1, frost_dir=tmp_path)
    for name in PHOTOGRAPHS:
        Image.new("RGB", (300, 160)).save(tmp_path / name)
    with pytest.raises(ConfigError, match=r"frost1\.png' to be larger than 160 pixels on both axes, but got 300 x 160"):
        corrupt(images, "frost", 1, frost_dir=tmp_path)
