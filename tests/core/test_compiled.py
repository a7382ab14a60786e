"""Compiled kernels against the plain PyTorch forms: augmentation byte for byte, NMI and mosaic to rounding."""

import importlib.util
import os
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from mollify_core import compiled
from mollify_core.augment import affine, augment
from mollify_core.augment.names import POLICIES
from mollify_core.augment.operations import CODE, GEOMETRIC, OPERATIONS, apply_operations, compilable
from mollify_core.augment.pipeline import Draw, apply, draw
from mollify_core.matching.distortions import mosaic
from mollify_core.matching.nmi import normalized_mutual_information
from places import ROOT

SIZES = [(1, 1), (7, 7), (28, 28), (32, 32), (64, 64), (2, 9), (33, 20)]
SIGNED = OPERATIONS[: CODE["Sharpness"] + 1]
needs_numba = pytest.mark.skipif(not compiled.available(), reason="numba is missing or switched off")
property_test = settings(max_examples=40, deadline=None, derandomize=True)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def plain(call: Callable[[], Tensor]) -> Tensor:
    """The result without kernels."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MOLLIFY_COMPILED", "0")
        return call()


def pictures(count: int, channels: int, height: int, width: int, seed: int = 0) -> Tensor:
    """Noise and smooth pictures in turn; the first rows are even, black, white, of two levels, dark, all but even."""
    generator = seeded(seed)
    images = torch.randint(0, 256, (count, channels, height, width), generator=generator)
    smooth = F.interpolate(images[::2, :, :5, :5] * 1.3 - 40, (height, width), mode="bicubic")
    images[::2] = smooth.clamp(0, 255).long()
    for row, special in enumerate((77, 0, 255, (images[3:4] > 200) * 201 + 20, images[4:5] // 16, 128)):
        images[row : row + 1] = special
    images[5:6, :, -1, -1] = 129
    return images.to(torch.uint8)


def magnitudes(name: str, count: int) -> Tensor:
    """The ends and the middle of an operation's range and beyond where that has a meaning, then random ones."""
    widest = {"Rotate": 180.0, "TranslateX": 40.0, "TranslateY": 40.0, "Posterize": 8.0}.get(name, 1.0)
    uniform = torch.rand(count, dtype=torch.float64, generator=seeded(1))
    values = widest * ((2 * uniform - 1) if name in SIGNED else uniform)
    ends = [0.0, widest, widest / 2, widest / 4, *((-widest, -widest / 2) if name in SIGNED else ())]
    values[: len(ends)] = torch.tensor(ends[:count])
    return values.round() if widest in (40, 8) else values


@needs_numba
@pytest.mark.parametrize("resample", [affine.nearest, affine.bilinear])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", OPERATIONS)
def test_every_operation_gives_the_same_bytes(name: str, channels: int, resample: Callable) -> None:
    for size in SIZES:
        for batch in (0, 1, 41):
            images, magnitude = pictures(batch, channels, *size), magnitudes(name, batch)
            before, codes = images.clone(), torch.full((batch,), CODE[name])
            result = apply_operations(images, codes, magnitude, resample)
            assert torch.equal(images, before)
            assert result.data_ptr() != images.data_ptr() or not batch
            assert torch.equal(result, plain(lambda c=codes: apply_operations(images, c, magnitude, resample)))  # noqa: B023


@needs_numba
@pytest.mark.parametrize("name", [name for name in OPERATIONS if name not in GEOMETRIC])
def test_operations_are_equal_for_all_colours_and_many_magnitudes(name: str) -> None:
    images, magnitude = pictures(600, 3, 32, 32, seed=2), magnitudes(name, 600)
    codes = torch.full((600,), CODE[name])
    expected = plain(lambda: apply_operations(images, codes, magnitude))
    assert torch.equal(apply_operations(images, codes, magnitude), expected)


