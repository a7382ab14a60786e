"""The trackers, by reading back what TensorBoard and wandb will read."""

from __future__ import annotations

import json
import os
import shutil
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from PIL import Image
from tensorboard.backend.event_processing.data_provider import MultiplexerDataProvider
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.backend.event_processing.plugin_event_multiplexer import EventMultiplexer
from tensorboard.context import RequestContext
from tensorboard.plugins.base_plugin import TBContext
from tensorboard.plugins.hparams import metadata
from tensorboard.plugins.hparams.backend_context import Context

from mollify_core.errors import ConfigError
from mollify_core.recipe import Recipe
from mollify_sweeps.tracking.trackers import Trackers
from mollify_sweeps.tracking.wandb_runs import publish
from setups import described

EPOCH = [f"{k}_{m}" for k in ("clean", "corrupted") for m in ("nll", "error", "top5_error", "brier", "ece")]
EPOCH += ["train_loss", "train_error", "lr", "images_per_second", "seconds"]
KEY = "0123456789abcdef0123456789abcdef01234567"
RECIPE = Recipe().with_(lr=0.03, max_noise=0.7).to_dict()
SWEEP = described(
    name="tiny sweep",
    dataset="digits",
    network="presnet8",
    space={"lr": {"low": 1e-3, "high": 1.0, "log": True}, "max_noise": {"low": 0.1, "high": 1.0, "log": False}},
    created="2025-01-01T00:00:00+00:00",
)
TOLD = f"Description.from_dict({SWEEP.to_dict()!r})"  # for programs of a process of their own
IMPORT = "from mollify_sweeps.study.description import Description\n"


@pytest.fixture(autouse=True)
def _no_login(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    for name in [name for name in os.environ if name.startswith("WANDB_")] + ["NETRC"]:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path_factory.mktemp("home")))


def make(folder: Path, notices: list[str] | None = None, **kwargs: Any) -> Trackers:
    notice = (lambda _: None) if notices is None else notices.append
    return Trackers(**{"sweep": SWEEP, "folder": folder, "wandb": "off", "notice": notice, **kwargs})


def train(trackers: Trackers, number: int, epochs: range, offset: float = 0.0) -> None:
    trackers.start(number, RECIPE, {"lr": 0.03}, kind=None)
    for epoch in epochs:
        trackers.epoch(number, epoch, {"train_loss": 1 / (1 + epoch) + offset, "val/clean_nll": 2.0 - epoch})


def events(folder: Path, number: int) -> EventAccumulator:
    (run,) = (folder / "tensorboard").glob(f"{number:05d}*")
    return EventAccumulator(str(run), size_guidance={"scalars": 0}).Reload()


def curve(folder: Path, number: int, tag: str = "train/loss") -> list[tuple[int, Any]]:
    return [(event.step, pytest.approx(event.value)) for event in events(folder, number).Scalars(tag)]


def parse_wandb(data: bytes) -> Iterator[Any]:
    """The protobuf records of a .wandb file: a 7-byte header, then a LevelDB log of 32 KiB blocks."""
    from wandb.proto import wandb_internal_pb2

    assert data[:4] == b":W&B"
    position, payload = 7, b""
    while position < len(data):
        if (left := 32768 - position % 32768) < 7:
            position += left
            continue
        _, size, kind = struct.unpack_from("<IHB", data, position)
        payload += data[position + 7 : position + 7 + size]
        position += 7 + size
        if kind in (1, 4):  # a whole record, or the last fragment of one
            yield wandb_internal_pb2.Record.FromString(payload)  # type: ignore[attr-defined]
            payload = b""


def wandb_records(path: Path) -> list[Any]:
    """The records of a finished run; wandb's own process may write the last of them a moment after `finish`."""
    deadline = time.monotonic() + 20
    while True:
        try:
            records = list(parse_wandb(path.read_bytes()))
            if records[-1].HasField("exit"):
                return records
        except (AssertionError, IndexError, struct.error, DecodeError):
            pass
        assert time.monotonic() < deadline, f"{path} did not end with an exit record"
        time.sleep(0.05)


def items(updates: Any) -> dict[str, Any]:
    return {"/".join(item.nested_key) or item.key: json.loads(item.value_json) for item in updates}


def run_python(code: str, *argv: str, **env: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), **env}
    command = [sys.executable, "-c", code, *argv]
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=60, check=True)


