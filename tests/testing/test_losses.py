"""The batches with which the kit tries a loss."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from siamkit.interfaces import Loss
from siamkit.testing.batches import Batches
from siamkit.testing.common import Expect
from siamkit.testing.losses import _check_odd_batches


class Keeps(Loss):
    """Keeps the batches that it gets."""

    def __init__(self) -> None:
        super().__init__()
        self.batches: list[tuple[Tensor, list[int]]] = []

    def forward(self, embeddings: Tensor, labels: Tensor, tuples: Any = None) -> Tensor:
        self.batches.append((embeddings.detach().clone(), labels.tolist()))
        return embeddings.square().sum()


@pytest.mark.parametrize("views", [1, 2])
def test_the_odd_batches_are_those_that_real_losses_fail_at(views: int) -> None:
    kept = Keeps()
    with torch.random.fork_rng():
        _check_odd_batches(kept, Batches(4, views), Expect("x"))
    images = [len(labels) // views for _, labels in kept.batches]
    kinds = [len(set(labels)) for _, labels in kept.batches]
    one_class, all_different, few, odd, same = range(5)
    assert kinds[one_class] == 1 < images[one_class]
    assert kinds[all_different] == images[all_different] > 1
    assert images[few] == views, "one image; two if views are compared"
    assert images[odd] % 2 == 1 and images[odd] % 4 != 0 and 1 < kinds[odd] < images[odd]
    assert 1 < kinds[same] < images[same]
    for number, (embeddings, labels) in enumerate(kept.batches):
        assert len(embeddings) == len(labels)
        equal = bool((embeddings == embeddings[0]).all())
        assert equal == (number == same or len(embeddings) == 1)