@needs_numba
@pytest.mark.parametrize("policy", [*POLICIES, None])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_whole_chains_give_the_same_bytes(size: tuple[int, int], channels: int, policy: str | None) -> None:
    images = pictures(33, channels, *size)
    before = images.clone()
    for names in (("flip", "crop", "rotate"), ("flip",), ("crop", "rotate"), ("rotate", "resized_crop"), ()):
        names = names if policy is None else (*names, policy)
        result = augment(images, names, seeded(3))[0]
        assert torch.equal(result, plain(lambda n=names: augment(images, n, seeded(3))[0]))
    assert torch.equal(images, before)


@needs_numba
@property_test
@given(
    batch=st.integers(0, 5),
    channels=st.integers(1, 6),
    height=st.integers(1, 40),
    width=st.integers(1, 40),
    names=st.sets(st.sampled_from(("flip", "crop", "rotate"))),
    seed=st.integers(0, 2**31),
)
def test_images_of_any_size_move_alike(
    batch: int, channels: int, height: int, width: int, names: set[str], seed: int
) -> None:
    images = pictures(batch, channels, height, width, seed)
    drawn = draw(batch, height, width, names, seeded(seed))
    assert torch.equal(apply(images, drawn), plain(lambda: apply(images, drawn)))


@needs_numba
def test_rotations_that_hit_ties_are_equal() -> None:
    angle = torch.tensor([0.0, 45, 90, 135, 180, 270, 360, -90, 30, 60])
    for size in SIZES:
        images = pictures(len(angle), 3, *size)
        assert torch.equal(apply(images, Draw(angle=angle)), plain(lambda: apply(images, Draw(angle=angle))))  # noqa: B023


@needs_numba
def test_strided_images_are_read_as_they_are() -> None:
    images, names = pictures(9, 3, 32, 32), ("flip", "crop", "rotate", "trivialaugment")
    expected = plain(lambda: augment(images, names, seeded())[0])
    wide = torch.stack([images, images], 4)[..., 0]
    for strided in (images.to(memory_format=torch.channels_last), wide):
        assert torch.equal(augment(strided, names, seeded())[0], expected)
    one = images[:1].expand(9, -1, -1, -1)
    assert torch.equal(augment(one, names, seeded())[0], plain(lambda: augment(one, names, seeded())[0]))


def test_images_too_large_for_exact_sums_are_left_to_torch() -> None:
    large = torch.full((1, 3, 257, 257), 255, dtype=torch.uint8)
    assert not compilable(large)
    codes, magnitude = torch.tensor([CODE["Contrast"]]), torch.tensor([0.5]).double()
    assert torch.equal(apply_operations(large, codes, magnitude), large)


@needs_numba
def test_parameters_for_other_rows_never_reach_a_kernel() -> None:
    images, drawn = pictures(4, 3, 8, 8), draw(3, 8, 8, ["crop"], seeded())
    assert compilable(images, torch.zeros(4))
    assert not compilable(images, torch.zeros(3))
    with pytest.raises(RuntimeError):
        apply(images, drawn)


def pairs(batch: int, channels: int, height: int, width: int) -> tuple[Tensor, Tensor]:
    """Related images; the first are constant, equal constants, identical, out of range, infinite, nearly constant."""
    x = torch.rand(batch, channels, height, width, generator=seeded()).pow_(2)
    y = (x + 0.1 * torch.randn(x.shape, generator=seeded(1))).clamp_(0, 1)
    x[:1], y[:1] = 0.2, 0.7
    x[1:2], y[1:2] = 1.0, 1.0
    y[2:3] = x[2:3]
    x[3:4] = 3 * x[3:4] - 1
    # What is closer to its original, or as an original to a grey level, counts as rounded.
    level = (x * 255).round() / 255
    x = torch.where((x - level).abs() < 1e-5, level, x)
    y = torch.where((x - y).abs() < 1e-5, x, y)
    y[4:5, :, 0] = float("inf")
    x[5:6], y[5:6] = 0.3, 0.3
    x[5:6, :, -1, -1] = 0.9
    return x, y


