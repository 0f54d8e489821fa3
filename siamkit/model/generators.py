"""The global random generators of torch, numpy and Python: seeds and restores them together."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


def seed_generators(seed: int) -> None:
    """Seed the global generators of torch, numpy and Python."""
    # torch.manual_seed would check for every kind of accelerator on each call.
    torch.default_generator.manual_seed(seed)
    if torch.cuda.is_initialized():
        torch.cuda.manual_seed_all(seed)
    random.seed(seed)
    np.random.seed(seed % 2**32)


@contextmanager
def generators_restored() -> Iterator[None]:
    """Restore the generators of torch, numpy and Python after the block.

    Entering and leaving the block takes about 0.1 ms, and seeding a tenth of that. So if each step
    of a loop seeds the generators, put the whole loop into one block.
    """
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []
    state, python, array = torch.get_rng_state(), random.getstate(), np.random.get_state()
    try:
        yield
    finally:
        torch.set_rng_state(state)
        if cuda:
            torch.cuda.set_rng_state_all(cuda)
        random.setstate(python)
        np.random.set_state(array)


def generators_state() -> bytes:
    """Return the state of the generators of torch, numpy and Python; equal if none was used."""
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []
    states = [state.numpy().tobytes() for state in (torch.get_rng_state(), *cuda)]
    _, keys, *place = np.random.get_state()
    return b"".join(
        [*states, np.asarray(keys).tobytes(), repr((place, random.getstate())).encode()]
    )


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed the generators at the start of the block, and restore them afterwards."""
    with generators_restored():
        seed_generators(seed)
        yield
