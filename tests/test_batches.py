"""Batches, and sources that are read side by side."""

from __future__ import annotations

import pytest
import torch

from siamkit.batches import Batch, zipped


def batch(*indices: int) -> Batch:
    rows = torch.tensor(indices)
    return Batch(rows[:, None].float(), rows % 2, rows)


def same(one: Batch, other: Batch) -> bool:
    return all(map(torch.equal, vars(one).values(), vars(other).values()))


def test_joined_batches_keep_their_order():
    joined = Batch.joined([batch(3, 4), batch(1)])
    assert same(joined, batch(3, 4, 1)) and len(joined) == 3


def test_a_batch_moves_as_a_whole():
    moved = batch(0, 1).to("meta")
    assert [tensor.device.type for tensor in vars(moved).values()] == ["meta"] * 3


def test_sources_side_by_side_give_joined_batches():
    left, right = [batch(0), batch(1)], [batch(2), batch(3)]
    both = list(zipped([iter(left), iter(right)]))
    assert len(both) == 2 and same(both[0], batch(0, 2)) and same(both[1], batch(1, 3))


def test_one_source_gives_its_own_batches():
    own = [batch(0), batch(1)]
    assert list(zipped([iter(own)])) == own


def test_sources_of_different_lengths_are_a_mistake():
    with pytest.raises(ValueError, match="shorter"):
        list(zipped([iter([batch(0)]), iter([])]))
