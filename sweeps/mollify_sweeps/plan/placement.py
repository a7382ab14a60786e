"""How many trials run at once, so that none waits for what another one holds; and why so many."""

from __future__ import annotations

from dataclasses import dataclass

from mollify_core.errors import ConfigError
from mollify_sweeps.cluster.connection import Node
from mollify_sweeps.cluster.workers import Workers
from mollify_sweeps.plan.options import Resources


@dataclass(frozen=True)
class Placement:
    """Who runs where.

    Attributes:
        workers: processes per trial, or their range.
        cpus, gpus: per worker.
        concurrent: trials at once.
        why: what limits their number, in words.
    """

    workers: Workers
    cpus: int
    gpus: float
    concurrent: int
    why: str

    @property
    def device(self) -> str:
        return f"{self.gpus:g} GPU" if self.gpus else "CPU"


def growing(nodes: list[Node], resources: Resources) -> list[Node]:
    """The machines of a cluster, and those that its autoscaler starts while trials wait for them.

    Args:
        nodes: that run.
        resources: what is asked for; it says how many trials at once are hoped for, or the cluster stays as it is.

    Raises:
        ConfigError: no machine runs, so that nobody can tell whether trials are to have GPUs.
    """
    if not resources.at_most or resources.at_most < 1:
        return nodes
    if resources.gpus is None and all(node.cpus < resources.cpus for node in nodes):
        raise ConfigError(
            "Expected --gpus-per-worker, 0 for none: no machine of the cluster that could train runs yet, and what "
            "those have that it will start is not known"
        )
    coming = Node(resources.cpus, resources.gpus or 0)
    return [*nodes, *[coming] * (resources.at_most * resources.workers.most)]


def place(nodes: list[Node], resources: Resources, trials: int) -> Placement:
    """Computes how many trials run at once so that none ever waits for what another one holds.

    A trial of one worker is that worker; a trial of several has a driver beside them, which like the study and the
    blocks of the data set claims no CPU. So whole trials are counted by what their workers need, node by node; those of
    elastic trials by the most that they take, since each of them asks for all of it.

    Raises:
        ConfigError: not even one trial fits; what it needs and what there is.
    """
    workers, cpus, gpus, at_most = resources.workers, resources.cpus, resources.gpus, resources.at_most
    for name, value in (("--cpus-per-worker", cpus), ("--max-concurrent", at_most)):
        if value is not None and value < 1:
            raise ConfigError(f"Expected {name} to be at least 1, but got {value}")
    if gpus is not None and (gpus < 0 or (gpus > 1 and gpus != int(gpus))):
        raise ConfigError(f"Expected --gpus-per-worker to be 0, a fraction of 1, or a whole number, but got {gpus:g}")
    if gpus is not None and 0 < gpus < 1 and not workers.alone:  # Ray puts both on one, and NCCL refuses that
        raise ConfigError(
            f"Expected --gpus-per-worker to be a whole number where a trial has several workers, since no two of them "
            f"can share a GPU, but got {gpus:g}"
        )
    if gpus is None:
        gpus = 1.0 if any(n.gpus for n in nodes) else 0.0
    slots = 0
    limits = set()
    for node in nodes:
        by_cpu = int(node.cpus // cpus)
        # Fractions share one device; whole numbers take several.
        by_gpu = int(node.gpus) * int(1 / gpus + 1e-9) if 0 < gpus <= 1 else int(node.gpus // gpus) if gpus else by_cpu
        slots += min(by_cpu, by_gpu)
        limits.add("GPUs" if by_gpu < by_cpu else "CPUs")
    concurrent = slots // workers.most or int(slots >= workers.least)
    need = f"{workers} with {cpus} CPU{'s' * (cpus > 1)}" + (f" and {gpus:g} GPU" if gpus else "")
    have = f"{sum(n.cpus for n in nodes):g} CPUs and {sum(n.gpus for n in nodes):g} GPUs"
    if len(nodes) > 1:
        have += f" on {len(nodes)} nodes"
    if concurrent < 1:
        raise ConfigError(f"A trial needs {need}, but there are {have}")
    why = f"{have}; a trial takes {need}; limited by {' and '.join(sorted(limits))}"
    for bound, reason in ((trials, "as many as there are trials"), (at_most, "by --max-concurrent")):
        if bound is not None and bound < concurrent:
            concurrent, why = bound, reason
    return Placement(workers, cpus, gpus, concurrent, why)
