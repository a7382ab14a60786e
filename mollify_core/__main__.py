"""`python -m mollify_core`: says the version."""

from mollify_core import __version__

print(f"mollify_core {__version__}")