def test_import_is_cheap() -> None:
    heavy = "{'torch', 'wandb', 'tensorboard', 'ray', 'optuna'}"
    code = f"import sys, mollify_sweeps.tracking.trackers\nprint({heavy} & set(sys.modules))"
    assert run_python(code).stdout.strip() == "set()"


def test_tensorboard_has_one_folder_per_trial_with_curves_and_hparams(tmp_path: Path) -> None:
    trackers = make(tmp_path)
    for number in (0, 1):
        train(trackers, number, range(3), offset=number)
    trackers.end(0, "COMPLETE", {"clean_nll": 0.5, "clean_error": 0.25})
    trackers.end(1, "PRUNED", {})
    trackers.close()

    assert sorted(p.name for p in (tmp_path / "tensorboard").iterdir()) == ["00000", "00001"]
    assert all(p.is_file() for p in (tmp_path / "tensorboard").glob("*/*"))
    assert curve(tmp_path, 0) == [(1, 1.0), (2, 0.5), (3, 1 / 3)], "epochs are counted from 1"
    assert curve(tmp_path, 1) == [(1, 2.0), (2, 1.5), (3, 4 / 3)]
    assert curve(tmp_path, 0, "final/clean_nll") == [(3, 0.5)]

    content = events(tmp_path, 0).PluginTagToContent("hparams")
    start = metadata.parse_session_start_info_plugin_data(content[metadata.SESSION_START_INFO_TAG])
    assert {name: value.number_value or value.string_value for name, value in start.hparams.items()} == {
        "lr": 0.03,
        "max_noise": 0.7,
        "reference": "none",
        "state": "COMPLETE",
    }
    experiment = metadata.parse_experiment_plugin_data(content[metadata.EXPERIMENT_TAG])
    assert {info.name.tag for info in experiment.metric_infos} == {"final/clean_nll", "final/clean_error"}


def test_the_columns_of_the_hparams_table_do_not_depend_on_a_trial_without_metrics(tmp_path: Path) -> None:
    """TensorBoard takes them from any one trial that names them; asked of its own server side."""
    trackers = make(tmp_path)
    for number, (state, metrics) in enumerate([("FAIL", {}), ("PRUNED", {}), ("COMPLETE", {"clean_nll": 0.5})]):
        train(trackers, number, range(2))
        trackers.end(number, state, metrics)
    trackers.close()

    multiplexer = EventMultiplexer()
    multiplexer.AddRunsFromDirectory(str(tmp_path / "tensorboard"))
    multiplexer.Reload()
    provider = MultiplexerDataProvider(multiplexer, str(tmp_path / "tensorboard"))
    context, request = Context(TBContext(data_provider=provider)), RequestContext()
    content = context.hparams_metadata(request, "")
    experiment = context.experiment_from_metadata(request, "", True, content, [])
    assert [metric.name.tag for metric in experiment.metric_infos] == ["final/clean_nll"]
    assert {info.name for info in experiment.hparam_infos} == {"lr", "max_noise", "reference", "state"}
    states = [
        metadata.parse_session_start_info_plugin_data(content[run][metadata.SESSION_START_INFO_TAG]).hparams["state"]
        for run in ("00000", "00001", "00002")
    ]
    assert [state.string_value for state in states] == ["FAIL", "PRUNED", "COMPLETE"]


def test_runs_have_names_and_charts_a_few_groups(tmp_path: Path) -> None:
    trackers, metrics = make(tmp_path), dict.fromkeys(EPOCH, 1.0)
    for number, role in enumerate(("plain default", "mollification", "trial 3, without the method, seed 5", None)):
        trackers.start(number, RECIPE, {}, kind=None, role=role)
        trackers.epoch(number, 0, metrics)
        trackers.end(number, "COMPLETE", {"clean_nll": 0.5})
    trackers.close()
    assert sorted(path.name for path in (tmp_path / "tensorboard").iterdir()) == [
        "00000-plain-default",
        "00001-mollification",
        "00002-trial-3-without-the-method-seed-5",
        "00003",
    ]
    tags = events(tmp_path, 0).Tags()["scalars"]
    assert {tag.partition("/")[0] for tag in tags} == {"train", "clean", "corrupted", "time", "final"}
    again = make(tmp_path)
    again.start(0, RECIPE, {}, kind=None, role="called otherwise by another version")
    again.epoch(0, 1, metrics)
    again.close()
    assert [step for step, _ in curve(tmp_path, 0)] == [1, 2], "it goes on where it was"


