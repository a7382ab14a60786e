"""Image corruptions of fixed severity, to measure robustness."""

from mollify_core.corruptions.heldout import HELDOUT, SEVERITIES, corrupt

__all__ = ["HELDOUT", "SEVERITIES", "corrupt"]
