"""The truth about a sweep: its Optuna study, what it is about, who holds it and how it is read.

Others may import: study, client, setup, description, database, ledger, methods, budget, space, sampling, pruning,
results, claim, snapshots, reading, soundness, earlier.
"""
