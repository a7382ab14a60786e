"""What a trial, its files and its study survive: each fault is a real one, made in this process."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import pickle
import shutil
import signal
import socket
import tempfile
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import ClassVar

import optuna
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from optuna.exceptions import StorageInternalError
from optuna.trial import TrialState
from torch import nn

import search
import setups
from mollify_core import checkpoint, networks
from mollify_core.errors import ConfigError, Preempted, StorageError
from mollify_core.recipe import Recipe
from mollify_core.steps import Parts
from mollify_core.training import Training
from mollify_core.training_data import training_data
from mollify_core.worker import Worker
from mollify_sweeps.driver.searcher import StudySearcher
from mollify_sweeps.report.words import best_recipe
from mollify_sweeps.storage import patience as patience_
from mollify_sweeps.storage.patience import trouble
from mollify_sweeps.storage.store import Store, trial_folder
from mollify_sweeps.study import snapshots, space
from mollify_sweeps.study.database import Location, progress
from mollify_sweeps.study.results import Results
from mollify_sweeps.study.setup import Setup
from mollify_sweeps.study.study import NOTHING_NOW, SweepStudy
from mollify_sweeps.trial import files, preemption
from mollify_sweeps.trial.trial import Trial, TrialSetup, _peer_lost, classify
from servers import moto
from setups import run_trials, study_of, told

BASE = Recipe().with_(
    dataset="digits",
    network="resnet8",
    augment=("crop",),
    validation_fraction=0.01,
    train_fraction=0.02,
    batch_size=8,
    epochs=3,
    lr=0.05,
)
STEPS = 4  # in an epoch of BASE
pytestmark = pytest.mark.usefixtures("one_thread")
SPACE = "max_noise: {low: 0.2, high: 1.0}\nlr: {low: 0.01, high: 0.1, log: true}\n"


@pytest.fixture(scope="module")
def data(digits):
    images = training_data(BASE, digits)
    assert -(-len(images.fit) // BASE.optim.batch_size) == STEPS
    return images


def make_setup(folder: Path, trials: int = 1, base: Recipe = BASE) -> Setup:
    file = folder / "space.yaml"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(SPACE)
    return setups.make_setup(folder, base, trials, searched=space.load(str(file), base, 32))


def make_trial(
    study: SweepStudy, store: Store, stop: Callable[[], bool] = lambda: False, assignment: dict | None = None
) -> Trial:
    assignment = study.next() if assignment is None else assignment
    assert assignment is not None
    number = assignment["number"]
    common = TrialSetup(store.uri, "", ("corrupted_nll",), 1, 1, 0.0, None, {})  # type: ignore[arg-type]
    recipe = Recipe.from_dict(assignment["recipe"])
    return Trial(recipe, number, common, Worker(), study, store / trial_folder(number), stop)


def after(calls: int) -> Callable[[], bool]:
    """Says to stop at the call of this number, and from then on."""
    count = iter(range(1, 10**9))
    return lambda: next(count) >= calls


def notices(study: SweepStudy) -> list[str]:
    return [event[1] for event in study.drain() if event[0] == "notice"]


def weights(store: Store, number: int = 0) -> dict[str, torch.Tensor]:
    folder = store / trial_folder(number) / "checkpoints"
    state = checkpoint.load_newest(folder.fs, folder.root)
    assert state is not None
    return state.model


def epochs_on_file(store: Store, number: int = 0) -> list[int]:
    return [m["epoch"] for m in files.Writer(store / trial_folder(number), {}, active=True).metrics()]


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory, data) -> tuple[list[tuple], dict[str, torch.Tensor]]:
    """(what the study says, the weights) of a trial that nothing befell."""
    folder = tmp_path_factory.mktemp("unbroken")
    setup = make_setup(folder)
    make_trial(SweepStudy(setup), Store(str(folder))).train(lambda: data)
    (trial,) = told(setup)[:1]
    assert trial[1] == TrialState.COMPLETE
    return told(setup), weights(Store(str(folder)))


def equals(folder: Path, unbroken: tuple) -> None:
    """Study, weights and metrics are those of the unbroken trial, bit for bit."""
    store = Store(str(folder))
    assert told(make_setup(folder)) == unbroken[0]
    found = weights(store)
    assert all(torch.equal(found[name], value) for name, value in unbroken[1].items())
    assert epochs_on_file(store) == [0, 1, 2]


# ---- stopped from outside


@pytest.mark.parametrize("calls", [1, STEPS, STEPS + 2, 3 * STEPS])
def test_a_stopped_trial_leaves_at_its_next_step_and_goes_on_bit_equal(calls, tmp_path, data, unbroken):
    setup, store = make_setup(tmp_path), Store(str(tmp_path))
    study = SweepStudy(setup)
    assignment = study.next()
    study.stop()
    assert study.stopping()
    make_trial(study, store, after(calls), assignment).train(lambda: data)
    assert study.status()["live"] == []
    assert study.next() is None
    assert told(setup)[0][1] == TrialState.RUNNING
    positions = checkpoint.positions(store.fs, f"{tmp_path}/trials/00000/checkpoints")
    assert positions[-1] == ((calls - 1) // STEPS, (calls - 1) % STEPS + 1)

    make_trial(SweepStudy(setup), store).train(lambda: data)
    equals(tmp_path, unbroken)


def test_preempted_again_and_again_is_no_failure(tmp_path, data, unbroken):
    setup, store = make_setup(tmp_path), Store(str(tmp_path))
    study = SweepStudy(setup)
    assignment = study.next()
    for _ in range(4):
        make_trial(study, store, after(2), assignment).train(lambda: data)
        assert study.next() == NOTHING_NOW  # the trial has its process again, by and by
    assert "trial 0 was preempted after epoch 0, step 2; it goes on from there" in notices(study)
    study.lost(0, "its process died more often than it may be restarted")
    again = study.next()
    assert again is not None
    assert (again["number"], again["adopted"]) == (0, True)
    make_trial(study, store, assignment=again).train(lambda: data)
    equals(tmp_path, unbroken)
    loaded = study_of(setup)
    assert loaded is not None
    assert loaded.trials[0].user_attrs["preempted"] == 4
    assert "failure" not in loaded.trials[0].user_attrs


def test_a_trial_that_comes_further_may_be_lost_again(tmp_path, data):
    setup, store = make_setup(tmp_path), Store(str(tmp_path))
    study = SweepStudy(setup)
    assignment = study.next()
    for _ in range(2):
        make_trial(study, store, after(STEPS + 1), assignment).train(lambda: data)
        study._replaced.clear()  # as if it had died there without a word
        study.lost(0, "its machine is gone")
        assignment = study.next()
        assert assignment is not None
        assert assignment["adopted"]
    study.lost(0, "its machine is gone", stays=True)
    assert study._state(0) == TrialState.FAIL
    assert any("trial 0 failed (bug): its machine is gone" in text for text in notices(study))


def test_sigterm_asks_the_trial_and_ends_an_idle_process(monkeypatch):
    monkeypatch.setattr(preemption, "_heard", False)
    ended: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda signum, frame: ended.append(signum))
    try:
        preemption.listen()
        os.kill(os.getpid(), signal.SIGTERM)
        assert ended == [signal.SIGTERM]  # nothing runs: as if we were not there
        assert not preemption.ends()
        with preemption.Watch(None) as stop:
            assert not stop()
            os.kill(os.getpid(), signal.SIGTERM)
            assert stop()
            assert len(ended) == 1
            os.kill(os.getpid(), signal.SIGTERM)
            assert len(ended) == 2
        assert preemption.ends()
    finally:
        signal.signal(signal.SIGTERM, before)


def test_the_study_is_asked_while_a_trial_runs(monkeypatch):
    monkeypatch.setattr(preemption, "_POLL", 0.01)
    word = threading.Event()
    with preemption.Watch(word.is_set) as stop:
        time.sleep(0.1)
        assert not stop()
        word.set()
        deadline = time.monotonic() + 10
        while not stop():
            assert time.monotonic() < deadline
            time.sleep(0.01)


# ---- failures


class Fragile(nn.Module):
    """Runs out of memory for batches larger than `most`, after a number of steps that went well."""

    most, patience = 4, 6
    made: ClassVar[list[weakref.ref]] = []
    alive_before: ClassVar[list[int]] = []

    def __init__(self, classes: int) -> None:
        super().__init__()
        Fragile.alive_before.append(sum(ref() is not None for ref in Fragile.made))
        Fragile.made.append(weakref.ref(self))
        self.features = nn.Sequential(nn.Conv2d(3, 4, 3, stride=4), nn.ReLU(), nn.Flatten(), nn.Linear(256, classes))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.training and len(x) > Fragile.most:
            Fragile.patience -= 1
            if Fragile.patience < 0:
                torch.empty(2**61, dtype=torch.uint8)  # more than there is
        return self.features(x)


@pytest.fixture
def fragile(monkeypatch) -> type[Fragile]:
    monkeypatch.setattr(Fragile, "most", 4)
    monkeypatch.setattr(Fragile, "patience", 6)
    monkeypatch.setattr(Fragile, "made", [])
    monkeypatch.setattr(Fragile, "alive_before", [])
    monkeypatch.setattr(networks, "build", lambda name, classes, shape, **options: Fragile(classes))
    return Fragile


def test_out_of_memory_it_goes_on_in_halves(fragile, tmp_path, data):
    setup, store = make_setup(tmp_path, base=BASE.with_(precision="float32")), Store(str(tmp_path))
    study = SweepStudy(setup)
    make_trial(study, store).train(lambda: data)
    (trial,) = study_of(setup).trials[:1]
    assert trial.state == TrialState.COMPLETE
    assert trial.user_attrs["accumulate"] == 2
    assert epochs_on_file(store) == sorted(trial.intermediate_values) == [0, 1, 2]
    assert len(fragile.made) == 2
    assert fragile.alive_before == [0, 0]  # the first network was gone before the second was made
    said = [text for text in notices(study) if "out of memory" in text]
    assert len(said) == 1
    assert "goes on with batches in two halves" in said[0]
    assert SweepStudy(setup).begin(0)["accumulate"] == 2
    results = Results(study_of(setup))
    assert results.best is not None
    found = best_recipe(results, results.best)
    parts = found["provenance"]["accumulate"]
    assert [number for *_, number in parts] == [1, 2]
    fragile.most = 1000
    alone = Training(Recipe.from_dict(found["recipe"]), data, accumulate=Parts.read(parts))
    list(alone.run())
    assert alone.final()[0] == found["metrics"]

    whole = tmp_path / "whole"
    fragile.most = 1000
    make_trial(SweepStudy(make_setup(whole, base=BASE.with_(precision="float32"))), Store(str(whole))).train(
        lambda: data
    )
    expected = weights(Store(str(whole)))
    for name, value in weights(store).items():
        torch.testing.assert_close(value, expected[name], rtol=1e-3, atol=1e-5)


def test_out_of_memory_twice_it_fails(fragile, tmp_path, data):
    fragile.most, fragile.patience = 1, 0
    setup, store = make_setup(tmp_path), Store(str(tmp_path))
    study = SweepStudy(setup)
    make_trial(study, store).train(lambda: data)
    (trial,) = study_of(setup).trials[:1]
    assert (trial.state, trial.user_attrs["failure"]) == (TrialState.FAIL, "oom")
    assert "can't allocate memory" in trial.user_attrs["failure_message"]
    assert len(fragile.made) == 2
    assert study.status()["counts"]["FAIL"] == 1
    assert not study.status()["stopped_by_failures"]


def test_several_workers_out_of_memory_count_as_one(tmp_path):
    study = SweepStudy(make_setup(tmp_path))
    study.next()
    assert study.out_of_memory(0, 1, "no memory")
    assert study.out_of_memory(0, 1, "no memory")
    assert not study.out_of_memory(0, 2, "no memory")
    assert not study.out_of_memory(0, 2, "no memory")
    assert study.begin(0)["finished"]


def test_a_loss_that_is_not_finite_is_told_with_its_times(tmp_path, data):
    setup, store = make_setup(tmp_path, base=BASE.with_(momentum=0.0)), Store(str(tmp_path))
    study = SweepStudy(setup)
    assignment = study.next()
    recipe = Recipe.from_dict(assignment["recipe"]).with_(lr=1e30)
    asked: list[int] = []
    make_trial(study, store, assignment={"number": 0, "recipe": recipe.to_dict()}).train(
        lambda: asked.append(0) or data  # type: ignore[func-returns-value]
    )
    (trial,) = study_of(setup).trials[:1]
    attrs = trial.user_attrs
    assert (trial.state, attrs["failure"], attrs["failure_epoch"]) == (TrialState.FAIL, "nan", 0)
    assert 0 < len(attrs["failure_times"]) <= 8
    assert f"step {attrs['failure_step']} (t from" in attrs["failure_message"]
    assert len(asked) == 1


def test_an_exception_keeps_its_traceback_and_the_sweep_goes_on(monkeypatch, tmp_path, data):
    monkeypatch.setattr(networks, "build", lambda *args, **options: nn.Linear(7, 7))
    setup, store = make_setup(tmp_path, trials=2), Store(str(tmp_path))
    study = SweepStudy(setup)
    make_trial(study, store).train(lambda: data)
    (trial,) = study_of(setup).trials[:1]
    assert (trial.state, trial.user_attrs["failure"]) == (TrialState.FAIL, "bug")
    assert trial.user_attrs["failure_message"].endswith(f"(traceback: {store.uri}/trials/00000/error.txt)")
    text = (tmp_path / "trials/00000/error.txt").read_text()
    assert text.startswith("Traceback")
    assert "RuntimeError" in text
    assert study.next()["number"] == 1


@pytest.mark.parametrize(
    ("kind", "error"),
    [
        ("oom", torch.AcceleratorError("CUDA error: out of memory\nCUDA kernel errors might be reported later")),
        ("oom", RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`")),
        ("oom", dist.DistBackendError("ncclUnhandledCudaError\nLast error:\nCuda failure 2 'out of memory'")),
        ("oom", dist.DistBackendError("NCCL error: unhandled cuda error\nFailed to CUDA calloc async 4 bytes")),
        ("oom", RuntimeError("HIP error: out of memory")),
        ("device", torch.AcceleratorError("CUDA error: device-side assert triggered")),
        ("device", torch.AcceleratorError("CUDA error: an illegal memory access was encountered")),
        ("device", RuntimeError("CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasSgemm`")),
        ("device", RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED")),
        ("storage", StorageError("Cannot use storage 's3://b': no")),
        ("bug", RuntimeError("mat1 and mat2 shapes cannot be multiplied (8x3 and 7x7)")),
        ("bug", ValueError("Expected more than 1 value per channel")),
    ],
)
def test_failures_are_told_apart(kind, error):
    assert classify(error)[0] == kind


class Broken(nn.Linear):
    """A network on a device that fails."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        raise torch.AcceleratorError("CUDA error: device-side assert triggered\nCompile with `TORCH_USE_CUDA_DSA`")


