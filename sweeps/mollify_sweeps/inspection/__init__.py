"""A sweep from outside: how it is, how it is stopped and gone on with, and whether it is sound.

Others may import: status, check.
"""
