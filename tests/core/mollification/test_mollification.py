"""Schedule, degradations and labels against the authors' vectors, and their laws."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch_dct
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from scipy import fft, stats

from mollify_core import labels, rng
from mollify_core.errors import DataError
from mollify_core.mollification import degrade, schedule
from mollify_core.recipe import Mollify


def tensor(array):
    return torch.from_numpy(np.asarray(array))


def test_noise_schedule(golden):
    t = tensor(golden["m_t"])
    level = schedule.noise_level(t)
    np.testing.assert_allclose(level, golden["m_sigma"], atol=1e-6)
    np.testing.assert_allclose((1 - level.square()).clamp(min=0).sqrt(), golden["m_alpha"], atol=3e-4)
    for power, expected in zip(golden["m_pows"], golden["m_gamma_noise"], strict=True):
        np.testing.assert_allclose(schedule.noise_strength(level, float(power)), expected, atol=1e-5)


@pytest.mark.parametrize("side", [32, 64])
def test_blur_schedule(golden, side):
    t = tensor(golden["m_t"])
    scale = schedule.blur_scale(t, 0.3, side)
    np.testing.assert_allclose(scale, golden[f"m_blurscale{side}"], rtol=1e-5)
    np.testing.assert_allclose(scale.square() / 2, golden[f"m_disstime{side}"], atol=5e-4)
    for power, expected in zip(golden["m_pows"], golden["m_gamma_blur"], strict=True):
        np.testing.assert_allclose(schedule.blur_strength(scale, side, float(power)), expected, atol=1e-4 * power)


@pytest.mark.parametrize("side", [32, 64])
def test_heat_blur(golden, side):
    x = (tensor(golden[f"u{side}"]).float() / 255 - 0.5) / 0.25
    for t, expected in zip(golden[f"m_blur{side}_t"], golden[f"m_blur{side}"], strict=True):
        scale = schedule.blur_scale(torch.full((len(x),), float(t)), 0.3, side)
        np.testing.assert_allclose(degrade.heat_blur(x, scale), expected, atol=1e-5)


def test_heat_blur_of_another_shape_against_scipy():
    x = torch.randn(4, 2, 24, 40, generator=rng.generator("test"))
    scale = torch.tensor([0.0, 0.7, 3.0, 30.0])
    h, w = (np.pi * np.arange(n) / n for n in (24, 40))
    gain = np.exp(-(h[:, None] ** 2 + w[None, :] ** 2) * scale.numpy()[:, None, None, None] ** 2 / 2)
    expected = fft.idctn(gain * fft.dctn(x.double().numpy(), axes=(2, 3)), axes=(2, 3))
    np.testing.assert_allclose(degrade.heat_blur(x, scale), expected, atol=1e-5)
    np.testing.assert_allclose(degrade.heat_blur(x, scale)[0], x[0], atol=1e-5)


@pytest.mark.parametrize("side", [1, 7, 32, 64, 200])
def test_heat_blur_is_that_of_the_released_codes_library(side):
    """By the linear layers of torch-dct, whose cosine matrix is ours."""
    matrix = torch_dct.dct(torch.eye(side, dtype=torch.float64), norm="ortho").T
    frequency, outer = degrade._cosine_basis(side, torch.device("cpu"))
    both = (matrix[:, :, None] * matrix[:, None, :]).flatten(1)
    torch.testing.assert_close(outer.double(), both, rtol=1e-7, atol=1e-13)
    x = torch.randn(3, 2, side, side, generator=rng.generator("test"))
    scale = torch.tensor([0.0, 0.7, 3.0])
    gain = torch.exp(-(frequency[:, None] + frequency[None, :]) * (scale.square() / 2)[:, None, None, None])
    forward, back = (torch_dct.LinearDCT(side, kind, norm="ortho") for kind in ("dct", "idct"))
    expected = torch_dct.apply_linear_2d(torch_dct.apply_linear_2d(x, forward) * gain, back)
    torch.testing.assert_close(degrade.heat_blur(x, scale), expected.detach(), atol=1e-5, rtol=0)


def test_noise(golden):
    x = (tensor(golden["u32"]).float() / 255 - 0.5) / 0.25
    for t, expected in zip(golden["m_noise_t"], golden["m_noise32"], strict=True):
        level = schedule.noise_level(torch.full((len(x),), float(t)))
        np.testing.assert_allclose(degrade.noise(x, level, tensor(golden["m_noise_eps"])), expected, atol=1e-5)


def test_label_smoothing(golden):
    target, strength = tensor(golden["m_lab_y"]), tensor(golden["m_lab_g"])
    np.testing.assert_allclose(labels.smooth(target, strength), golden["m_lab_ls"], atol=1e-6)


@pytest.mark.parametrize(("noise_power", "blur_power", "name"), [(1, 1, "m_role_y_n1b1"), (2, 0.5, "m_role_y_n2b05")])
def test_labels_by_role(golden, noise_power, blur_power, name):
    t = tensor(golden["m_role_t"]).float()
    noise = schedule.noise_strength(schedule.noise_level(t), noise_power)
    blur = schedule.blur_strength(schedule.blur_scale(t, 0.3, 32), 32, blur_power)
    role = golden["m_role"]
    strength = torch.where(tensor(role == "b"), blur, torch.where(tensor(role == "x"), torch.zeros_like(t), noise))
    np.testing.assert_allclose(labels.smooth(tensor(golden["m_role_y"]), strength), golden[name], atol=1e-5)


@pytest.mark.parametrize("mode", ["ls", "ld", "la", "lm"])
def test_label_modes(golden, mode):
    target, strength = tensor(golden["m_lab_y"]), tensor(golden["m_lab_g"])
    expected = golden[f"m_lab_{mode}"]
    if mode in ("la", "lm"):  # the released code keeps the sink column where its labels have it: first or last
        sink = int(np.argmax(np.abs(golden["m_lab_y11"] - expected).sum(0) * (golden["m_lab_y11"].sum(0) == 0)))
        expected = np.concatenate([np.delete(expected, sink, axis=1), expected[:, sink : sink + 1]], axis=1)
    got = labels.soften(target, strength, mode)
    assert got.shape[1] == labels.outputs(target.shape[1], mode)
    np.testing.assert_allclose(got, expected, atol=1e-6)


@pytest.mark.parametrize("name", ["ce", "bce", "nce"])
def test_losses(golden, name):
    logits, soft = tensor(golden["m_logits"]), tensor(golden["m_soft"])
    loss = labels.loss(name, "ls", logits, soft)
    np.testing.assert_allclose(loss, golden[f"m_loss_{name}"], atol=2e-5 if name == "nce" else 1e-5)
    np.testing.assert_allclose(loss.mean(), golden[f"m_lossmean_{name}"], atol=1e-5)


def test_normalised_cross_entropy_is_exact_and_smooth(golden):
    logits, soft = tensor(golden["m_logits"]).double(), tensor(golden["m_soft"])
    np.testing.assert_allclose(labels.loss("nce", "ls", logits, soft), golden["m_loss_nce_f64"], atol=2e-6)
    equal = torch.zeros(1, 10, requires_grad=True)
    loss = labels.normalised_cross_entropy(equal, torch.full((1, 10), 0.1))
    assert float(loss) == pytest.approx(float(golden["m_nce_uniform_exact"]), abs=1e-6)
    loss.sum().backward()
    assert torch.isfinite(equal.grad).all()
    wild = torch.tensor([[80.0, -80.0, 0.0], [1e-4, 0.0, 0.0]], requires_grad=True)
    labels.normalised_cross_entropy(wild, torch.eye(3)[:2]).sum().backward()
    assert torch.isfinite(wild.grad).all()
    probe = torch.randn(4, 5, dtype=torch.float64, requires_grad=True, generator=rng.generator("probe"))
    target = torch.softmax(torch.randn(4, 5, generator=rng.generator("target")), 1)
    log_z = torch.logsumexp  # numerical integral of sum_c f_c^(1 - g) fbar^g over g in [0, 1]
    log_f = torch.log_softmax(probe.float(), 1)
    g = (torch.arange(2000) + 0.5) / 2000
    grid = (1 - g)[:, None, None] * log_f + g[:, None, None] * log_f.mean(1, keepdim=True)
    expected = -(target * log_f).sum(1) + log_z(log_z(grid, 2), 0) - np.log(2000)
    np.testing.assert_allclose(
        labels.normalised_cross_entropy(probe, target).detach(), expected.detach(), atol=1e-5, rtol=1e-5
    )


def test_probabilities_leave_the_sink_out():
    logits = torch.randn(6, 5, generator=rng.generator("sink"))
    for name in ("ce", "bce"):
        f = labels.log_probabilities(logits, 4, name).exp()
        assert f.shape == (6, 4)
        np.testing.assert_allclose(f.sum(1), 1, atol=1e-6)
        assert ((labels.sink_mass(logits, name) > 0) & (labels.sink_mass(logits, name) < 1)).all()
    np.testing.assert_allclose(
        labels.log_probabilities(logits, 4, "ce").exp(), torch.softmax(logits[:, :4], 1), atol=1e-6
    )


@given(st.integers(1, 9), st.integers(2, 7), st.integers(0, 2**31))
@hypothesis_settings(deadline=None, max_examples=30)
def test_smoothed_cross_entropy_equals_the_dense_form(batch, classes, seed):
    g = torch.Generator().manual_seed(seed)
    logits = 5 * torch.randn(batch, classes, generator=g, dtype=torch.float32)
    label = torch.randint(classes, (batch,), generator=g)
    strength = torch.rand(batch, generator=g)
    dense = labels.smooth(torch.nn.functional.one_hot(label, classes).float(), strength)
    expected = torch.nn.functional.cross_entropy(logits.double(), dense.double(), reduction="none")
    np.testing.assert_allclose(labels.smoothed_cross_entropy(logits, label, strength), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("a", "b"), [(1.0, 2.0), (1.0, 9.0), (0.5, 3.0), (2.0, 2.0)])
def test_times_follow_the_beta_law(a, b):
    t = rng.beta_times(20_000, a, b, rng.generator("beta", int(10 * a), int(b)))
    assert stats.kstest(t.numpy(), stats.beta(a, b).cdf).pvalue > 1e-3


@pytest.mark.parametrize(("a", "b"), [(0.01, 0.01), (0.01, 3.0), (0.1, 0.02), (2.0, 0.01)])
def test_times_follow_beta_laws_of_small_shapes(a, b):
    """Their gamma variables are far below what a float holds; the law is compared where float32 resolves t."""
    t = rng.beta_times(40_000, a, b, rng.generator("small", str(a), str(b))).double().numpy()
    for point in (1e-30, 1e-9, 1e-3, 0.3, 0.499, 0.501, 0.9, 1 - 1e-6):
        expected = stats.beta(a, b).cdf(point)
        assert abs((t < point).mean() - expected) < 4.5 * (max(expected * (1 - expected), 1e-4) / 40_000) ** 0.5


def test_times_of_any_positive_shapes_are_times():
    for shapes in ((5e-324, 5e-324), (1e-300, 1e300), (1e-5, 1e5), (1e300, 1e300)):
        t = rng.beta_times(1000, *shapes, rng.generator("extreme"))
        assert bool(((t >= 0) & (t <= 1)).all())


def test_roles_come_in_their_shares_and_only_their_rows_change():
    config = Mollify(p_clean=0.2, noise_share=0.75)
    counts = np.zeros(3)
    for step in range(300):
        drawn = schedule.draw(100, 32, config, rng.generator("roles", step))
        counts += [100 - len(drawn.noise) - len(drawn.blur), len(drawn.noise), len(drawn.blur)]
        degraded = len(drawn.noise) + len(drawn.blur)
        assert (drawn.strength[degraded:] == 0).all()
    assert stats.chisquare(counts, 30_000 * np.array([0.2, 0.6, 0.2])).pvalue > 1e-3
    x = torch.randn(100, 3, 32, 32, generator=rng.generator("x"))
    y = degrade.mollify_(x.clone(), drawn, rng.generator("eps"))
    assert torch.equal(y[degraded:], x[degraded:])
    assert all(not torch.equal(a, b) for a, b in zip(x[:degraded], y[:degraded], strict=True))


def test_all_roles_in_their_order():
    config = Mollify(p_clean=0.2, noise_share=0.25, both_share=0.25, pure_share=0.25, smoothing=0.8)
    counts = np.zeros(5)
    for step in range(200):
        d = schedule.draw(100, 32, config, rng.generator("five", step))
        both = len(d.noise) - d.start
        row = [d.start, both, len(d.blur) - both, d.pure, 100 - d.degraded]
        assert min(row) >= 0
        counts += row
    assert stats.chisquare(counts, 20_000 * np.full(5, 0.2)).pvalue > 1e-3
    x = torch.randn(100, 3, 32, 32, generator=rng.generator("x"))
    y = degrade.mollify_(x.clone(), d, rng.generator("eps"))
    blurred = x.clone()
    end = d.start + len(d.blur)
    blurred[d.start : end] = degrade.heat_blur(x[d.start : end], d.blur)
    g = rng.generator("eps")
    n = len(d.noise)
    eps = torch.empty_like(x[:n]).normal_(generator=g)
    torch.testing.assert_close(y[:n], degrade.noise(blurred[:n], d.noise, eps), atol=1e-6, rtol=0)
    torch.testing.assert_close(y[n:end], blurred[n:end], atol=0, rtol=0)
    assert (d.strength[end : d.degraded] == 0.8).all()
    assert (d.strength[d.degraded :] == 0).all()
    assert y[end : d.degraded].std() == pytest.approx(1, abs=0.05)
    assert torch.equal(y[d.degraded :], x[d.degraded :])
    first = schedule.noise_strength(d.noise[d.start :])
    second = schedule.blur_strength(d.blur[:both], 32)
    np.testing.assert_allclose(d.strength[d.start : n], 0.8 * (1 - (1 - first) * (1 - second)), atol=1e-6)


def test_mollify_equals_the_pure_functions():
    x = torch.randn(64, 3, 32, 32, generator=rng.generator("x"))
    drawn = schedule.draw(64, 32, Mollify(), rng.generator("draw"))
    n, b = len(drawn.noise), len(drawn.blur)
    assert n
    assert b
    y = degrade.mollify_(x.clone(), drawn, rng.generator("eps"))
    eps = torch.empty_like(x[:n]).normal_(generator=rng.generator("eps"))
    torch.testing.assert_close(y[:n], degrade.noise(x[:n], drawn.noise, eps), atol=1e-6, rtol=0)
    torch.testing.assert_close(y[n : n + b], degrade.heat_blur(x[n : n + b], drawn.blur), atol=0, rtol=0)


@pytest.mark.parametrize(("b", "noise", "blur"), [(2, 0.297, 0.333), (4, 0.138, 0.2), (9, 0.042, 0.1)])
def test_mean_strength_of_degraded_images(b, noise, blur):
    """The values that the method's specification gives for Beta(1, b)."""
    t = rng.beta_times(200_000, 1, b, rng.generator("mean", b))
    assert float(schedule.noise_strength(schedule.noise_level(t)).mean()) == pytest.approx(noise, abs=3e-3)
    scale = schedule.blur_scale(t, 0.3, 32)
    assert float(schedule.blur_strength(scale, 32).mean()) == pytest.approx(blur, abs=3e-3)