def test_a_device_that_fails_costs_the_process_and_one_trial_only(monkeypatch, tmp_path, data):
    """The trial is tried once more, in a process of its own; its error is told when it comes again."""
    setup, store = make_setup(tmp_path, trials=2), Store(str(tmp_path))
    study = SweepStudy(setup)
    assignment = study.next()
    with monkeypatch.context() as patch:
        patch.setattr(networks, "build", lambda *args, **options: Broken(7, 7))
        for state in (TrialState.RUNNING, TrialState.FAIL):
            patch.setattr(preemption, "_broken", False)
            make_trial(study, store, assignment=assignment).train(lambda: data)
            assert preemption.ends()
            assert study._state(0) == state
    assert study.begin(0)["finished"]  # the third process has nothing to do
    attrs = study_of(setup).trials[0].user_attrs
    assert attrs["failure"] == "device"
    assert "device-side assert triggered (traceback: " in attrs["failure_message"]
    assert sum("tried once more in a new process" in text for text in notices(study)) == 1
    assert study.next()["number"] == 1


def test_several_workers_of_a_trial_whose_device_fails_count_as_one(tmp_path):
    study = SweepStudy(make_setup(tmp_path, trials=2))
    study.next()
    for _ in range(3):
        study.device_error(0, 0, "CUDA error")
    assert not study.begin(0)["finished"]
    assert study.begin(0)["device_errors"] == 1
    study.device_error(0, 1, "CUDA error")
    assert study.begin(0)["finished"]


