"""NMI against golden vectors and scikit-learn, coupled labels against golden targets."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import adjusted_mutual_info_score, normalized_mutual_info_score
from torch import Tensor

from mollify_core.errors import ConfigError, DataError
from mollify_core.labels import smooth, smoothed_cross_entropy, soft_cross_entropy
from mollify_core.matching.distortions import (
    Distortions,
    diffuse,
    distort_segments,
    draw,
    drop_patches,
    gaussian_blur,
    mosaic,
)
from mollify_core.matching.nmi import ROUNDING, normalized_mutual_information
from mollify_core.matching.strength import coupled, epsilon, strength
from mollify_core.settings import Matching
from places import FIXTURES

GOLDEN = np.load(FIXTURES / "golden.npz")
property_test = settings(max_examples=40, deadline=None, derandomize=True)


def golden(name: str) -> Tensor:
    return torch.from_numpy(GOLDEN[name])


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def pairs(batch: int, channels: int, side: int) -> tuple[Tensor, Tensor]:
    """Images with structure, from one grey level to many, and noisy versions of them."""
    coarse = torch.rand(batch, channels, 4, 4, generator=seeded(1)) * torch.linspace(0, 1, batch).view(-1, 1, 1, 1)
    x = torch.nn.functional.interpolate(coarse, size=side)
    return x, (x + 0.1 * torch.randn(x.shape, generator=seeded(2))).clamp(0, 1)


@pytest.fixture
def originals() -> Tensor:
    return golden("u32").float() / 255


def test_nmi_is_golden_on_golden_images(originals: Tensor) -> None:
    for row, name in enumerate(("i_diff", "i_blur_train", "i_drop8", "i_mosaic")):
        nmi = normalized_mutual_information(originals[:1].expand(9, -1, -1, -1), golden(name))
        torch.testing.assert_close(nmi.double(), golden("i_nmi")[row, :, 0], atol=1e-6, rtol=0)


def test_nmi_is_golden_end_to_end(originals: Tensor) -> None:
    """Rounding of a distorted image can move single pixels to a neighbouring bin, hence the tolerance."""
    d, eps, rank = golden("i_d"), golden("i_diff_eps").expand(9, -1, -1, -1), golden("i_drop8_perm").argsort()
    for number, image in enumerate(originals):
        x = image.expand(9, -1, -1, -1)
        distorted = [diffuse(x, d, eps), gaussian_blur(x, d), drop_patches(x, d, rank.expand(9, -1)), mosaic(x, d)]
        for row, y in enumerate(distorted):
            nmi = normalized_mutual_information(x, y).double()
            torch.testing.assert_close(nmi, golden("i_nmi")[row, :, number], atol=1e-3, rtol=0)


@pytest.mark.parametrize("constants_match", [False, True])
def test_nmi_is_golden_in_special_cases(originals: Tensor, constants_match: bool) -> None:
    first, second = originals
    grey, large = torch.full_like(first, 0.5), golden("u64")[0].float() / 255
    others = [first, second, golden("i_uniform"), first.flip(2), grey, grey, 1 - first, large.flip(2)]
    expected = golden("i_nmi_special").clamp(0, 1)
    expected[5] = float(constants_match)
    for x, y, value in zip([first] * 5 + [grey, first, large], others, expected, strict=True):
        nmi = normalized_mutual_information(x[None], y[None], constants_match=constants_match)
        assert float(nmi) == pytest.approx(float(value), abs=1e-6)


@pytest.mark.parametrize("use_all_bins", [False, True])
@pytest.mark.parametrize(("bins", "side"), [(2, 32), (8, 28), (16, 33), (64, 32), (64, 64), (256, 32)])
def test_nmi_equals_scikit_learns(bins: int, side: int, use_all_bins: bool) -> None:
    x, y = pairs(6, 3, side)
    nmi = normalized_mutual_information(x, y, bins, use_all_bins=use_all_bins)
    levels = bins if use_all_bins else bins - 1
    a, b = ((z * levels).numpy().astype(int).clip(0, bins - 1).reshape(6, 3, -1) for z in (x, y))
    for row in range(1, 6):  # row 0 is constant
        expected = np.mean([normalized_mutual_info_score(a[row, c], b[row, c]) for c in range(3)])
        assert float(nmi[row]) == pytest.approx(expected, abs=2e-6)


@pytest.fixture(params=["compiled", "plain"])
def form(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the kernels, where there are any, and without."""
    if request.param == "plain":
        monkeypatch.setenv("MOLLIFY_COMPILED", "0")


