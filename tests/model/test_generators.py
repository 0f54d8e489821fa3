from __future__ import annotations

import random

import numpy as np
import torch

from siamkit.model.generators import generators_restored, seed_generators, seeded


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
