"""Ray on this machine: what it hears, what its workers import, and where it may lie."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from mollify_core.errors import ConfigError
from mollify_sweeps.cluster.connection import _check_temporary
from places import ROOT


def test_a_place_for_sockets_is_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_TMPDIR", raising=False)
    _check_temporary(Path("/tmp/ray"))
    with pytest.raises(ConfigError, match=r"\$TMPDIR to be a path of at most 39 bytes.* set RAY_TMPDIR to a shorter"):
        _check_temporary(tmp_path / ("x" * 100) / "ray")
    with pytest.raises(ConfigError, match="which is not there"):
        _check_temporary(Path("/nowhere/ray"))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_place_of_somebody_elses(tmp_path: Path) -> None:
    (tmp_path / "ray").mkdir(mode=0o500)
    with pytest.raises(ConfigError, match="a folder of your own"):
        _check_temporary(tmp_path / "ray")


_PROGRAM = """
import json, sys
sys.path[:0] = [{sweeps!r}, {root!r}]
from mollify_sweeps.cluster.connection import connect
connect(None)
import psutil, ray

@ray.remote(num_cpus=0)
def imports():
    import mollify_core, numpy, torch
    return [mollify_core.__file__, numpy.__file__, torch.__file__]

found = ray.get(imports.remote())
here = psutil.Process()
listening = [
    connection.laddr.ip
    for process in [here, *here.children(recursive=True)]
    for connection in process.net_connections(kind="inet")
    if connection.status == "LISTEN"
]
print(json.dumps([found, listening]))
"""


@pytest.mark.slow
def test_workers_import_nothing_of_the_current_folder_and_nobody_else_is_heard(tmp_path: Path) -> None:
    """A folder that was downloaded may hold packages of our names, or of Ray's."""
    for name in ("mollify_core", "mollify_sweeps", "sweeps", "ray", "numpy", "torch"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text(f"open('ran-{name}', 'w')\nraise ImportError('hostile')\n")
    program = _PROGRAM.format(sweeps=str(ROOT / "sweeps"), root=str(ROOT))
    home = tmp_path / "home"
    environment = {**os.environ, "HOME": str(home)}
    done = subprocess.run(
        [sys.executable, "-P", "-c", program], cwd=tmp_path, capture_output=True, text=True, env=environment
    )
    assert done.returncode == 0, done.stderr
    imported, listening = json.loads(done.stdout.splitlines()[-1])
    assert not [path for path in imported if path.startswith(str(tmp_path))]
    assert not list(tmp_path.glob("ran-*"))
    assert listening
    assert all(ip.removeprefix("::ffff:") == "127.0.0.1" for ip in listening), listening
    token = home / ".ray/auth_token"
    assert not token.exists() or token.stat().st_mode & 0o077 == 0