def test_an_epoch_repeated_after_a_resume_replaces_the_first(tmp_path: Path) -> None:
    trackers = make(tmp_path)
    train(trackers, 0, range(4), offset=10)
    train(trackers, 0, range(2, 5))  # the same process takes the trial up again
    trackers.close()
    assert curve(tmp_path, 0) == [(1, 11.0), (2, 10.5), (3, 1 / 3), (4, 1 / 4), (5, 1 / 5)]

    successor = make(tmp_path)  # a new driver adopts the trial
    train(successor, 0, range(3, 6), offset=20)
    successor.end(0, "COMPLETE", {"clean_nll": 0.5})
    successor.close()
    assert curve(tmp_path, 0) == [(1, 11.0), (2, 10.5), (3, 1 / 3), (4, 20.25), (5, 20.2), (6, 20 + 1 / 6)]


def test_ending_an_adopted_trial_keeps_its_curve(tmp_path: Path) -> None:
    trackers = make(tmp_path)
    train(trackers, 0, range(4))
    trackers.close()
    successor = make(tmp_path)
    train(successor, 0, range(0))  # all epochs had been trained; only the final metrics were missing
    successor.end(0, "COMPLETE", {"clean_nll": 0.5})
    successor.close()
    assert [step for step, _ in curve(tmp_path, 0)] == [1, 2, 3, 4]
    assert [value for _, value in curve(tmp_path, 0, "final/clean_nll")] == [0.5]


def test_wandb_offline_run(tmp_path: Path) -> None:
    notices: list[str] = []
    trackers = make(tmp_path, notices, wandb="offline", project="maps")
    trackers.start(7, RECIPE, {}, kind="mollification", role="mollification default")
    train(trackers, 7, range(3))
    train(trackers, 7, range(1, 4))
    trackers.end(7, "COMPLETE", {"clean_nll": 0.5})
    train(trackers, 8, range(1))  # left open
    trackers.close()

    (path,) = (tmp_path / "wandb").glob("offline-run-*-00007/run-*.wandb")
    records = wandb_records(path)
    (run,) = [record.run for record in records if record.HasField("run")]
    assert (run.project, run.run_group, run.display_name) == (
        "maps",
        "tiny sweep",
        "tiny sweep-00007 mollification default",
    )
    assert set(run.tags) == {"digits", "presnet8", "mollification"}
    assert {k: v for k, v in items(run.config.update).items() if k != "_wandb"} == RECIPE
    rows = [items(record.history.item) for record in records if record.HasField("history")]
    told = [(row["_step"], row["epoch"], row["train/loss"]) for row in rows]
    assert told == [(1, 1, 1.0), (2, 2, 0.5), (3, 3, 1 / 3), (4, 4, 0.25)]
    (axis,) = [record.metric for record in records if record.HasField("metric") and record.metric.glob_name == "*"]
    assert axis.step_metric == "epoch"
    summary: dict[str, Any] = {}
    for record in records:
        summary |= items(record.summary.update)
    assert (summary["clean_nll"], summary["state"], summary["train/loss"]) == (0.5, "COMPLETE", 0.25)
    assert [record.exit.exit_code for record in records if record.HasField("exit")] == [0]

    (path,) = (tmp_path / "wandb").glob("offline-run-*-00008/run-*.wandb")
    records = wandb_records(path)
    assert any(record.HasField("preempting") for record in records)
    assert len(notices) == 1
    assert f"wandb sync {tmp_path}/wandb/offline-run-*" in notices[0]

    notices.clear()
    unasked = make(tmp_path / "unasked", notices, wandb="offline", asked=False)
    train(unasked, 7, range(1))
    unasked.close()
    assert list((tmp_path / "unasked" / "wandb").glob("offline-run-*"))
    assert not notices, "wandb is not spoken of where nobody has"

    notices.clear()
    successor = make(tmp_path / "again", notices, wandb="offline")
    train(successor, 7, range(1))
    successor.close()
    (path,) = (tmp_path / "again" / "wandb").glob("offline-run-*/run-*.wandb")
    (again,) = [record.run for record in wandb_records(path) if record.HasField("run")]
    assert again.run_id == run.run_id, "an adopted trial continues its own run"