def test_a_trial_whose_process_says_nothing_is_handed_out_again(monkeypatch, tmp_path, data):
    """Nothing stays running that no process has: neither the first time, nor for ever where it comes no further."""
    study = SweepStudy(make_setup(tmp_path))
    monkeypatch.setattr("mollify_sweeps.driver.searcher.StudyClient", lambda name: study)
    searcher = StudySearcher("study")

    def run(process: str, epochs: int) -> None:
        assignment = study.next()
        assert assignment["number"] == 0
        searcher._numbers[process] = 0
        for epoch in range(len(study.begin(0)["values"]), epochs):
            study.report(0, epoch, {"corrupted_nll": 1.0, "seconds": 1.0})

    run("a", epochs=1)
    searcher.on_trial_complete("a")
    run("b", epochs=2)
    assert study.status()["live"]
    searcher.on_trial_complete("a")  # told again: it is the other's now
    assert study.status()["live"]
    searcher.on_trial_complete("b", error=True)
    run("c", epochs=2)
    searcher.on_trial_complete("c")
    assert study.begin(0)["finished"]
    assert any("its process ended without a word" in text for text in notices(study))
    assert study.next() is None


def _lose_peer(rank: int, out: str) -> None:
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29515"}
    dist.init_process_group("gloo", rank=rank, world_size=2)
    dist.barrier()
    if rank == 1:
        os._exit(1)
    try:
        for _ in range(100):
            dist.all_reduce(torch.ones(1))
    except Exception as error:
        Path(out).write_text(str(_peer_lost(error)))
    os._exit(0)


