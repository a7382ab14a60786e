"""The same recipes with several seeds, held against each other: a confirmation, the papers' grids.

Others may import: confirmation, confirmed, crossing, grids, grid_report, outlook, tuning.
"""