def test_wandb_offline_a_resumed_trial_is_whole_in_its_last_run(tmp_path: Path) -> None:
    """`wandb sync` puts a later run of one identity in the place of an earlier one."""
    for epochs in (range(3), range(2, 4)):  # killed, and continued with an epoch that it had had already
        trackers = make(tmp_path, wandb="offline")
        train(trackers, 7, epochs)
        trackers.close()
        with open(tmp_path / "wandb/curve-00007.jsonl", "a") as file:
            file.write('{"_epoch": 9, "train_l')
            file.write("\n")
        time.sleep(1.1)  # the name of a run has its second
    paths = sorted(tmp_path.glob("wandb/offline-run-*-00007/run-*.wandb"))
    assert len(paths) == 2
    rows = [items(record.history.item) for record in wandb_records(paths[-1]) if record.HasField("history")]
    assert not any("_epoch" in row for row in rows)
    steps = [(row["epoch"], row["train/loss"]) for row in rows]
    assert steps == [(1, 1.0), (2, 0.5), (3, 1 / 3), (4, 0.25)]


def test_wandb_has_the_report_with_a_table_of_trials_plots_and_an_artifact(tmp_path: Path) -> None:
    folder = tmp_path / "report"
    (folder / "plots").mkdir(parents=True)
    columns = {"number": [0, 1], "state": ["COMPLETE", "FAIL"], "clean_nll": [0.5, None], "failure": [None, None]}
    pq.write_table(pa.table(columns), folder / "trials.parquet")
    (folder / "summary.md").write_text("# Sweep")
    Image.new("RGB", (8, 4)).save(folder / "plots/curves.png")
    notices: list[str] = []
    given: dict[str, Any] = {"sweep": SWEEP, "local": tmp_path, "project": "maps", "notice": notices.append}
    publish(folder, mode="offline", **given)

    (path,) = (tmp_path / "wandb").glob("offline-run-*-report/run-*.wandb")
    records = wandb_records(path)
    (run,) = [record.run for record in records if record.HasField("run")]
    assert (run.run_group, run.job_type, run.display_name) == ("tiny sweep", "report", "tiny sweep-report")
    assert items(run.config.update)["space"] == SWEEP.space
    (artifact,) = [r.artifact for r in records if r.HasField("artifact") and r.artifact.type == "report"]
    assert {entry.path for entry in artifact.manifest.contents} == {"trials.parquet", "summary.md", "plots/curves.png"}
    (table,) = path.parent.glob("files/media/table/trials*.json")
    assert json.loads(table.read_text()) == {
        "columns": ["number", "state", "clean_nll"],
        "data": [[0, "COMPLETE", 0.5], [1, "FAIL", None]],
    }
    (picture,) = path.parent.glob("files/media/images/plots/curves*.png")
    assert picture.read_bytes() == (folder / "plots/curves.png").read_bytes()
    assert notices == []

    publish(folder, mode="off", **{**given, "local": tmp_path / "off"})
    assert not (tmp_path / "off").exists()
    publish(folder, mode="offline", **{**given, "project": "no/slash/allowed"})
    assert len(notices) == 1
    assert notices[0].startswith("wandb has not got the report")


def test_wandb_offline_asks_nobody(tmp_path: Path) -> None:
    """Every address that wandb's processes look up or connect to is written down by the kernel's own tracer."""
    if shutil.which("strace") is None:
        pytest.skip("needs strace")
    code = (
        f"import sys\nfrom pathlib import Path\n{IMPORT}from mollify_sweeps.tracking.wandb_runs import WandbRuns\n"
        f"runs = WandbRuns({TOLD}, Path(sys.argv[1]), 'offline', 'p', lambda line: None)\n"
        f"runs.start(0, {RECIPE!r}, {{}}, None); runs.epoch(0, 0, {{'a': 1.0}})\n"
        "runs.end(0, 'COMPLETE', {'a': 1.0}); runs.close()"
    )
    trace = tmp_path / "trace"
    command = [
        "strace",
        "-f",
        "-qq",
        "-e",
        "trace=connect",
        "-o",
        str(trace),
        sys.executable,
        "-c",
        code,
        str(tmp_path),
    ]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    if "Operation not permitted" in done.stderr:
        pytest.skip("may not trace here")
    assert done.returncode == 0, done.stderr
    assert list(tmp_path.glob("wandb/offline-run-*/run-*.wandb"))
    assert [line for line in trace.read_text().splitlines() if "AF_INET" in line] == []


