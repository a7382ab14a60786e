"""The distortions against golden vectors, torchvision, NumPy, and their own definitions."""

import numpy as np
import pytest
import torch
import torchvision.transforms.v2.functional as TF
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from mollify_core.errors import ConfigError, DataError
from mollify_core.matching.distortions import (
    CLEAN,
    KINDS,
    Distortions,
    Draw,
    diffuse,
    distort,
    distort_segments,
    draw,
    drop_patches,
    gaussian_blur,
    mosaic,
    patch_count,
)
from places import FIXTURES

GOLDEN = np.load(FIXTURES / "golden.npz")
SHAPES = [(0, 3, 32, 32), (1, 3, 32, 32), (5, 1, 32, 32), (7, 3, 64, 64), (4, 3, 28, 28), (3, 2, 27, 33)]
strengths = st.floats(0, 1, width=32)
property_test = settings(max_examples=40, deadline=None, derandomize=True)


def golden(name: str) -> Tensor:
    return torch.from_numpy(GOLDEN[name])


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def images(*shape: int) -> Tensor:
    return torch.rand(shape, generator=seeded(7))


@pytest.fixture
def copies() -> Tensor:
    """The first golden image, once per golden strength: (9, 3, 32, 32)."""
    return (golden("u32")[:1].float() / 255).expand(9, -1, -1, -1)


def test_diffusion_is_golden(copies: Tensor) -> None:
    x = diffuse(copies, golden("i_d"), golden("i_diff_eps").expand(9, -1, -1, -1))
    torch.testing.assert_close(x, golden("i_diff"), atol=2e-6, rtol=0)


@pytest.mark.parametrize(("name", "config"), [("train", Distortions()), ("eval", Distortions.evaluation())])
def test_blur_is_golden(copies: Tensor, name: str, config: Distortions) -> None:
    x = gaussian_blur(copies, golden("i_d"), config.blur_sigma, config.blur_kernel)
    torch.testing.assert_close(x, golden(f"i_blur_{name}"), atol=5e-6, rtol=0)


@pytest.mark.parametrize("size", [8, 4])
def test_dropout_is_golden(copies: Tensor, size: int) -> None:
    rank = golden(f"i_drop{size}_perm").argsort().expand(9, -1)
    torch.testing.assert_close(drop_patches(copies, golden("i_d"), rank, size), golden(f"i_drop{size}"))


def test_mosaic_is_golden(copies: Tensor) -> None:
    torch.testing.assert_close(mosaic(copies, golden("i_d")), golden("i_mosaic"), atol=1e-6, rtol=0)


@pytest.mark.parametrize("config", [Distortions(), Distortions.evaluation()])
@pytest.mark.parametrize("shape", SHAPES)
def test_blur_equals_torchvisions(shape: tuple[int, ...], config: Distortions) -> None:
    x, d = images(*shape), torch.rand(shape[0], generator=seeded())
    blurred = gaussian_blur(x, d, config.blur_sigma, config.blur_kernel)
    assert blurred.shape == x.shape
    for row, strength, result in zip(x, d.double().tolist(), blurred, strict=True):
        sigma = config.blur_sigma * strength + 0.01
        kernel = min(2 * int(4 * sigma + 0.5) + 1, config.blur_kernel)
        torch.testing.assert_close(result, TF.gaussian_blur(row, [kernel] * 2, [sigma] * 2), atol=5e-6, rtol=0)


