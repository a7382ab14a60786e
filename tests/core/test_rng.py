"""Generators keyed by their purpose: equal for equal keys, and unrelated for all others."""

import numpy as np
import torch

from mollify_core import rng


def test_equal_keys_draw_alike_and_others_do_not() -> None:
    keys = (0, 1, "a"), (0, 1, "a"), (0, 1, "b"), (0, 11, "a")
    draws = [torch.rand(8, generator=rng.generator(*key)) for key in keys]
    assert torch.equal(draws[0], draws[1])
    assert not any(torch.equal(draws[0], other) for other in draws[2:])
    used = rng.generator(3)
    torch.randn(7, generator=used)
    assert torch.equal(torch.randn(5, generator=rng.reseed(used, 0, 1)), torch.randn(5, generator=rng.generator(0, 1)))
    assert rng.generator(0, 1).initial_seed() == rng.derive(0, 1)


def test_draws_are_the_same_on_every_machine() -> None:
    """Moved when generators took all bits of their keys: version 0.1 drew from 32 of them."""
    drawn = torch.randint(2**31, (4,), generator=rng.generator(0, 3, 7, 0, "noise"))
    assert drawn.tolist() == [1991221181, 374055969, 1293602211, 1258003104]


def test_keys_that_agree_in_thirty_two_bits_draw_apart() -> None:
    """So many keys as a long training has steps: of 32 bits, the birthday of two of them is expected."""
    seen: dict[int, tuple] = {}
    for step in range(300_000):
        low = rng.derive("birthday", step) & 0xFFFFFFFF
        if low in seen:
            break
        seen[low] = ("birthday", step)
    first, second = rng.generator(*seen[low]), rng.generator("birthday", step)
    assert not torch.equal(torch.rand(8, generator=first), torch.rand(8, generator=second))


def test_first_numbers_of_many_keys_are_uniform_and_uncorrelated() -> None:
    first = np.stack([torch.rand(4, generator=rng.generator(step, "x")).numpy() for step in range(20_000)])
    assert abs(first.mean(axis=0) - 0.5).max() < 0.01
    assert abs(first.var(axis=0) * 12 - 1).max() < 0.05
    neighbours = np.concatenate([first[:-1], first[1:]], axis=1)
    assert abs(np.corrcoef(neighbours.T) - np.eye(8)).max() < 0.04  # 5 standard deviations


def test_the_state_is_laid_out_as_it_is_written() -> None:
    """PyTorch does not document it: `manual_seed` puts the seed into the first word of a Mersenne Twister."""
    state = torch.Generator().manual_seed(77).get_state().numpy()
    words = state[rng._FIRST : rng._FIRST + 8 * rng._WORDS].view(np.uint64)
    reference = np.random.RandomState(77).get_state()[1]
    assert words.tolist() == reference.tolist()
    generator = rng.generator("layout")
    state = generator.get_state().numpy()
    twister = np.random.MT19937()
    key = state[rng._FIRST : rng._FIRST + 8 * rng._WORDS].view(np.uint64).astype(np.uint32)
    twister.state = {"bit_generator": "MT19937", "state": {"key": key, "pos": 624}}
    drawn = torch.randint(2**20, (700,), generator=generator)
    assert drawn.tolist() == (twister.random_raw(700) % 2**20).tolist()
