"""Who follows a running sweep: the terminal, TensorBoard, wandb, Optuna's dashboard, Prometheus.

Others may import: follower, terminal, callback, trackers, wandb_runs, optuna_dashboard, prometheus.
"""
