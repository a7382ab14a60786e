"""What a command means: everything about a sweep that is settled, or wrong, before Ray starts.

Others may import: base, options, settle, sweep, table, runs, words.
"""
