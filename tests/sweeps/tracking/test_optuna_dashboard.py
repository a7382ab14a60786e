"""The dashboards as a browser meets them: real servers, a real study, a real sweep."""

from __future__ import annotations

import http.cookiejar
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import optuna
import pytest

from mollify_core.errors import ConfigError
from mollify_sweeps.study.database import Location
from mollify_sweeps.tracking.optuna_dashboard import OptunaDashboard
from places import ROOT

PASSWORD = "hunter2"


@pytest.fixture
def url(tmp_path: Path) -> str:
    """A study `s` with two trials; its URL has a parameter that SQLite ignores and that stands for a password."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    url = f"sqlite:///{tmp_path}/study.sqlite"
    study = optuna.create_study(study_name="s", storage=url)
    study.optimize(lambda trial: trial.suggest_float("lr", 0, 1), n_trials=2)
    return f"sqlite:///file:{tmp_path}/study.sqlite?uri=true&password={PASSWORD}"


class Browser:
    """What a browser is to a server: it follows redirects and keeps cookies."""

    def __init__(self) -> None:
        self._open = urllib.request.build_opener(urllib.request.HTTPCookieProcessor(http.cookiejar.CookieJar())).open

    def ask(self, address: str, method: str = "GET") -> tuple[int, str, str]:
        """(status, address after redirects, text)."""
        try:
            with self._open(urllib.request.Request(address, method=method), timeout=60) as answer:
                return answer.status, answer.url, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, address, error.read().decode()


@pytest.fixture
def dashboard(url: str) -> Iterator[OptunaDashboard]:
    served = OptunaDashboard()
    served.serve(Location(url), "s")
    yield served
    served.close()


def gone(pid: int) -> bool:
    """Whether a process has ended; one that nobody has waited for has."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


def soon(reached, seconds: float = 20.0) -> bool:
    deadline = time.monotonic() + seconds
    while not reached() and time.monotonic() < deadline:
        time.sleep(0.05)
    return reached()


def test_it_shows_the_study_to_those_with_the_token_and_changes_nothing(dashboard: OptunaDashboard, url: str) -> None:
    base = dashboard.address.partition("/?")[0]
    assert urlsplit(base).hostname == "127.0.0.1"
    stranger, owner = Browser(), Browser()
    for address in (base, f"{base}/api/studies", f"{base}/?token=", f"{base}/?token=wrong"):
        status, _, text = stranger.ask(address)
        assert (status, PASSWORD in text) == (403, False)

    status, address, page = owner.ask(dashboard.address)
    assert (status, address) == (200, f"{base}/dashboard/studies/1")
    assert "<html" in page.lower()
    _, _, text = owner.ask(f"{base}/api/studies/1?after=0")
    assert [trial["number"] for trial in json.loads(text)["trials"]] == [0, 1]
    assert PASSWORD not in text
    for address, method in ((f"{base}/api/studies/1", "DELETE"), (f"{base}/api/studies", "POST")):
        assert owner.ask(address, method)[0] == 405
    assert stranger.ask(f"{base}/api/studies/1", "DELETE")[0] == 403
    assert len(optuna.load_study(study_name="s", storage=url).trials) == 2


def test_other_machines_do_not_reach_it(dashboard: OptunaDashboard) -> None:
    port = urlsplit(dashboard.address).port
    listening = [line.split()[1] for line in Path("/proc/net/tcp").read_text().splitlines()[1:] if " 0A " in line]
    assert [address for address in listening if address.endswith(f":{port:04X}")] == [f"0100007F:{port:04X}"]


def test_a_port_can_be_chosen_and_a_taken_one_is_said() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        with pytest.raises(ConfigError, match=f"port {port}: Address already in use"):
            OptunaDashboard(port)
    chosen = OptunaDashboard(port)
    assert urlsplit(chosen.address).port == port
    chosen.close()
    with pytest.raises(ConfigError, match="port 70000"):
        OptunaDashboard(70000)


def test_it_ends_with_its_sweep_however_that_ends_and_keeps_its_secrets(url: str) -> None:
    """The server's processes: nothing secret on the command line or in the environment; gone after SIGKILL of the
    process that started it, also while another child of that process lives on."""
    code = (
        "import subprocess, sys, time\nfrom mollify_sweeps.study.database import Location\n"
        "from mollify_sweeps.tracking.optuna_dashboard import OptunaDashboard\n"
        "dashboard = OptunaDashboard()\ndashboard.serve(Location(sys.stdin.readline().strip()), 's')\n"
        "other = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])\n"
        "print(dashboard._process.pid, other.pid, dashboard.address, flush=True)\ntime.sleep(60)"
    )
    sweep = subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT
    )
    assert sweep.stdin is not None
    assert sweep.stdout is not None
    sweep.stdin.write(url + "\n")
    sweep.stdin.flush()
    server, other, address = sweep.stdout.readline().split()
    try:
        assert Browser().ask(address)[0] == 200
        token = address.partition("token=")[2]
        for what in ("cmdline", "environ"):
            shown = Path(f"/proc/{server}/{what}").read_bytes().decode()
            assert shown
            assert PASSWORD not in shown
            assert token not in shown
        sweep.send_signal(signal.SIGKILL)
        sweep.wait()
        assert soon(lambda: gone(int(server)))
        assert not gone(int(other))
    finally:
        sweep.kill()
        os.kill(int(other), signal.SIGKILL)


@pytest.mark.slow
def test_a_sweep_with_dashboards(tmp_path: Path) -> None:
    """1. Both dashboards are named and answer while the sweep runs; Ray's asks for its token.
    2. The trials' processes and actors have names that a person recognises.
    3. The sweep ends as without, and Optuna's dashboard with it.
    """
    home = tmp_path / "home"
    home.mkdir()
    environment = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")} | {"HOME": str(home)}
    command = [sys.executable, str(ROOT / "sweeps/search.py"), "--dataset", "digits", "--trials", "3", "--epochs", "20"]
    command += ["--train-fraction", "0.1", "--name", "shown", "--dashboard"]
    sweep = subprocess.Popen(
        command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    assert sweep.stdout is not None
    lines: list[str] = []
    try:
        while len(lines) < 2:
            line = sweep.stdout.readline()
            assert line, "the sweep ended without"
            lines += re.findall(r"dashboard: (http://127\.0\.0\.1:\S+)", line)
        optuna_address, ray_address = lines
        browser = Browser()
        assert browser.ask(optuna_address)[0] == 200
        assert browser.ask(f"{ray_address}/api/version")[0] == 401
        token = (home / ".ray/auth_token").read_text().strip()

        def ask(path: str) -> str:
            request = urllib.request.Request(ray_address + path, headers={"Authorization": f"Bearer {token}"})
            return urllib.request.urlopen(request, timeout=30).read().decode()

        assert (home / ".ray/auth_token").stat().st_mode & 0o077 == 0
        assert soon(lambda: '"shown"' in ask("/api/v0/actors"), 120)
        titles: set[str] = set()

        def trials_seen() -> bool:
            for process in Path("/proc").glob("[0-9]*/cmdline"):
                try:
                    titles.add(process.read_bytes().rstrip(b"\0").decode(errors="replace"))
                except OSError:
                    continue
            return {"ray::shown/00000", "ray::shown/00002"} <= titles or sweep.poll() is not None

        assert soon(trials_seen, 240)
        assert {"ray::shown/00000", "ray::shown/00002"} <= titles
        text, _ = sweep.communicate(timeout=240)
        assert sweep.returncode == 0, text
        with pytest.raises(urllib.error.URLError):
            browser.ask(optuna_address)
    finally:
        sweep.kill()
