"""CMA-ES whose optimiser is told anew: what Optuna's proposes, and nothing of a study unpickled."""

from __future__ import annotations

import optuna
import pytest
from optuna.distributions import FloatDistribution
from optuna.trial import TrialState

from hostile import watched
from mollify_sweeps.study.sampling import make_sampler

SPACE = {"a": FloatDistribution(0.0, 1.0), "b": FloatDistribution(1e-3, 1.0, log=True)}


def searched(make: object, trials: int) -> optuna.Study:
    study = optuna.create_study()
    for number in range(trials):
        study.sampler = make(number)  # type: ignore[operator]
        trial = study.ask(fixed_distributions=SPACE)
        study.tell(trial, (trial.params["a"] - 0.3) ** 2 + trial.params["b"])
    return study


def ours(number: int) -> optuna.samplers.BaseSampler:
    return make_sampler("cmaes", number, SPACE, {}, 5)


def theirs(number: int) -> optuna.samplers.BaseSampler:
    return optuna.samplers.CmaEsSampler(seed=number, n_startup_trials=5)


def test_it_proposes_what_optunas_does() -> None:
    study, reference = searched(ours, 40), searched(theirs, 40)
    for one, other in zip(study.trials, reference.trials, strict=True):
        assert one.params == pytest.approx(other.params, rel=1e-9)
    assert any("cma:optimizer:0" in t.system_attrs for t in reference.trials)
    assert not any(key.startswith("cma:optimizer") for t in study.trials for key in t.system_attrs)


def test_a_pickle_in_a_study_is_not_opened(tmp_path) -> None:
    made = tmp_path / "made"
    code = b"cos\nsystem\n(S'touch %b'\ntR." % str(made).encode()
    study = searched(ours, 12)
    last = study.trials[-1]
    study._storage.set_trial_system_attr(study.ask()._trial_id, "cma:optimizer:0", code.hex())
    hostile = optuna.trial.create_trial(
        params=last.params,
        distributions=SPACE,
        value=0.0,
        state=TrialState.COMPLETE,
        system_attrs={"cma:optimizer:0": code.hex(), "cma:generation": 0},
    )
    study.add_trial(hostile)
    study.sampler = ours(99)
    with watched(tmp_path):
        study.ask(fixed_distributions=SPACE)
    assert not made.exists()
    study.sampler = theirs(99)
    with pytest.raises(AttributeError):  # Optuna's own takes what that code returned for its optimiser
        study.ask(fixed_distributions=SPACE)
    assert made.exists()
