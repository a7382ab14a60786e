"""A stand-in for training."""

from __future__ import annotations


def curve(recipe: dict, epoch: int) -> float:
    """A deterministic stand-in for training: worse with the learning rate, better with every epoch."""
    return recipe["optim"]["lr"] + recipe["mollify"]["max_noise"] + 1 / (1 + epoch)