def test_a_lost_worker_is_not_its_peers_failure(tmp_path):
    context = mp.get_context("fork")
    processes = [context.Process(target=_lose_peer, args=(rank, str(tmp_path / "out"))) for rank in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert (tmp_path / "out").read_text() == "True"
    assert not _peer_lost(ValueError("x"))


# ---- storage


@pytest.fixture(scope="module")
def s3() -> Iterator[Callable[[bool], str]]:
    """Starts (True) or stops (False) a server that speaks S3; returns the URI of a place in its bucket."""
    with moto() as server:

        def switch(on: bool) -> str:
            server.start() if on else server.stop()
            return "s3://bucket/sweeps"

        yield switch


def test_a_storage_that_is_away_delays_nothing_and_loses_nothing(s3, data, monkeypatch):
    monkeypatch.setattr(patience_, "_PAUSES", (0.2, 0.5))
    store = Store(s3(True)) / "away"
    said: list[str | None] = []
    w = files.Writer(store, {}, active=True, tell=said.append)
    training = Training(BASE, data)
    w.start(BASE, 0)
    w.epoch(training, training.run_epoch().metrics)
    w.close()
    w = files.Writer(store, {}, active=True, tell=said.append)
    w.start(BASE, 1)
    s3(False)
    delays = []
    for epoch in training.run():
        started = time.monotonic()
        w.epoch(training, epoch.metrics)
        delays.append(time.monotonic() - started)
    assert max(delays) < 1
    heard = after(5)  # and the same trouble is not told again; how long the first attempts take is up to the machine
    with pytest.raises(Preempted):  # a trial that waits may still be stopped
        w.close(lambda: bool(said) and heard())
    assert len(said) == 1
    assert said[0].startswith("the storage does not answer; ")
    assert len(w._jobs) <= 2  # of three epochs the newest, and the recipe
    s3(True)
    w.close()
    assert said[1:] == [None]
    state = checkpoint.load_newest(store.fs, f"{store.root}/checkpoints")
    assert state is not None
    assert state.epoch == 3
    assert all(torch.equal(v, training.network.state_dict()[k]) for k, v in state.model.items())
    assert [m["epoch"] for m in files.Writer(store, {}, active=True).metrics()] == [0, 1, 2]


def test_the_user_hears_of_it_once_whatever_the_number_of_trials(tmp_path, monkeypatch):
    study = SweepStudy(make_setup(tmp_path, trials=3))
    for number in range(3):
        study.next()
        study.storage(number, f"the storage does not answer (since {number}:00)")
    for number in range(3):
        study.storage(number, None)
    study.begin(0)
    well = "the storage takes files again; nothing was lost"
    assert notices(study) == ["the storage does not answer (since 0:00)", well]
    for text in ("is full (a)", "is full (b)", "refuses access (c)"):
        study.storage(0, f"the storage {text}")
    assert notices(study) == ["the storage is full (a)", "the storage refuses access (c)"]
    monkeypatch.setattr("mollify_sweeps.study.study.AGAIN", 0.0)
    study.storage(1, "the storage refuses access (d)")
    assert notices(study) == ["the storage refuses access (d)"]


@pytest.mark.slow
def test_a_server_that_hangs_is_given_up(s3, monkeypatch):
    monkeypatch.setattr("mollify_sweeps.storage.store._TIMEOUTS", {"connect_timeout": 1.0, "request_timeout": 1.0})
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{silent.getsockname()[1]}")
        started = time.monotonic()
        with pytest.raises(OSError, match=r"(?i)timeout") as error:
            Store("s3://bucket/x?region=us-east-1").read("y")
        assert time.monotonic() - started < 20
        assert trouble(error.value) == "down"


def test_options_of_a_uri_are_kept():
    said = "region=eu-north-1&scheme=http&endpoint_override=127.0.0.1:1"
    store = Store(f"s3://bucket/x?{said}") / "a" / "b"
    assert (store.uri, store.root) == (f"s3://bucket/x/a/b?{said}", "bucket/x/a/b")
    for same in (store, pickle.loads(pickle.dumps(store))):
        options = same.fs.__reduce__()[1][0]
        assert (options["region"], options["scheme"], options["endpoint_override"]) == (
            *("eu-north-1", "http", "127.0.0.1:1"),
        )
        assert options["request_timeout"] == 10.0
    with pytest.raises(StorageError, match="without credentials") as error:
        Store("s3://key:hidden@bucket/x")
    assert "hidden" not in str(error.value)


def test_a_storage_that_refuses_ends_the_sweep_and_fails_no_trial(s3, tmp_path, data, monkeypatch):
    """At first for a while only, as a new role does until all servers know it; then for good."""
    monkeypatch.setattr(patience_, "_PAUSES", (0.1,))
    monkeypatch.setattr(patience_, "_REFUSALS", 1.0)
    s3(True)
    setup = make_setup(tmp_path, trials=2)
    study = SweepStudy(setup)
    make_trial(study, Store("s3://no-such-bucket/x")).train(lambda: data)
    (trial,) = study_of(setup).trials[:1]
    assert trial.state == TrialState.RUNNING
    assert study.next() is None
    assert study.stopping()
    status = study.status()
    assert not status["live"]
    assert not status["stopped_by_failures"]
    assert status["stopped_by_storage"].startswith("Cannot use storage 's3://no-such-bucket/x/trials/00000': ")
    assert "NO_SUCH_BUCKET" in status["stopped_by_storage"]
    assert "\n" not in status["stopped_by_storage"]
    (said,) = [text for text in notices(study) if "refuses access" in text]
    assert "training goes on" in said
    assert SweepStudy(setup).next()["number"] == 0  # the next driver goes on with it


def test_a_full_storage_keeps_what_it_has_and_goes_on_when_there_is_room(small_disk, tmp_path, monkeypatch, data):
    """Full from the second epoch on, until the trial has waited for a while at its end."""
    monkeypatch.setattr(patience_, "_PAUSES", (0.05,))
    monkeypatch.setattr(networks, "build", _small)
    setup, store, ballast = make_setup(tmp_path), Store(str(small_disk)), small_disk / "ballast"
    study, calls, seen = SweepStudy(setup), iter(range(1, 10**9)), []

    def stop() -> bool:
        call = next(calls)
        if call == STEPS + 1:
            deadline = time.monotonic() + 10
            while checkpoint.epochs(store.fs, f"{small_disk}/trials/00000/checkpoints") != [1]:
                assert time.monotonic() < deadline
                time.sleep(0.01)
            with contextlib.suppress(OSError):
                ballast.write_bytes(b"x" * 2**20)
        if call == 3 * STEPS + 10:
            folder = small_disk / "trials/00000/checkpoints"
            seen.append(sorted(p.name for p in folder.iterdir() if (p / checkpoint.MANIFEST).exists()))
            ballast.unlink()
        return False

    make_trial(study, store, stop).train(lambda: data)
    assert told(setup)[0][1] == TrialState.COMPLETE
    assert seen == [["epoch-0001"]]
    said = [text for text in notices(study) if "storage" in text]
    assert said[0].startswith("the storage is full; training goes on without keeping more until there is room (since ")
    assert said[1:] == [
        "the storage takes files again; nothing was lost",
    ]
    assert sorted(p.name for p in (small_disk / "trials/00000/checkpoints").iterdir())[-1] == "epoch-0003"
    assert epochs_on_file(store) == [0, 1, 2]
    assert not list(small_disk.rglob("*.tmp"))


def _small(name: str, classes: int, shape: tuple, **options: object) -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 4, 3, stride=4), nn.ReLU(), nn.Flatten(), nn.Linear(256, classes))


