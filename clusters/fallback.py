"""How the autoscaler of a cluster chooses a machine: as Ray does, but none that its cloud has just refused.

Ray (2.60) keeps note of node types that could not be launched, for half an hour, but its own scorer does not look at
it: with a spot and an on-demand type of equal resources it asks for the spot one for ever. `cluster.yaml` names this
scorer in RAY_AUTOSCALER_UTILIZATION_SCORER, which the first version of the autoscaler reads.
"""

from __future__ import annotations

from ray.autoscaler._private.node_provider_availability_tracker import NodeAvailabilitySummary
from ray.autoscaler._private.resource_demand_scheduler import _default_utilization_scorer
from ray.autoscaler._private.util import NodeType, ResourceDict


def score(
    node_resources: ResourceDict,
    resources: list[ResourceDict],
    node_type: NodeType,
    *,
    node_availability_summary: NodeAvailabilitySummary,
) -> tuple | None:
    """A node type's score; the highest is launched, None cannot serve.

    Args:
        node_resources: what a node of this type has.
        resources: the bundles that wait.
        node_type: name of the type.
        node_availability_summary: what the cloud last said to a launch of each type.
    """
    usual = _default_utilization_scorer(
        node_resources, resources, node_type, node_availability_summary=node_availability_summary
    )
    if usual is None:
        return None
    suits, *rest = usual  # first of all, no GPU node for work without a GPU
    record = node_availability_summary.node_availabilities.get(node_type)
    return suits, record is None or record.is_available, *rest
