"""Trials that fail by themselves: told with their reason, not tried again, and the sweep goes on."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest

from harness import DIGITS, SHORT, Sweep, injected

pytestmark = [pytest.mark.slow, pytest.mark.timeout(7200)]
Make = Callable[..., Sweep]


def test_a_loss_that_is_not_finite(sweep: Make):
    """Set-up: a sweep whose base learning rate is 1e30, which the first trials train with and the searched ones not.

    Minimum time: 30 s.

    1. The first trial of each method is told as FAIL (nan) with epoch, step and the times sampled there; the others
       end well.
    2. They are not tried again: nothing is set up for them twice.
    3. The checker finds nothing.
    """
    one = sweep(*SHORT, "--set", "lr=1e30").start()
    one.finish()
    trials = one.trials()
    assert [t.state.name for t in trials[:2]] == ["FAIL", "FAIL"]
    assert {t.state.name for t in trials[2:]} <= {"COMPLETE", "PRUNED"}
    for trial, times in zip(trials[:2], ("no image degraded", r"\bt from [\d.]+ to [\d.]+"), strict=True):
        assert trial.user_attrs["failure"] == "nan"
        message = trial.user_attrs["failure_message"]
        assert re.search(r"epoch \d+, step \d+", message), message
        assert re.search(times, message), message
        assert one.said(f"trial {trial.number} failed (nan)") == 1
    one.sound()


_INJECTED = """
import builtins, sys

imported = builtins.__import__


def hook(name, *args, **kwargs):
    module = imported(name, *args, **kwargs)
    training = getattr(sys.modules.get("mollify_core.training"), "Training", None)
    if training is not None:
        builtins.__import__ = imported
        run_epoch = training.run_epoch

        def run(self, *args, **kwargs):
            FAULT
            return run_epoch(self, *args, **kwargs)

        training.run_epoch = run
    return module


builtins.__import__ = hook
"""
_MISTAKE = "a mistake that only some trials meet"


@pytest.fixture
def broken(sweep: Make, tmp_path) -> Callable[..., Sweep]:
    """A sweep that trains with a mistake in its code, which only trials meet that repeat images: none that could have
    been known before (that is refused), said by a `sitecustomize`.
    """
    space = tmp_path / "space.yaml"
    space.write_text("repeat: [1, 2]\nmax_noise: [0.3, 0.6]\n")
    fault = f"if self.recipe.mollify.repeat == 2: raise TypeError({_MISTAKE!r})"
    env = {"PYTHONPATH": injected(tmp_path / "inject", _INJECTED.replace("FAULT", fault))}
    options = ("--epochs", "2", "--space", str(space), "--sampler", "grid")
    return lambda *more: sweep(*DIGITS, *options, *more, **env)


def test_a_trial_that_breaks(broken):
    """Set-up: a sweep over a grid, half of whose points meet a mistake. Minimum time: 30 s.

    1. Each of their trials is told as FAIL (bug), and why; all others end well.
    2. It is said once for each.
    3. The checker finds nothing.
    """
    one = broken().start()
    one.finish()
    states = {t.number: t.state.name for t in one.trials()}
    failed = [t for t in one.trials() if t.params["repeat"] == 2]
    assert len(states) == 8
    assert len(failed) >= 2
    assert [t.number for t in failed] == [n for n, state in states.items() if state == "FAIL"]
    assert set(states.values()) <= {"COMPLETE", "PRUNED", "FAIL"}
    for trial in failed:
        assert trial.user_attrs["failure"] == "bug"
        assert _MISTAKE in trial.user_attrs["failure_message"]
        assert one.said(f"trial {trial.number} failed (bug)") == 1
    one.sound()


def test_too_many_trials_that_break(broken):
    """Set-up: the same, with --max-failures 1. Minimum time: 25 s.

    1. The sweep ends after the first failure with exit code 1 and says why; what was done is kept and reported, and
       nothing is confirmed.
    2. The same command with a larger number goes on.
    3. The checker finds nothing.
    """
    one = broken().start("--max-failures", "1", "--confirm", "1", "--seeds", "2")
    one.finish(1)
    assert one.said("too many trials failed by a bug") == 1
    assert (one.local / "report/report.html").exists()
    assert not one.local.with_name("s-confirm").exists()
    assert [t.state.name for t in one.trials()].count("FAIL") == 1
    assert len([t for t in one.trials() if t.state.is_finished()]) < 8
    one.sound()
    one.start("--max-failures", "9").finish()
    assert all((t.state.name == "FAIL") == (t.params["repeat"] == 2) for t in one.trials())
    assert len([t for t in one.trials() if t.state.is_finished()]) == 8
    one.sound()


_BROKEN_DEVICE = """
            import os, torch

            once = os.environ["MOLLIFY_BREAK_ONCE"]
            if self.epoch == 2 and not os.path.exists(once):
                open(once, "w").close()
                training.broken = True
            if getattr(training, "broken", False):
                raise torch.AcceleratorError("CUDA error: device-side assert triggered")
"""


def test_a_device_that_breaks_its_process(sweep: Make, unbroken: Make, tmp_path):
    """Set-up: in the third epoch of the first trial every step of that process fails from then on, as after an assert
    on a GPU (said by a `sitecustomize` in all processes of the sweep). Minimum time: 45 s.

    1. The process is replaced, and the trial goes on from its last checkpoint; it is said once.
    2. No trial fails, and the result equals that of an unbroken sweep, bit for bit.
    3. The checker finds nothing.
    """
    env = {
        "PYTHONPATH": injected(tmp_path / "inject", _INJECTED.replace("FAULT", _BROKEN_DEVICE.strip())),
        "MOLLIFY_BREAK_ONCE": str(tmp_path / "once"),
    }
    one = sweep(*SHORT, **env).start()
    one.finish()
    assert (tmp_path / "once").exists()
    assert one.said("trial 0 met an error of its device; it is tried once more in a new process") == 1
    assert one.told() == unbroken(*SHORT).told()
    one.sound()