# ---- the study


def everything(setup: Setup) -> list[tuple]:
    """All that a study holds, less what measures time."""
    study = study_of(setup)
    assert study is not None
    return [
        (*t, sorted(trial.user_attrs.items()), sorted(trial.system_attrs.items()))
        for t, trial in zip(told(setup), study.trials, strict=True)
    ]


WRITES = (
    "create_new_study",
    "create_new_trial",
    "set_study_user_attr",
    "set_study_system_attr",
    "set_trial_param",
    "set_trial_state_values",
    "set_trial_intermediate_value",
    "set_trial_user_attr",
    "set_trial_system_attr",
)


@pytest.fixture
def memory(tmp_path) -> Iterator[Path]:
    """A folder in memory, where there is one: nothing here asks whether a disk keeps its word."""
    if not Path("/dev/shm").is_dir():
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        yield Path(folder)


@pytest.mark.parametrize(("trials", "every"), [(6, 80), pytest.param(8, 1, marks=pytest.mark.slow)])
def test_killed_between_two_writes_it_ends_as_if_unbroken(trials, every, monkeypatch, memory):
    """Set-up: a study of some trials over four epochs; its file is copied after each write, as a kill would leave it.

    1. From each copy another process goes on without an error (by default: from every second of those in the
       middle of a pruner's answer or of a sampler's draws, and from every eightieth of all).
    2. Every value, decision, rung and attribute is then that of the unbroken study.
    """
    setup = make_setup(memory, trials=trials, base=BASE.with_(epochs=4))
    file, copies = memory / "study.sqlite", []

    def copied(name, original):
        def write(*args, **kwargs):
            result = original(*args, **kwargs)
            copies.append((name, memory / f"{len(copies)}.sqlite"))
            shutil.copy(file, copies[-1][1])
            return result

        return write

    storage = type(optuna.storages.get_storage(setup.location.url))
    with monkeypatch.context() as patch:
        for name in WRITES:
            patch.setattr(storage, name, copied(name, getattr(storage, name)))
        run_trials(SweepStudy(setup))
    expected = everything(setup)
    states = [state for _, state, *_ in expected]
    assert {TrialState.COMPLETE, TrialState.PRUNED} <= set(states)
    delicate = "set_trial_system_attr", "set_trial_param"
    chosen = [*[copy for copy in copies if copy[0] in delicate][::2], *copies[::every]]
    assert set(delicate) < {name for name, _ in chosen}
    assert len(copies[::every]) > 1
    for name, copy in chosen:
        shutil.copy(copy, file)
        run_trials(SweepStudy(setup))
        assert everything(setup) == expected, (name, copy.name)


