"""Counter-based randomness: every draw is a pure function of (seed, purpose, index).

So a run need not save the state of a generator: resumed at step n, it draws the same values.
"""

from __future__ import annotations

import hashlib


def derive(seed: int, what: str, index: int = 0) -> int:
    """Return a 63-bit seed for one draw.

    Args:
        seed: The run's seed.
        what: The purpose of the draw, such as ``init`` or ``step``.
        index: The number of the draw for this purpose, such as the number of the step.
    """
    digest = hashlib.blake2b(f"{seed}/{what}/{index}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1
