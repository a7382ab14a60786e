"""The service: searches of the settings of a method, on Ray, and what they find.

A room for every concept; ARCHITECTURE.md has them on one page. The programs turn words into typed options and make one
call each. From Python: `open_sweep`.
"""

from typing import Any


def __getattr__(name: str) -> Any:
    if name == "open_sweep":
        from mollify_sweeps.driver.opened import open_sweep  # slow to import

        return open_sweep
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
