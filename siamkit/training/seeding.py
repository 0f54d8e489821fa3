"""Counter-based randomness: every draw is a pure function of (seed, purpose, index).

So a run need not save the state of a generator: resumed at step n, it draws the same values.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import torch

from siamkit.model.undisturbed import drawing_aside


def derive(seed: int, what: str, index: int = 0) -> int:
    """Return a 63-bit seed for one purpose, such as ``init`` or ``step``."""
    digest = hashlib.blake2b(f"{seed}/{what}/{index}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed the generators of torch, numpy and Python in the block, and restore them afterwards."""
    cuda = list(range(torch.cuda.device_count())) if torch.cuda.is_initialized() else []
    state = torch.default_generator.get_state()
    with torch.random.fork_rng(devices=cuda) if cuda else nullcontext(), drawing_aside(seed):
        if cuda:
            torch.cuda.manual_seed_all(seed)
        # Not torch.manual_seed, which checks for every kind of accelerator on each call.
        torch.default_generator.manual_seed(seed)
        try:
            yield
        finally:
            torch.default_generator.set_state(state)
