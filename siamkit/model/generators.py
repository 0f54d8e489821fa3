"""The global random generators of torch, numpy and Python: seeds and restores them together."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

_SEVERAL: tuple[Any, ...] = (torch.cuda, torch.xpu)
"""The kinds of accelerators of which a machine may have several, each with its generator."""


def seed_generators(seed: int) -> None:
    """Seed the global generators of torch, numpy and Python."""
    # torch.manual_seed would check for every kind of accelerator on each call.
    torch.default_generator.manual_seed(seed)
    for kind in _SEVERAL:
        if kind.is_initialized():
            kind.manual_seed_all(seed)
    if _has_mps():
        torch.mps.manual_seed(seed)
    random.seed(seed)
    np.random.seed(seed % 2**32)


@contextmanager
def generators_restored() -> Iterator[None]:
    """Restore the generators of torch, numpy and Python after the block.

    Entering and leaving the block takes about 0.1 ms, and seeding a tenth of that. So if each step
    of a loop seeds the generators, put the whole loop into one block.
    """
    accelerators = [(get(), set_) for get, set_ in _accelerators()]
    state, python, array = torch.get_rng_state(), random.getstate(), np.random.get_state()
    try:
        yield
    finally:
        torch.set_rng_state(state)
        for own, set_ in accelerators:
            set_(own)
        random.setstate(python)
        np.random.set_state(array)


def generators_state() -> bytes:
    """Return the state of the generators of torch, numpy and Python; equal if none was used."""
    own, *others = (torch.get_rng_state(), *accelerator_states())
    flat = [one for state in others for one in (state if isinstance(state, list) else [state])]
    states = [state.cpu().numpy().tobytes() for state in (own, *flat)]
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


def accelerator_states() -> list[Any]:
    """Return the states of the generators of each kind of accelerator in use."""
    return [get() for get, _ in _accelerators()]


def _accelerators() -> list[tuple[Callable[[], Any], Callable[[Any], None]]]:
    """Return the functions that get and set the states, for each kind of accelerator in use."""
    used: list[tuple[Callable[[], Any], Callable[[Any], None]]] = [
        (kind.get_rng_state_all, kind.set_rng_state_all)
        for kind in _SEVERAL
        if kind.is_initialized()
    ]
    return [*used, (torch.mps.get_rng_state, torch.mps.set_rng_state)] if _has_mps() else used


def _has_mps() -> bool:
    return torch.backends.mps.is_available() and not torch.mps._is_in_bad_fork()