def exact_nmi(x: Tensor, y: Tensor, bins: int, levels: int, constants_match: bool) -> float:
    """NMI of two channels in float64."""
    a, b = ((z.flatten() * levels).clamp(0, bins - 1).long().numpy() for z in (x, y))

    def entropy(values: np.ndarray) -> float:
        p = np.unique(values, return_counts=True)[1] / values.size
        return float(-(p * np.log2(p)).sum())

    both = entropy(a) + entropy(b)
    return 2 - 2 * entropy(a * bins + b) / both if both > 1e-12 else float(constants_match and a[0] == b[0])


@needs_numba
@pytest.mark.parametrize("use_all_bins", [False, True])
@pytest.mark.parametrize("constants_match", [False, True])
@pytest.mark.parametrize("bins", [2, 3, 64, 256])
def test_nmi_equals_plain_and_exact_nmi(bins: int, constants_match: bool, use_all_bins: bool) -> None:
    options = {"bins": bins, "constants_match": constants_match, "use_all_bins": use_all_bins}
    for channels, size in ((1, (1, 1)), (3, (7, 7)), (1, (28, 28)), (3, (32, 32)), (1, (64, 64)), (2, (5, 9))):
        for batch in (0, 1, 9):
            x, y = pairs(batch, channels, *size)
            before = x.clone(), y.clone()
            nmi = normalized_mutual_information(x, y, **options)
            expected = [
                np.mean(
                    [exact_nmi(*c, bins, bins - (not use_all_bins), constants_match) for c in zip(*row, strict=True)]
                )
                for row in zip(x, y, strict=True)
            ]
            np.testing.assert_allclose(nmi, np.clip(expected, 0, 1), atol=1e-7, rtol=0)
            form = plain(lambda a=x, b=y: normalized_mutual_information(a, b, **options))
            steady = torch.arange(batch) != 5  # where float32 alone loses 1e-5: entropies near 0
            torch.testing.assert_close(nmi[steady], form[steady], atol=1e-6, rtol=0)
            assert torch.equal(x, before[0])
            assert torch.equal(y, before[1])


@needs_numba
@pytest.mark.parametrize("bins", [2, 16, 64, 256])
def test_corrected_nmi_equals_the_plain_form(bins: int) -> None:
    for size in ((7, 7), (32, 32), (64, 64)):
        x, y = pairs(9, 3, *size)
        nmi = normalized_mutual_information(x, y, bins, corrected=True)
        form = plain(lambda a=x, b=y: normalized_mutual_information(a, b, bins, corrected=True))
        steady = torch.tensor([0, 1, 2, 3, 4, 6, 7, 8])
        torch.testing.assert_close(nmi[steady], form[steady], atol=1e-4 if bins == 256 else 2e-6, rtol=0)


@needs_numba
@pytest.mark.parametrize("side", [255, 256, 300])
def test_nmi_counts_more_pixels_than_sixteen_bits_hold(side: int) -> None:
    x = torch.zeros(2, 1, side, side)
    x[1, :, ::3] = 1
    y = x.clone()
    y[1, :, :2] = 0.5
    nmi = normalized_mutual_information(x, y)
    assert float(nmi[0]) == 1
    assert float(nmi[1]) == pytest.approx(exact_nmi(x[1], y[1], 64, 63, True), abs=1e-7)


@needs_numba
def test_nmi_is_exactly_symmetric_and_safe_from_nan() -> None:
    x, y = pairs(9, 3, 32, 32)
    assert torch.equal(normalized_mutual_information(x, y), normalized_mutual_information(y, x))
    zero = torch.where(x < 0.1, 0.0, x)
    assert torch.equal(
        normalized_mutual_information(torch.where(x < 0.1, float("nan"), x), y), normalized_mutual_information(zero, y)
    )


