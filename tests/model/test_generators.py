from __future__ import annotations

import random

import numpy as np
import pytest
import torch

from siamkit.model import generators
from siamkit.model.generators import (
    accelerator_states,
    generators_restored,
    seed_generators,
    seeded,
)


def draws() -> tuple[list[float], float, float, float]:
    # An odd number of normal numbers: numpy keeps the second of each pair it draws.
    return torch.rand(3).tolist(), random.random(), np.random.normal(), np.random.rand()


def test_a_seeded_block_repeats_and_leaves_the_outside_alone() -> None:
    seed_generators(5)
    draws()
    expected = draws()
    seed_generators(5)
    draws()
    found = []
    for _ in range(2):
        with seeded(2**62 + 9):
            found.append(draws())
    assert found[0] == found[1]
    assert draws() == expected


def test_other_seeds_give_other_numbers() -> None:
    first, second = [], []
    for seed, into in ((1, first), (2, second)):
        with seeded(seed):
            into += draws()
    assert all(a != b for a, b in zip(first, second, strict=True))


class Accelerator:
    """What torch.mps and torch.xpu have, where there is no such device."""

    def __init__(self) -> None:
        self.state = 1

    def manual_seed(self, seed: int) -> None:
        self.state = seed

    def set_rng_state(self, state: int) -> None:
        self.state = state

    get_rng_state = get_rng_state_all = lambda self: self.state
    manual_seed_all, set_rng_state_all = manual_seed, set_rng_state
    is_initialized = is_available = lambda self: True
    _is_in_bad_fork = lambda self: False  # noqa: E731


@pytest.mark.parametrize("kind", ["mps", "xpu"])
def test_other_accelerators_are_seeded_and_restored(
    monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    made = Accelerator()
    monkeypatch.setattr(torch, kind, made)
    monkeypatch.setattr(generators, "_SEVERAL", (made,) if kind == "xpu" else ())
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: kind == "mps")
    with seeded(7):
        assert made.state == 7 and accelerator_states() == [7]
    assert made.state == 1


def test_generators_are_restored_after_an_error() -> None:
    seed_generators(3)
    expected = draws()
    seed_generators(3)
    try:
        with generators_restored():
            seed_generators(8)
            raise KeyError
    except KeyError:
        pass
    assert draws() == expected