def test_wandb_prints_nothing_and_keeps_no_secret(tmp_path: Path) -> None:
    code = (
        f"import sys\nfrom pathlib import Path\n{IMPORT}from mollify_sweeps.tracking.trackers import Trackers\n"
        f"sweep, recipe, folder = {TOLD}, {RECIPE!r}, Path(sys.argv[1])\n"
        "trackers = Trackers(sweep=sweep, folder=folder, wandb='offline', notice=lambda line: None)\n"
        "trackers.start(0, recipe, {}, kind=None)\n"
        "trackers.epoch(0, 1, {'a': 1.0}); trackers.epoch(0, 0, {'a': 1.0})\n"
        "trackers.end(0, 'COMPLETE', {'a': 1.0}); trackers.close()"
    )
    done = run_python(code, str(tmp_path), "postgresql://me:hunter2@host/db", WANDB_API_KEY=KEY)
    assert (done.stdout, done.stderr) == ("", "")
    assert list(tmp_path.glob("wandb/offline-run-*/run-*.wandb"))
    for path in tmp_path.rglob("*"):
        if path.is_file():
            assert not any(secret in path.read_bytes() for secret in (KEY.encode(), b"hunter2")), path


def test_an_unreachable_wandb_server_neither_delays_nor_stops_the_sweep(tmp_path: Path) -> None:
    code = (
        "import sys, time\nfrom pathlib import Path\nimport torch.utils.tensorboard, wandb\n"
        f"{IMPORT}import mollify_sweeps.tracking.trackers as t, mollify_sweeps.tracking.wandb_runs as w\n"
        "t.CLOSE_TIMEOUT, w.PATIENCE = 4.0, 1.0\n"
        f"trackers = t.Trackers(sweep={TOLD}, folder=Path(sys.argv[1]), wandb='online')\n"
        "begin = time.monotonic()\n"
        "for number in range(2):\n"
        f"    trackers.start(number, {RECIPE!r}, {{}}, kind=None)\n"
        "    trackers.epoch(number, 0, {'train_loss': 1.0}); trackers.end(number, 'COMPLETE', {})\n"
        "assert time.monotonic() - begin < 1\ntrackers.close()"
    )  # run_python's limit of 60 s is less than the 90 s that wandb waits by default, and it waits once per trial
    done = run_python(code, str(tmp_path), WANDB_API_KEY=KEY, WANDB_BASE_URL="http://127.0.0.1:9")
    assert done.stderr == ""
    assert all(line.startswith("wandb ") for line in done.stdout.splitlines())
    assert done.stdout.count("the sweep goes on") == 1
    assert KEY not in done.stdout
    assert curve(tmp_path, 1) == [(1, 1.0)]


def test_a_failing_tracker_warns_once_and_the_other_goes_on(tmp_path: Path) -> None:
    notices: list[str] = []
    trackers = make(tmp_path, notices, wandb="offline", project="no/slash/allowed")
    for number in range(2):
        train(trackers, number, range(2))
        trackers.end(number, "COMPLETE", {})
    trackers.close()
    assert len(notices) == 1
    assert notices[0].startswith("wandb failed")
    assert "\n" not in notices[0]
    assert len(curve(tmp_path, 1)) == 2

    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "tensorboard").write_text("a file where the folder should be")
    notices.clear()
    trackers = make(tmp_path / "full", notices)
    train(trackers, 0, range(2))
    trackers.end(0, "COMPLETE", {})
    trackers.close()
    trackers.close()
    assert len(notices) == 1
    assert notices[0].startswith("TensorBoard failed")


def test_online_needs_a_login_and_finds_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="--wandb offline"):
        make(tmp_path, wandb="online")
    with pytest.raises(ConfigError, match="'sometimes'"):
        make(tmp_path, wandb="sometimes")

    home = Path(os.environ["HOME"])
    (home / ".netrc").write_text(f"machine wandb.example.org login user password {KEY}\n")
    (home / ".netrc").chmod(0o600)
    with pytest.raises(ConfigError, match="login"):
        make(tmp_path, wandb="online")
    (home / ".config" / "wandb").mkdir(parents=True)
    (home / ".config" / "wandb" / "settings").write_text("[default]\nbase_url = https://wandb.example.org\n")
    make(tmp_path, wandb="online").close()

    monkeypatch.setenv("WANDB_BASE_URL", "https://api.wandb.ai")
    with pytest.raises(ConfigError, match="login"):
        make(tmp_path, wandb="online")
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    make(tmp_path, wandb="online").close()
