"""Where a sweep is kept, and how many trials run at once."""

from __future__ import annotations

import pickle

import pytest

from mollify_core.errors import ConfigError, StorageError
from mollify_sweeps.cluster.connection import Node
from mollify_sweeps.cluster.workers import Workers
from mollify_sweeps.display.text import duration
from mollify_sweeps.plan import placement
from mollify_sweeps.plan.options import Resources
from mollify_sweeps.storage.store import Store


def test_store(tmp_path):
    store = Store(str(tmp_path / "a")) / "b"
    assert store.read("x/y.json") is None
    store.write("x/y.json", b"1")
    store.write("x/y.json", b"22")
    assert store.read("x/y.json") == b"22"
    assert pickle.loads(pickle.dumps(store)).read("x/y.json") == b"22"
    assert store.local == tmp_path / "a" / "b"
    assert [p.name for p in (tmp_path / "a/b/x").iterdir()] == ["y.json"]
    store.check_writable()
    assert not list((tmp_path / "a/b").glob(".probe*"))


@pytest.mark.parametrize("uri", ["ftp://x/y", "s3://", "/proc/nowhere", "/dev/null/x"])
def test_unusable_storage_is_one_sentence(uri):
    with pytest.raises(StorageError) as error:
        Store(uri).check_writable()
    assert uri in str(error.value)
    assert "\n" not in str(error.value)


def place(nodes, trials=100, **changes):
    resources = Resources(**{**changes, "workers": Workers.parse(str(changes.get("workers", 1)))})
    return placement.place([Node(*n) for n in nodes], resources, trials)


@pytest.mark.parametrize(
    ("nodes", "changes", "concurrent"),
    [
        ([(2, 0)], {}, 2),
        ([(2, 0)], {"workers": 2}, 1),
        ([(2, 0)], {"cpus": 2}, 1),
        ([(8, 0)], {"workers": 3}, 2),
        ([(8, 0)], {"workers": "2:3"}, 2),
        ([(2, 0)], {"workers": "2:3"}, 1),
        ([(16, 4)], {}, 4),
        ([(16, 4)], {"gpus": 0.25}, 16),
        ([(16, 4)], {"gpus": 0.4}, 8),  # two fractions of 0.4 fit on one device, not ten on four
        ([(16, 4)], {"gpus": 2.0}, 2),
        ([(16, 4)], {"gpus": 0}, 16),
        ([(3, 4)], {}, 3),
        ([(3, 1), (3, 1)], {"workers": 2}, 1),
        ([(3, 0), (3, 0)], {"cpus": 2}, 2),  # six CPUs, but no third pair of them on one machine
        ([(64, 0)], {"trials": 5}, 5),
        ([(64, 0)], {"at_most": 7}, 7),
    ],
)
def test_concurrency(nodes, changes, concurrent):
    assert place(nodes, **changes).concurrent == concurrent


@pytest.mark.parametrize(
    ("nodes", "changes", "says"),
    [
        ([(2, 0)], {"workers": 3}, "needs 3 workers with 1 CPU, but there are 2 CPUs and 0 GPUs"),
        ([(2, 0)], {"gpus": 1.0}, "1 worker with 1 CPU and 1 GPU, but there are 2 CPUs and 0 GPUs"),
        ([(3, 0), (3, 0)], {"cpus": 4}, "6 CPUs and 0 GPUs on 2 nodes"),
        ([(2, 0)], {"workers": "3:4"}, "needs 3 to 4 workers with 1 CPU, but there are 2 CPUs and 0 GPUs"),
        ([(2, 0)], {"cpus": 0}, "--cpus-per-worker to be at least 1, but got 0"),
        ([(8, 2)], {"gpus": 0.5, "workers": 2}, "no two of them can share a GPU, but got 0.5"),
        ([(8, 2)], {"gpus": 0.25, "workers": "1:4"}, "no two of them can share a GPU, but got 0.25"),
        ([(2, 2)], {"gpus": 1.5}, "--gpus-per-worker to be 0, a fraction of 1, or a whole number, but got 1.5"),
    ],
)
def test_what_cannot_fit_is_refused(nodes, changes, says):
    with pytest.raises(ConfigError) as error:
        place(nodes, **changes)
    assert says in str(error.value)


def test_a_cluster_without_machines_is_not_taken_for_one_without_gpus():
    head = [Node(0, 0)]
    with pytest.raises(ConfigError, match="Expected --gpus-per-worker, 0 for none"):
        placement.growing(head, Resources(at_most=4))
    for gpus in (0, 1.0):
        resources = Resources(at_most=4, gpus=gpus)
        found = placement.place(placement.growing(head, resources), resources, 100)
        assert (found.concurrent, found.gpus) == (4, gpus)
    for nodes in ([*head, Node(8, 1)], [*head, Node(1, 0)]):  # what runs says what the others will be
        resources = Resources(at_most=4)
        assert placement.place(placement.growing(nodes, resources), resources, 100).gpus == nodes[1].gpus
    assert placement.growing(head, Resources()) == head


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0 s"), (59.6, "1 min"), (200, "3 min 20 s"), (7500, "2 h 5 min"), (90000, "1 d 1 h")]
)
def test_durations(seconds, text):
    assert duration(seconds) == text