@pytest.mark.slow
def test_a_study_on_a_full_disk_is_told_again_and_misses_nothing(small_disk, tmp_path):
    expected = make_setup(tmp_path / "unbroken", trials=4)
    run_trials(SweepStudy(expected))
    setup, ballast = make_setup(small_disk, trials=4), small_disk / "ballast"
    study = SweepStudy(setup)
    refusals = []

    def call(method, *args):
        with contextlib.suppress(OSError), open(ballast, "wb", buffering=0) as file:
            while True:
                file.write(b"x" * 4096)
        try:
            return method(*args)
        except StorageInternalError:
            refusals.append(method.__name__)
            assert study.status()["trials"] == 4  # who asks is answered
        ballast.unlink()
        return method(*args)

    run_trials(study, call)
    assert {"next", "report", "complete", "prune"} <= set(refusals)
    assert everything(setup) == everything(expected)
    said = notices(study)
    assert len(said) == 2 * len(refusals)
    assert said[0].startswith("the study cannot be written (")
    assert "full" in said[0]
    assert said[1] == "the study can be written again; nothing was lost"


def test_a_study_that_is_behind_hears_what_it_missed(tmp_path, data, unbroken):
    """The head machine is lost in the third epoch; the snapshot of its study knows nothing of the first two."""
    setup, store, file = make_setup(tmp_path), Store(str(tmp_path)), tmp_path / "study.sqlite"
    study = SweepStudy(setup)
    assignment = study.next()
    shutil.copy(file, tmp_path / "snapshot.sqlite")
    make_trial(study, store, after(2 * STEPS + 2), assignment).train(lambda: data)
    shutil.copy(tmp_path / "snapshot.sqlite", file)
    make_trial(SweepStudy(setup), store).train(lambda: data)
    equals(tmp_path, unbroken)
    answers = study_of(setup).trials[0].user_attrs
    assert [answers[f"epoch_{e}"]["go_on"] for e in range(3)] == [True] * 3


