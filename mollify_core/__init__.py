"""The methods, in plain PyTorch: `transforms` for a loop of one's own, `training` for a whole training."""

__version__ = "0.2.0.dev0"
