"""The study on a real PostgreSQL server: nothing is lost with the driver's machine, nor while the server is away."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from harness import LONG, SHORT, Sweep, in_trial
from servers import PostgreSQL

pytestmark = [pytest.mark.slow, pytest.mark.timeout(7200)]
Make = Callable[..., Sweep]
PASSWORD = "CanaryOfPostgresNeverToBeSeenAnywhere"


@pytest.fixture
def postgresql() -> Iterator[PostgreSQL]:
    folder = Path(tempfile.mkdtemp(prefix="m-pg-", dir="/tmp"))  # a short path: a socket lies in it
    folder.chmod(0o755)  # the server may run as another user, since it refuses to be root
    server = PostgreSQL(folder / "data", password=PASSWORD)
    yield server
    server.stop()
    shutil.rmtree(folder, ignore_errors=True)


def test_machine_of_the_driver_lost(sweep: Make, unbroken: Make, s3, postgresql: PostgreSQL):
    """Set-up: study in PostgreSQL, files in object storage; the driver is killed and all its files are deleted.

    Minimum time: 1 min 30 s.

    1. The same command continues; every epoch that was reported is still there, and none is reported twice.
    2. The result equals that of an unbroken sweep.
    3. The password of the study's address is not in what the sweep prints or stores.
    4. The checker finds nothing.
    """
    one = sweep(*LONG, storage="s3://bucket/sweeps", study_url=postgresql.url).start()
    one.wait(lambda p: sum(e for _, e in p.values()) >= 12)
    one.kill()
    known = {t.number: t.intermediate_values for t in one.trials()}
    shutil.rmtree(one.folder / "runs", ignore_errors=True)
    one.start().finish()
    for number, values in known.items():
        assert values.items() <= one.trials()[number].intermediate_values.items()
    assert one.told() == unbroken(*LONG).told()
    assert one.said(PASSWORD) == 0
    for path in one.folder.rglob("*"):
        assert not path.is_file() or PASSWORD.encode() not in path.read_bytes()
    one.sound()


def test_a_driver_on_another_machine(sweep: Make, unbroken: Make, s3, postgresql: PostgreSQL):
    """Set-up: study in PostgreSQL, files in object storage; a second driver has files of its own, as elsewhere.

    Minimum time: 1 min 30 s.

    1. The second one is refused with exit code 2 and one sentence that names the first; the first goes on.
    2. When the first was killed, the second takes the sweep after half a minute without a sign of it.
    3. The result equals that of an unbroken sweep, and the checker finds nothing.
    """
    places = {"storage": "s3://bucket/sweeps", "study_url": postgresql.url}
    first, second = sweep(*LONG, **places).start(), sweep(*LONG, **places)
    first.wait(in_trial(0))
    assert first.driver is not None
    told = second.start().finish(2).splitlines()[-1]
    assert told.startswith(f"error: This sweep is being run already, by process {first.driver.pid} on ")
    first.wait(in_trial(2))
    first.kill()
    second.start().finish()
    assert second.said(f"whether process {first.driver.pid} on ") == 2  # when it was refused, and when it took over
    assert second.told() == unbroken(*LONG).told()
    second.sound()


def test_server_away(sweep: Make, unbroken: Make, postgresql: PostgreSQL):
    """Set-up: the PostgreSQL server is stopped at once in mid-sweep, and started again ten seconds later.

    Minimum time: 1 min.

    1. The sweep neither ends nor fails a trial; it is said once that the study cannot be written, once that it can.
    2. The result equals that of an unbroken sweep.
    3. The checker finds nothing.
    """
    one = sweep(*SHORT, study_url=postgresql.url).start()
    one.wait(lambda p: sum(e for _, e in p.values()) >= 4)
    postgresql.stop()
    time.sleep(10)
    assert one.running
    before = one.said("the study can be written again")
    postgresql.start()
    one.finish()
    assert before == 0
    assert one.said("the study cannot be written") == one.said("the study can be written again") == 1
    assert one.told() == unbroken(*SHORT).told()
    one.sound()