def drawings(count: int, side: int) -> np.ndarray:
    """(count, side, side) grey levels of graphic images: plain shapes of few levels on white; the first is white."""
    numbers = np.random.default_rng(0)
    images = np.full((count, side, side), 255)
    for image in images[1:]:
        for _ in range(numbers.integers(1, 5)):
            (top, left), (height, width) = numbers.integers(0, side - 2, 2), numbers.integers(1, side // 2, 2)
            image[top : top + height, left : left + width] = numbers.choice([0, 51, 85, 128, 170, 255])
    return images


def exact_nmi(a: np.ndarray, b: np.ndarray) -> float:
    """NMI of two images of bins."""
    single, both = (
        sum(-(p * np.log2(p)).sum() for p in (np.unique(z, return_counts=True)[1] / a.size for z in images))
        for images in ((a, b), (a * 1000 + b,))
    )
    return 2 - 2 * both / single if single else float(a.flat[0] == b.flat[0])


@pytest.mark.usefixtures("form")
@pytest.mark.parametrize("use_all_bins", [False, True])
def test_grey_levels_fall_into_exactly_their_bins(use_all_bins: bool) -> None:
    k = np.arange(256)
    image = torch.from_numpy(k).float().view(1, 1, 16, 16) / 255
    for bins in range(2, 257):
        levels = bins if use_all_bins else bins - 1
        a = np.minimum(levels * k // 255, bins - 1)
        others = np.stack([k, k[::-1], (k * 7) % 256])
        y = torch.from_numpy(others).float().view(3, 1, 16, 16) / 255
        nmi = normalized_mutual_information(image.expand_as(y), y, bins, use_all_bins=use_all_bins)
        expected = [exact_nmi(a, b) for b in np.minimum(levels * others // 255, bins - 1)]
        np.testing.assert_allclose(nmi, expected, atol=2e-6)


@pytest.mark.usefixtures("form")
@pytest.mark.parametrize(("bins", "use_all_bins"), [(64, False), (64, True), (16, False), (23, False), (256, False)])
def test_nmi_of_drawings_is_that_of_exact_means(bins: int, use_all_bins: bool) -> None:
    """Blocks of whole numbers have fractions for means, many of them on edges of bins."""
    levels, side = bins if use_all_bins else bins - 1, 32
    images = drawings(40, side)
    a = np.minimum(levels * images // 255, bins - 1)
    x = torch.from_numpy(images).float().unsqueeze(1) / 255
    for block in (2, 3, 4, 5, 8, 11, 16, 32):
        starts = np.arange(0, side, block)
        sums = np.add.reduceat(np.add.reduceat(images, starts, 1), starts, 2)
        sizes = np.minimum(starts + block, side) - starts
        b = np.minimum(levels * sums // (255 * np.outer(sizes, sizes)), bins - 1).repeat(sizes, 1).repeat(sizes, 2)
        d = torch.full((len(x),), ((block + 0.5) / side) ** 0.5 - 0.001)
        nmi = normalized_mutual_information(x, mosaic(x, d), bins, use_all_bins=use_all_bins)
        np.testing.assert_allclose(nmi, [exact_nmi(*pair) for pair in zip(a, b, strict=True)], atol=2e-6)


@pytest.mark.usefixtures("form")
@pytest.mark.parametrize("bins", [2, 16, 64, 256])
def test_areas_that_a_blur_leaves_stay_in_their_bins(bins: int) -> None:
    images = drawings(60, 32)
    x = torch.from_numpy(images).float().unsqueeze(1) / 255
    for d in (0.01, 0.02, 0.05, 0.3, 1.0):
        strengths = torch.full((len(x),), d)
        y = gaussian_blur(x, strengths)
        nmi = normalized_mutual_information(x, y, bins)
        assert float(nmi[0]) == 1  # white
        sigma = d * 50 + 0.01
        taps = np.arange(-25, 26)
        weights = np.exp(-0.5 * (taps / sigma) ** 2) * (abs(taps) <= math.floor(4 * sigma + 0.5))
        padded = np.pad(images / 255, ((0, 0), (25, 25), (25, 25)), "reflect")
        for axis in (1, 2):
            padded = np.apply_along_axis(np.convolve, axis, padded, weights / weights.sum(), "valid")
        left = np.where(abs(padded - images / 255) < ROUNDING, images / 255, padded)
        a, b = ((np.floor((bins - 1) * z + 1e-9)) for z in (images / 255, left))  # in float64 1e-9 is beyond rounding
        np.testing.assert_allclose(nmi, [exact_nmi(*pair) for pair in zip(a, b, strict=True)], atol=2e-3)
        undone = (x - 0.5071) / 0.2675 * 0.2675 + 0.5071  # what normalising and undoing it leaves
        torch.testing.assert_close(normalized_mutual_information(undone, y, bins), nmi, atol=2e-3, rtol=0)


@pytest.mark.parametrize("bins", [8, 64])
def test_corrected_nmi_is_the_adjusted_mutual_information(bins: int) -> None:
    """scikit-learn takes the expectation over permutations in closed form, this package one permutation."""
    x, y = pairs(5, 1, 32)
    nmi = normalized_mutual_information(x, y, bins, corrected=True)
    for row in range(1, 5):
        a, b = ((z[row] * (bins - 1)).numpy().astype(int).ravel() for z in (x, y))
        assert float(nmi[row]) == pytest.approx(adjusted_mutual_info_score(a, b), abs=0.01)


@pytest.mark.parametrize("bins", [8, 64])
def test_correction_removes_chance_agreement(bins: int) -> None:
    x, y = torch.rand(64, 3, 32, 32, generator=seeded()), torch.rand(64, 3, 32, 32, generator=seeded(1))
    raw = normalized_mutual_information(x, y, bins)
    corrected = normalized_mutual_information(x, y, bins, corrected=True)
    assert float(corrected.mean()) < float(raw.mean()) / 5


@property_test
@given(
    batch=st.integers(0, 5),
    channels=st.sampled_from([1, 3]),
    height=st.integers(1, 17),
    width=st.integers(1, 17),
    levels=st.integers(1, 70),
    bins=st.integers(2, 80),
    seed=st.integers(0, 99),
    use_all_bins=st.booleans(),
    corrected=st.booleans(),
)
def test_nmi_is_a_similarity(
    batch: int,
    channels: int,
    height: int,
    width: int,
    levels: int,
    bins: int,
    seed: int,
    use_all_bins: bool,
    corrected: bool,
) -> None:
    options = {"bins": bins, "use_all_bins": use_all_bins}
    x, y = (torch.randint(levels, (2, batch, channels, height, width), generator=seeded(seed)) / 69).float()
    nmi = normalized_mutual_information(x, y, **options, corrected=corrected)
    assert nmi.shape == (batch,)
    assert bool(((nmi >= 0) & (nmi <= 1)).all())
    torch.testing.assert_close(
        normalized_mutual_information(x, y, **options),
        normalized_mutual_information(y, x, **options),
        atol=1e-6,
        rtol=0,
    )
    same = normalized_mutual_information(x, x, **options, corrected=corrected)
    torch.testing.assert_close(same, torch.ones(batch), atol=1e-4 if corrected else 1e-6, rtol=0)


@pytest.mark.parametrize("side", [28, 32])
def test_nearly_constant_images_equal_themselves(side: int) -> None:
    x = torch.full((1, 1, side, side), 0.3)
    x[..., 0, 0] = 0.9
    assert float(normalized_mutual_information(x, x)) == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize("corrected", [False, True])
@pytest.mark.parametrize(("batch", "channels", "side"), [(0, 3, 32), (1, 1, 32), (33, 3, 32), (70, 1, 32), (35, 3, 64)])
def test_nmi_of_a_batch_is_that_of_each_pair(batch: int, channels: int, side: int, corrected: bool) -> None:
    x, y = pairs(batch, channels, side)
    nmi = normalized_mutual_information(x, y, corrected=corrected)
    alone = [normalized_mutual_information(a[None], b[None], corrected=corrected) for a, b in zip(x, y, strict=True)]
    assert torch.equal(nmi, torch.cat([torch.empty(0), *alone]))


def test_nmi_reads_strided_and_out_of_range_images() -> None:
    x, y = pairs(5, 3, 32)
    expected = normalized_mutual_information(x, y)
    strided = x.to(memory_format=torch.channels_last)
    assert torch.equal(normalized_mutual_information(strided, y.flip(0).flip(0)), expected)
    wide = torch.where(y == 0, -0.7, torch.where(y == 1, 1.6, y))
    assert torch.equal(normalized_mutual_information(x, wide), expected)


def test_nmi_refuses_wrong_input() -> None:
    x, y = pairs(2, 3, 32)
    with pytest.raises(ConfigError, match="`bins` to be from 2 to 256, but got 1"):
        normalized_mutual_information(x, y, 1)
    with pytest.raises(DataError, match=r"of the same shape .* \(2, 3, 32, 32\) and .* \(1, 3, 32, 32\)"):
        normalized_mutual_information(x, y[:1])
    with pytest.raises(DataError, match=r"torch\.float64"):
        normalized_mutual_information(x, y.double())


@property_test
@given(
    nmi=st.lists(st.floats(0, 1, width=32), min_size=2, max_size=8),
    scale=st.floats(0, 1),
    power=st.floats(0.25, 4),
    ceiling=st.floats(0, 1),
)
def test_epsilon_falls_as_nmi_rises(nmi: list[float], scale: float, power: float, ceiling: float) -> None:
    config = Matching(epsilon_scale=scale, epsilon_power=power, max_epsilon=ceiling)
    eps = epsilon(torch.tensor(sorted(nmi)), config)
    assert bool((eps.diff() <= 0).all())
    assert bool(((eps >= 0) & (eps <= np.float32(ceiling))).all())
    assert eps.tolist() == pytest.approx([min(ceiling, scale * (1 - v) ** power) for v in sorted(nmi)], abs=1e-6)


@pytest.mark.parametrize("classes", [2, 10, 100])
def test_both_spreads_are_the_published_targets(classes: int) -> None:
    eps, labels = torch.linspace(0, 0.5, 9), torch.arange(9) % classes
    hit = torch.nn.functional.one_hot(labels, classes).bool()
    logits = torch.randn(9, classes, generator=seeded())
    for spread, true, other in (
        ("all", 1 - eps + eps / classes, eps / classes),
        ("others", 1 - eps, eps / (classes - 1)),
    ):
        g = strength(eps, classes, Matching(spread=spread, max_epsilon=0.5))
        targets = smooth(F.one_hot(labels, classes).float(), g)
        torch.testing.assert_close(targets, torch.where(hit, true[:, None], other[:, None]))
        torch.testing.assert_close(smoothed_cross_entropy(logits, labels, g), soft_cross_entropy(logits, targets))


def test_training_samples_are_golden(originals: Tensor) -> None:
    d, x = golden("i_item_d"), originals[:1].expand(4, -1, -1, -1)
    distorted = torch.cat(
        [
            diffuse(x[:1], d[:1], golden("i_diff_eps")[None]),
            gaussian_blur(x[:1], d[1:2]),
            drop_patches(x[:1], d[2:3], golden("i_drop8_perm").argsort()[None]),
            mosaic(x[:1], d[3:]),
        ]
    )
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in ((0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761)))
    torch.testing.assert_close((distorted - mean) / std, golden("i_item_image"), atol=1e-5, rtol=0)
    config = Matching()
    eps = epsilon(normalized_mutual_information(x, distorted), config)
    targets = smooth(F.one_hot(torch.full((4,), 7), 100).float(), strength(eps, 100, config))
    torch.testing.assert_close(targets, golden("i_item_target"), atol=1e-3, rtol=0)


def test_fixed_smoothing_is_golden() -> None:
    config = Matching()
    g = strength(torch.full((1,), config.fixed_epsilon), 100, config, "fixed_epsilon")
    torch.testing.assert_close(smooth(F.one_hot(torch.tensor([7]), 100).float(), g)[0], golden("i_ls_target"))


@pytest.mark.parametrize("p_clean", [0.0, 0.3, 1.0])
@pytest.mark.parametrize(("batch", "channels", "side"), [(0, 3, 32), (1, 3, 32), (37, 1, 32), (64, 3, 32), (5, 3, 64)])
def test_labels_are_coupled_to_the_distorted_rows(batch: int, channels: int, side: int, p_clean: float) -> None:
    x, _ = pairs(batch, channels, side)
    drawn = draw(batch, seeded(1), p_clean=p_clean)
    distorted, n = distort_segments(x, drawn, Distortions(), seeded(2)), len(drawn.d)
    g = coupled(x[:n], distorted[:n], batch, 10, Matching())
    nmi = normalized_mutual_information(x, distorted)
    torch.testing.assert_close(g, (1 - nmi).clamp(max=0.9), atol=1e-6, rtol=0)
    assert torch.equal(g[n:], torch.zeros(batch - n))


def test_strengths_are_determined_by_the_generator() -> None:
    x, _ = pairs(32, 3, 32)
    drawn = draw(32, seeded(1))
    distorted = [distort_segments(x, drawn, Distortions(), seeded(seed)) for seed in (4, 4, 5)]
    first, second, third = (coupled(x, y, 32, 10, Matching()) for y in distorted)
    assert torch.equal(first, second)
    assert not torch.equal(first, third)


def test_a_spread_that_favours_the_other_classes_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"`max_epsilon` to be at most 1 - 1 / C = 0\.5 with spread 'others'"):
        strength(torch.rand(3), 2, Matching(spread="others"))
    with pytest.raises(ConfigError, match="`fixed_epsilon` to be at most"):
        strength(torch.rand(3), 2, Matching(spread="others", fixed_epsilon=0.6), "fixed_epsilon")
    with pytest.raises(ConfigError, match="at least two classes with spread 'others', but got 1"):
        strength(torch.zeros(3), 1, Matching(spread="others", max_epsilon=0.0))
