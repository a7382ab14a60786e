"""The process that a user starts: it settles a sweep, carries it out and reports.

Others may import: search, reproduce, publishing, opened, called.
"""