@needs_numba
@property_test
@given(
    batch=st.integers(0, 5),
    channels=st.integers(1, 4),
    height=st.integers(1, 40),
    width=st.integers(1, 40),
    power=st.floats(0.3, 3),
    seed=st.integers(0, 99),
)
def test_mosaic_equals_the_plain_form(
    batch: int, channels: int, height: int, width: int, power: float, seed: int
) -> None:
    x, d = torch.rand(batch, channels, height, width, generator=seeded(seed)), torch.rand(batch, generator=seeded(seed))
    before = x.clone()
    y = mosaic(x, d, power)
    torch.testing.assert_close(y, plain(lambda: mosaic(x, d, power)), atol=1e-6, rtol=0)
    assert torch.equal(x, before)
    assert torch.equal(mosaic(x, torch.zeros(batch), 2.0), x)


def test_mosaic_still_has_a_gradient() -> None:
    x = torch.rand(2, 3, 8, 8, requires_grad=True)
    mosaic(x, torch.tensor([0.3, 0.9])).sum().backward()
    torch.testing.assert_close(x.grad, torch.ones_like(x))


@needs_numba
def test_kernels_run_in_several_threads_at_once() -> None:
    images, (x, y) = pictures(64, 3, 32, 32), pairs(64, 3, 32, 32)

    def work(seed: int) -> tuple[Tensor, ...]:
        names = ("flip", "crop", "rotate", "randaugment")
        return (
            augment(images, names, seeded(seed))[0],
            normalized_mutual_information(x, y),
            mosaic(x, x[:, 0, 0, 0].abs()),
        )

    alone = [work(seed) for seed in range(6)]
    with ThreadPoolExecutor(3) as pool:
        for together, expected in zip(pool.map(work, range(6)), alone, strict=True):
            assert all(torch.equal(a, b) for a, b in zip(together, expected, strict=True))


@needs_numba
@pytest.mark.parametrize("user_wide", [True, False])
def test_a_folder_that_cannot_be_written_is_no_obstacle(
    tmp_path: Path, user_wide: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    import numba

    monkeypatch.setattr(numba.config, "CACHE_DIR", "")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "user"))
    (tmp_path / "__pycache__").touch()  # a file in the way stops even the superuser
    if not user_wide:
        (tmp_path / "user").touch()
    source = tmp_path / "doubling.py"
    source.write_text(
        "from mollify_core.compiled import kernel\n\n\n"
        '@kernel("void(int64[::1])")\ndef double(values):\n    for i in range(len(values)):\n        values[i] *= 2\n'
    )
    spec = importlib.util.spec_from_file_location("doubling", source)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    values = np.arange(3)
    module.double(values)
    assert values.tolist() == [0, 2, 4]
    assert bool(list(tmp_path.glob("user/**/*.nbc"))) == user_wide


SCRIPT = """
import sys
import torch
from mollify_core import compiled
from mollify_core.augment import augment
from mollify_core.matching import distortions, nmi
x = torch.arange(3 * 3 * 32 * 32).remainder(251).view(3, 3, 32, 32)
y = augment(x.to(torch.uint8), ["flip", "crop", "rotate", "trivialaugment"], torch.Generator().manual_seed(0))[0]
nmi.normalized_mutual_information(x / 255, y / 255)
distortions.mosaic(x / 255, torch.rand(3))
print(y.flatten().tolist(), compiled.describe(), "numba" in sys.modules, sep=";")
"""


def test_switched_off_numba_is_not_even_imported() -> None:
    environment = os.environ | {"MOLLIFY_COMPILED": "0"}
    command = [sys.executable, "-c", SCRIPT]
    result = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True)
    values, described, imported = result.stdout.strip().split(";")
    assert (described, imported) == ("off", "False")
    x = torch.arange(3 * 3 * 32 * 32).remainder(251).view(3, 3, 32, 32).to(torch.uint8)
    y = augment(x, ["flip", "crop", "rotate", "trivialaugment"], seeded())[0]
    assert values == str(y.flatten().tolist())


@needs_numba
def test_what_compiles_is_described() -> None:
    assert compiled.describe() == f"numba {version('numba')}"
    assert "NUMBA_THREADING_LAYER" in os.environ
