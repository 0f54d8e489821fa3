"""Counter-based randomness: every draw is a pure function of (seed, what, index).

No generator's state has to be saved: a run that resumes at step n draws what it would have drawn.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import torch


def derive(seed: int, what: str, index: int = 0) -> int:
    """Return a 63-bit seed for one purpose."""
    digest = hashlib.blake2b(f"{seed}/{what}/{index}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed torch's generators for a block, and put them back afterwards."""
    cuda = list(range(torch.cuda.device_count())) if torch.cuda.is_initialized() else []
    state = torch.default_generator.get_state()
    with torch.random.fork_rng(devices=cuda) if cuda else nullcontext():
        if cuda:
            torch.cuda.manual_seed_all(seed)
        # Not torch.manual_seed, which looks for every kind of accelerator each time.
        torch.default_generator.manual_seed(seed)
        try:
            yield
        finally:
            torch.default_generator.set_state(state)