def test_ceilings():
    t = torch.ones(1)
    assert float(schedule.noise_level(t, 0.4)) == pytest.approx(0.4)
    assert float(schedule.blur_scale(t, 0.3, 5.0)) == pytest.approx(5.0)
    assert float(schedule.blur_strength(torch.tensor([5.0]), 32)) == pytest.approx(np.log(5 / 0.3) / np.log(32 / 0.3))
    drawn = schedule.draw(256, 32, Mollify(p_clean=0, max_noise=0.4, max_blur=2, smoothing=0.5), rng.generator("c"))
    assert float(drawn.noise.max()) <= 0.4
    assert float(drawn.blur.max()) <= 2
    assert float(drawn.strength.max()) <= 0.5
    plain = schedule.draw(256, 32, Mollify(p_clean=1), rng.generator("c"))
    assert len(plain.noise) == len(plain.blur) == 0
    assert (plain.strength == 0).all()


def test_empty_and_single_batches():
    for batch in (0, 1):
        x = torch.randn(batch, 3, 32, 32)
        for role in (0.0, 1.0):
            drawn = schedule.draw(batch, 32, Mollify(p_clean=0, noise_share=role), rng.generator("e"))
            assert degrade.mollify_(x.clone(), drawn, rng.generator("n")).shape == x.shape


def test_a_callers_autocast_changes_nothing_and_other_types_are_refused():
    x, scale = torch.randn(8, 3, 32, 32, generator=rng.generator("x")), torch.linspace(0.3, 20, 8)
    config = Mollify(p_clean=0.0, both_share=0.3, noise_share=0.3)

    def mollified(x):
        drawn = schedule.draw(8, 32, config, rng.generator("draw"))
        return degrade.mollify_(x.clone(), drawn, rng.generator("noise"))

    expected = degrade.heat_blur(x, scale), mollified(x)
    with torch.autocast("cpu", torch.bfloat16):
        found = degrade.heat_blur(x, scale), mollified(x)
    for a, b in zip(found, expected, strict=True):
        assert a.dtype == torch.float32
        assert torch.equal(a, b)
    for wrong in (torch.bfloat16, torch.float16, torch.uint8):
        for call in (mollified, lambda x: degrade.heat_blur(x, scale), lambda x: degrade.noise(x, scale / 20, x)):
            with pytest.raises(DataError, match="Expected images to be float32, but got torch"):
                call(x.to(wrong))
