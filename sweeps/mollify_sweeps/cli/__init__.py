"""What the programs share: their options as typed values, and their frame.

Others may import: options, program.
"""
