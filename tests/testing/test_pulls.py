"""The pairs and triplets that the kit gives a loss."""

from __future__ import annotations

from typing import Any

import torch
from pytorch_metric_learning import losses
from torch import Tensor

from siamkit.interfaces import Loss, Pairs, Triplets
from siamkit.objects.adapters import MetricLearningLoss
from siamkit.testing.batches import Batches
from siamkit.testing.common import Expect
from siamkit.testing.pulls import check_tuples


class Noting(Loss):
    """A loss that notes its arguments."""

    def __init__(self, loss: Loss) -> None:
        super().__init__()
        self.loss, self.given = loss, []

    def forward(self, embeddings: Tensor, labels: Tensor | None, tuples: Any = None) -> Tensor:
        self.given.append((len(embeddings), labels, tuples))
        return self.loss(embeddings, labels, tuples)


def test_tuples_name_each_image_once_and_pairs_are_of_both_kinds() -> None:
    loss = Noting(MetricLearningLoss(losses.ContrastiveLoss()))
    check_tuples(loss, Batches(8, 1), Expect("x"))
    assert all(labels is None for _, labels, _ in loss.given)
    images, _, pairs = loss.given[0]
    assert isinstance(pairs, Pairs) and images == 12
    assert sorted(torch.cat([pairs.first, pairs.second]).tolist()) == list(range(8))
    assert sorted(pairs.same.tolist()) == [False, False, True, True]
    triplets = next(given for _, _, given in loss.given if isinstance(given, Triplets))
    every = torch.cat([triplets.anchor, triplets.positive, triplets.negative])
    assert sorted(every.tolist()) == list(range(12))
    kinds = {(type(given), len(next(iter(vars(given).values())))) for _, _, given in loss.given}
    assert {(Pairs, 4), (Pairs, 0), (Triplets, 4), (Triplets, 0)} <= kinds
