"""Counter-based randomness: every draw is a pure function of (seed, what, index).

No generator's state has to be saved: a run that resumes at step n draws what it would have drawn.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

import torch


def derive(seed: int, what: str, index: int = 0) -> int:
    """Return a 63-bit seed for one purpose."""
    digest = hashlib.blake2b(f"{seed}/{what}/{index}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed torch's generators for a block, and put the CPU's back afterwards."""
    devices = list(range(torch.cuda.device_count())) if torch.cuda.is_initialized() else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        yield
