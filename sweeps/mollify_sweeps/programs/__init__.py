"""What is typed: each program turns words into typed options and makes one call; `command` is all of them in one.

In a checkout they are also called as `python sweeps/search.py`.

Others may import: none.
"""
