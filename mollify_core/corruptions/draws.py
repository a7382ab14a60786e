"""Random draws of the corruptions: rows in chunks of 256, each chunk with its own stream.

A draw is made for a whole chunk, however few rows are wanted, so that the first k images corrupted alone get what they
get among all: a row's draw is a function of (seed, name, severity, row) and of its shape.
"""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor

CHUNK = 256
"""Rows that share one random stream."""


def stream(seed: int, name: str, severity: int, number: int) -> torch.Generator:
    """A fresh CPU generator for chunk `number`, from 0, of one corruption at one severity."""
    digest = hashlib.sha256(f"{seed}/{name}/{severity}/{number}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little", signed=True))


def normal(rows: int, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """(rows <= CHUNK, *shape) float32 standard normal numbers."""
    return torch.randn((CHUNK, *shape), generator=generator)[:rows]


def uniform(
    rows: int, shape: tuple[int, ...], generator: torch.Generator, dtype: torch.dtype = torch.float64
) -> Tensor:
    """(rows <= CHUNK, *shape) numbers from [0, 1)."""
    return torch.rand((CHUNK, *shape), generator=generator, dtype=dtype)[:rows]


def bits(rows: int, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """(rows <= CHUNK, *shape) int32 of 31 random bits."""
    return torch.empty((CHUNK, *shape), dtype=torch.int32).random_(generator=generator)[:rows]