def test_where_that_is_lost_too_it_trains_again(tmp_path, data, unbroken):
    setup, store, file = make_setup(tmp_path), Store(str(tmp_path)), tmp_path / "study.sqlite"
    study = SweepStudy(setup)
    assignment = study.next()
    shutil.copy(file, tmp_path / "snapshot.sqlite")
    make_trial(study, store, after(2 * STEPS + 2), assignment).train(lambda: data)
    shutil.copy(tmp_path / "snapshot.sqlite", file)
    (tmp_path / "trials/00000/metrics.jsonl").write_text('{"epoch": 0, "seco')
    study = SweepStudy(setup)
    make_trial(study, store).train(lambda: data)
    equals(tmp_path, unbroken)
    assert "trial 0: Set aside the checkpoint of epoch 2: what is known ends at epoch 0" in notices(study)


def test_a_line_of_the_metrics_that_is_lost_comes_from_the_study(tmp_path, data, unbroken):
    setup, store = make_setup(tmp_path), Store(str(tmp_path))
    make_trial(SweepStudy(setup), store, after(2 * STEPS + 2)).train(lambda: data)
    file = tmp_path / "trials/00000/metrics.jsonl"
    first, second = file.read_text().splitlines()
    file.write_text(f"{first}\n{second[:40]}")
    make_trial(SweepStudy(setup), store).train(lambda: data)
    equals(tmp_path, unbroken)


def test_an_epoch_that_comes_out_otherwise_the_second_time_keeps_its_first_value(tmp_path, data):
    """A worker group told of its first epoch and was lost before the checkpoint; the next group is of another size."""
    setup, store = make_setup(tmp_path), Store(str(tmp_path))
    study = SweepStudy(setup)
    assignment = study.next()
    study.report(0, 0, {"seconds": 1.0, "corrupted_nll": 1.25})
    make_trial(study, store, assignment=assignment).train(lambda: data)
    trial = study_of(setup).trials[0]
    kept = files.Writer(store / trial_folder(0), {}, active=True).metrics()
    logged = [event[3] for event in study.drain() if event[0] == "epoch"][1:]
    assert trial.state == TrialState.COMPLETE
    assert trial.intermediate_values[0] == 1.25
    for found in (kept, logged):
        assert [m["corrupted_nll"] for m in found] == list(trial.intermediate_values.values())


def test_checkpoints_of_another_recipe_are_set_aside(tmp_path, data, unbroken):
    """A trial that was asked for anew, after its study was lost, finds the files of its namesake."""
    setup, store = make_setup(tmp_path), Store(str(tmp_path))
    other = Training(BASE.with_(lr=0.01), data)
    other.run_epoch()
    checkpoint.save(store.fs, f"{tmp_path}/trials/00000/checkpoints", other.state())
    study = SweepStudy(setup)
    make_trial(study, store).train(lambda: data)
    equals(tmp_path, unbroken)
    assert notices(study) == ["trial 0: Set aside the checkpoint of epoch 1: it is of another recipe"]