@pytest.mark.parametrize("side", [1, 2, 5, 9])
def test_blur_reflects_as_often_as_needed(side: int) -> None:
    line = np.random.default_rng(0).random(side)
    offsets = np.arange(-25, 26)
    taps = np.exp(-0.5 * (offsets / 40.01) ** 2)
    expected = np.convolve(np.pad(line, 25, mode="reflect" if side > 1 else "edge"), taps / taps.sum(), mode="valid")
    x = torch.from_numpy(line).float().expand(1, 1, side, side)
    blurred = gaussian_blur(x, torch.tensor([0.8]))
    np.testing.assert_allclose(blurred[0, 0], np.tile(expected, (side, 1)), atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", SHAPES)
def test_strength_zero_changes_nothing(kind: str, shape: tuple[int, ...]) -> None:
    x = images(*shape)
    assert torch.equal(distort(x, kind, torch.zeros(len(x)), Distortions(), seeded()), x)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", SHAPES)
def test_pixels_stay_in_the_unit_interval_and_input_stays_untouched(kind: str, shape: tuple[int, ...]) -> None:
    x = images(*shape)
    before = x.clone()
    y = distort(x, kind, torch.linspace(0, 1, len(x)), Distortions(), seeded())
    assert torch.equal(x, before)
    assert y.shape == x.shape
    assert bool(((y >= 0) & (y <= 1 + 1e-6)).all())


@property_test
@given(d=strengths, size=st.integers(1, 40), height=st.integers(1, 40), width=st.integers(1, 40))
def test_dropout_keeps_whole_patches_and_their_exact_number(d: float, size: int, height: int, width: int) -> None:
    count = patch_count(height, width, size)
    y = distort(torch.ones(2, 1, height, width), "dropout", torch.full((2,), d), Distortions(patch_size=size), seeded())
    for image in y[:, 0]:
        patches = [part for band in image.split(size) for part in band.split(size, dim=1)]
        assert len(patches) == count
        kept = [bool(patch.all()) for patch in patches]
        assert all(bool((patch == whole).all()) for patch, whole in zip(patches, kept, strict=True))
        assert sum(kept) == int(count * (1 - d))


def test_dropout_keeps_each_patch_equally_often() -> None:
    n = 4000
    y = distort(torch.ones(n, 1, 32, 32), "dropout", torch.full((n,), 0.75), Distortions(), seeded())
    kept = y[:, 0, ::8, ::8].flatten(1).mean(0)
    assert float((kept - 0.25).abs().max()) < 5 * (0.25 * 0.75 / n) ** 0.5


@property_test
@given(d=strengths, power=st.floats(0.5, 3), height=st.integers(1, 40), width=st.integers(1, 40))
def test_mosaic_replaces_blocks_by_their_means(d: float, power: float, height: int, width: int) -> None:
    x = images(1, 2, height, width)
    y = mosaic(x, torch.tensor([d]), power)
    block = max(1, int(max(height, width) * (d + 0.001) ** power))
    for band, band_x in zip(y.split(block, 2), x.split(block, 2), strict=True):
        for part, part_x in zip(band.split(block, 3), band_x.split(block, 3), strict=True):
            expected = part_x.double().mean((2, 3), keepdim=True).float().expand_as(part)
            torch.testing.assert_close(part, expected, atol=1e-6, rtol=0)


@property_test
@given(kinds=st.lists(st.integers(0, CLEAN), max_size=20), channels=st.sampled_from([1, 3]))
def test_a_mixed_batch_equals_one_call_per_kind(kinds: list[int], channels: int) -> None:
    kind = torch.tensor(kinds, dtype=torch.int64)
    x, d = images(len(kinds), channels, 32, 32), torch.rand(len(kinds), generator=seeded(3))
    mixed = distort(x, kind, d, Distortions(), seeded())
    generator = seeded()
    for k, name in enumerate(KINDS):
        rows = kind == k
        if rows.any():
            assert torch.equal(mixed[rows], distort(x[rows], name, d[rows], Distortions(), generator))
    assert torch.equal(mixed[kind == CLEAN], x[kind == CLEAN])


@pytest.mark.parametrize("side", [32, 64])
@pytest.mark.parametrize("batch", [0, 1, 2, 33, 128])
def test_segments_equal_a_mixed_batch_in_order(batch: int, side: int) -> None:
    x, drawn = images(batch, 3, side, side), draw(batch, seeded(1), p_clean=0.2)
    clean = batch - len(drawn.d)
    kind = torch.repeat_interleave(torch.arange(CLEAN + 1), torch.tensor([*drawn.counts, clean]))
    d = torch.cat([drawn.d, torch.rand(clean, generator=seeded())])
    config = Distortions.evaluation()
    by_segment = distort_segments(x, drawn, config, seeded(2))
    assert torch.equal(by_segment, distort(x, kind, d, config, seeded(2)))
    assert torch.equal(by_segment[batch - clean :], x[batch - clean :])


def test_the_generator_determines_everything() -> None:
    x, d = images(16, 3, 32, 32), torch.full((16,), 0.4)
    for kind in ("diffusion", "dropout"):
        first = distort(x, kind, d, Distortions(), seeded(5))
        assert torch.equal(first, distort(x, kind, d, Distortions(), seeded(5)))
        assert not torch.equal(first, distort(x, kind, d, Distortions(), seeded(6)))
    first, second, third = (draw(64, seeded(seed)) for seed in (5, 5, 6))
    assert first.counts == second.counts
    assert torch.equal(first.d, second.d)
    assert not torch.equal(first.d[:32], third.d[:32])


def test_memory_format_does_not_matter() -> None:
    x, kind, d = images(8, 3, 32, 32), torch.arange(8) % 4, torch.full((8,), 0.4)
    strided = x.to(memory_format=torch.channels_last)
    expected = distort(x, kind, d, Distortions(), seeded())
    torch.testing.assert_close(distort(strided, kind, d, Distortions(), seeded()), expected, atol=1e-6, rtol=0)


def test_draw_follows_its_law() -> None:
    n, shares, p_clean = 40_000, (1.0, 2.0, 0.0, 5.0), 0.2
    drawn = draw(n, seeded(), shares, p_clean, beta_a=2.0, beta_b=3.0)
    for count, share in zip(drawn.counts, shares, strict=True):
        p = share / 8 * (1 - p_clean)
        assert abs(count - n * p) <= 5 * (n * p * (1 - p)) ** 0.5
    assert drawn.d.shape == (sum(drawn.counts),)
    assert float(drawn.d.min()) >= 0
    assert float(drawn.d.max()) <= 1
    assert float(drawn.d.mean()) == pytest.approx(0.4, abs=5 * 0.2 / len(drawn.d) ** 0.5)
    assert float(drawn.d.std()) == pytest.approx(0.2, abs=0.01)


@pytest.mark.parametrize("batch", [0, 1, 50])
def test_draw_reaches_its_ends(batch: int) -> None:
    assert draw(batch, seeded(), p_clean=1.0).counts == (0, 0, 0, 0)
    assert draw(batch, seeded(), (0, 0, 3, 0)).counts == (0, 0, batch, 0)
    assert sum(draw(batch, seeded()).counts) == batch


@pytest.mark.parametrize(
    "settings",
    [{"blur_sigma": 0.0}, {"blur_kernel": 10}, {"blur_kernel": -1}, {"patch_size": 0}, {"mosaic_power": float("nan")}],
)
def test_impossible_constants_are_refused(settings: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=f"Expected `{next(iter(settings))}` to be .*, but got"):
        Distortions(**settings)


@pytest.mark.parametrize(
    "settings", [{"shares": (1, 1, 1)}, {"shares": (0, 0, 0, 0)}, {"shares": (1, 1, -1, 1)}, {"p_clean": 1.1}]
)
def test_impossible_probabilities_are_refused(settings: dict) -> None:
    with pytest.raises(ConfigError, match=f"Expected `{next(iter(settings))}`"):
        draw(4, seeded(), **settings)


def test_wrong_input_is_refused() -> None:
    x, d, config = images(2, 3, 32, 32), torch.rand(2), Distortions()
    with pytest.raises(ConfigError, match="did you mean 'mosaic'"):
        distort(x, "mosiac", d, config, seeded())
    with pytest.raises(DataError, match=r"float32 of shape .* got torch\.uint8"):
        distort_segments(x.byte(), Draw((2, 0, 0, 0), d), config, seeded())
    with pytest.raises(DataError, match=r"`d` to hold one value for each of 2 images, but got \(3,\)"):
        distort(x, "blur", torch.rand(3), config, seeded())
    with pytest.raises(DataError, match=r"`d` to be in \[0, 1\], but got 1\.5"):
        distort(x, "blur", torch.tensor([0.5, 1.5]), config, seeded())
    with pytest.raises(DataError, match=r"`kind` to be in \[0, 4\], but got 5"):
        distort(x, torch.tensor([0, 5]), d, config, seeded())


def test_a_callers_autocast_changes_nothing_and_other_types_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MOLLIFY_COMPILED", "0")
    x, d = torch.rand(8, 3, 32, 32, generator=seeded()), torch.linspace(0, 1, 8)
    pure = [lambda x: gaussian_blur(x, d), lambda x: mosaic(x, d), lambda x: diffuse(x, d, torch.ones(8, 3, 32, 32))]
    calls = [*pure, *(lambda x, k=kind: distort(x, k, d, Distortions(), seeded()) for kind in KINDS)]
    for call in calls:
        expected = call(x)
        with torch.autocast("cpu", torch.bfloat16):
            found = call(x)
        assert found.dtype == torch.float32
        assert torch.equal(found, expected)
        with pytest.raises(DataError, match=r"to be float32.*, but got torch\.bfloat16"):
            call(x.bfloat16())
