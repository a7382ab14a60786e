"""Networks: one file per family, one registry from name to factory.

`python -m mollify_core.networks` prints what each costs.
"""

from mollify_core.networks.costs import Cost, cost, describe
from mollify_core.networks.registry import NAMES, build, is_builtin, outline

__all__ = ["NAMES", "Cost", "build", "cost", "describe", "is_builtin", "outline"]