def test_killed_when_it_was_being_made_a_study_is_made_again(tmp_path):
    setup = make_setup(tmp_path)
    optuna.create_study(study_name="s", storage=setup.location.url, directions=["minimize"])
    assert SweepStudy(setup).next()["number"] == 0
    optuna.create_study(study_name="t", storage=setup.location.url, directions=["minimize"] * 2)
    with pytest.raises(ConfigError, match="was not made by mollify"):
        SweepStudy(dataclasses.replace(setup, description=dataclasses.replace(setup.description, name="t")))


# ---- its snapshot


@pytest.fixture
def remote(s3, tmp_path) -> Store:
    return Store(s3(True)) / tmp_path.name


def claim() -> contextlib.AbstractContextManager:
    return contextlib.nullcontext()


def test_the_newer_of_study_and_snapshot_is_taken(remote, tmp_path):
    setup, file = make_setup(tmp_path, trials=3), tmp_path / "study.sqlite"
    assert snapshots.restore(remote, setup.location, "s", claim) is None  # there is nothing yet
    study = SweepStudy(setup)
    study.next()
    early = file.read_bytes()
    run_trials(SweepStudy(setup))
    late = file.read_bytes()

    remote.write("study.sqlite", early)
    assert snapshots.restore(remote, setup.location, "s", claim) is None
    assert file.read_bytes() == late

    remote.write("study.sqlite", late)
    file.write_bytes(early)
    (tmp_path / "study.sqlite-journal").write_bytes(b"of the old file")
    assert "was older than its snapshot" in snapshots.restore(remote, setup.location, "s", claim)
    assert file.read_bytes() == late
    assert not (tmp_path / "study.sqlite-journal").exists()
    assert (tmp_path / "study.sqlite.older").exists()

    for gone in (lambda: file.unlink(), lambda: file.write_bytes(b"nonsense")):
        gone()
        assert "snapshot" in snapshots.restore(remote, setup.location, "s", claim) or file.read_bytes() == late
        assert told(setup)[-1][1].is_finished()

    remote.write("study.sqlite", b"nonsense")
    assert snapshots.restore(remote, setup.location, "s", claim) is None
    assert file.read_bytes() == late


def test_snapshots_follow_the_study_and_never_hide_a_newer_one(remote, tmp_path):
    said: list[str] = []
    setup = make_setup(tmp_path, trials=3)
    study = SweepStudy(setup)
    study.next()
    kept = snapshots.Snapshots(remote, setup.location, "s", said.append)
    kept.ask()
    deadline = time.monotonic() + 20
    while remote.read("study.sqlite") is None:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    behind = (tmp_path / "study.sqlite").read_bytes()
    run_trials(SweepStudy(setup))
    kept.close(20)
    assert said == []
    newest = remote.read("study.sqlite")
    (tmp_path / "copy.sqlite").write_bytes(newest)
    assert progress(Location.of_file(tmp_path / "copy.sqlite").load("s"))[0] == 3

    (tmp_path / "study.sqlite").write_bytes(behind)
    other = snapshots.Snapshots(remote, setup.location, "s", said.append)
    other.close(20)
    assert remote.read("study.sqlite") == newest
    assert len(said) == 1
    assert "is newer than this sweep's study and stays" in said[0]


@pytest.mark.slow
def test_a_snapshot_waits_for_its_storage(s3, remote, tmp_path, monkeypatch):
    monkeypatch.setattr(snapshots, "_PAUSE", 0.1)
    said: list[str] = []
    setup = make_setup(tmp_path)
    SweepStudy(setup)
    kept = snapshots.Snapshots(remote, setup.location, "s", said.append)
    s3(False)
    threading.Timer(3, lambda: s3(True)).start()
    kept.close(30)
    assert len(said) == 2
    assert "cannot be stored for now" in said[0]
    assert said[1] == "the study's snapshot is stored again"
    s3(True)
    assert remote.read("study.sqlite") is not None


# ---- who may read it


@pytest.mark.parametrize(
    ("umask", "folder", "file"), [(0o022, 0o755, 0o644), (0o077, 0o700, 0o600), (0o002, 0o775, 0o664)]
)
def test_the_umask_says_who_may_read_a_sweep(umask, folder, file, monkeypatch, tmp_path):
    before = os.umask(umask)
    try:

        def writes(options):
            Store(str(tmp_path / "sweep")).write("trials/file", b"")
            return 0

        monkeypatch.setattr("mollify_sweeps.driver.search.search", writes)
        handler = signal.getsignal(signal.SIGTERM)
        assert search.main(["--dataset", "digits"]) == 0
        signal.signal(signal.SIGTERM, handler)
        modes = {p.name: p.stat().st_mode & 0o777 for p in (tmp_path / "sweep").rglob("*")}
        assert modes == {"trials": folder, "file": file}
    finally:
        os.umask(before)
