"""Models on the test set, clean, corrupted and distorted.

Others may import: evaluate, options, images, cells, evaluator, models, rows.
"""
