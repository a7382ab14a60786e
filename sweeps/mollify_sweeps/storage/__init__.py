"""A folder on disk or in an object store, and what to do while it fails.

Others may import: store, patience.
"""
