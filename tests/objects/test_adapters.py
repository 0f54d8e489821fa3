"""Losses of pytorch-metric-learning on explicit tuples: used, or refused with the reason."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from pytorch_metric_learning import losses, miners
from torch import Tensor, nn

from siamkit.errors import ConfigError
from siamkit.interfaces import Pairs, Triplets
from siamkit.objects.adapters import MetricLearningLoss

INDEX = torch.arange(2)
PAIRS = Pairs(INDEX, INDEX + 2, torch.tensor([True, False]))
TRIPLETS = Triplets(INDEX, INDEX + 2, INDEX + 4)


def vectors() -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return nn.functional.normalize(torch.randn(6, 8, generator=generator), dim=1)


@pytest.mark.parametrize(
    ("criterion", "pairs", "triplets"),
    [
        (losses.ContrastiveLoss(), True, True),
        (losses.MultiSimilarityLoss(), True, True),
        (losses.TripletMarginLoss(), False, True),
        (losses.NTXentLoss(), False, True),
        (losses.CircleLoss(), False, True),
        (losses.ArcFaceLoss(4, 8), False, False),
        (losses.ProxyAnchorLoss(4, 8), False, False),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_loss_that_ignores_tuples_refuses_them(
    criterion: nn.Module, pairs: bool, triplets: bool
) -> None:
    loss = MetricLearningLoss(criterion)
    for tuples, usable in ((PAIRS, pairs), (TRIPLETS, triplets)):
        if usable:
            x = vectors().requires_grad_()
            loss(x, None, tuples).backward()
            assert x.grad is not None and x.grad.any()
        else:
            what = type(tuples).__name__.lower()
            with pytest.raises(ConfigError, match=f"cannot use explicit {what}: .*; train on lab"):
                loss(vectors(), None, tuples)


class Counting(losses.ContrastiveLoss):  # type: ignore[misc]
    calls = 0

    def forward(self, embeddings: Tensor, labels: Tensor | None, indices: Any = None) -> Tensor:
        self.calls += 1
        value: Tensor = super().forward(embeddings, labels, indices)
        return value


def test_the_trial_leaves_the_loss_and_the_random_numbers_as_they_were() -> None:
    criterion, before = Counting(), torch.get_rng_state()
    loss = MetricLearningLoss(criterion)
    for _ in range(2):
        loss(vectors(), None, PAIRS)
    assert criterion.calls == 2 and torch.equal(before, torch.get_rng_state())


def test_a_width_of_one_is_not_tried() -> None:
    value = MetricLearningLoss(losses.ContrastiveLoss())(torch.ones(6, 1), None, PAIRS)
    assert value.shape == ()


LABELS = torch.tensor([0, 0, 1, 1, 2, 2])


def test_a_loss_without_a_miner_sees_all_tuples_and_with_one_those_that_it_selects() -> None:
    x = vectors()
    whole = MetricLearningLoss(losses.ContrastiveLoss())(x, LABELS)
    torch.testing.assert_close(whole, losses.ContrastiveLoss()(x, LABELS))
    miner = miners.PairMarginMiner(pos_margin=0.1, neg_margin=0.5)
    mined = MetricLearningLoss(losses.ContrastiveLoss(), miner)(x, LABELS)
    torch.testing.assert_close(mined, losses.ContrastiveLoss()(x, LABELS, miner(x, LABELS)))
    assert not torch.isclose(mined, whole)


def test_without_labels_and_tuples_there_is_nothing_to_learn() -> None:
    with pytest.raises(ConfigError, match="ContrastiveLoss got neither labels nor tuples"):
        MetricLearningLoss(losses.ContrastiveLoss())(vectors(), None)


def test_a_loss_of_two_views_takes_one_half_of_the_batch_as_each() -> None:
    loss, x = MetricLearningLoss(losses.VICRegLoss()), vectors()
    assert loss.second_view
    torch.testing.assert_close(loss(x, LABELS), losses.VICRegLoss()(x[:3], ref_emb=x[3:]))
    with pytest.raises(ConfigError, match="VICRegLoss compares two views of each image"):
        loss(x, None, PAIRS)


def test_what_is_taken_for_a_loss() -> None:
    class Other(nn.Module):
        def forward(self, values: Tensor) -> Tensor:
            return values

    class Referring(nn.Module):
        def forward(self, x: Tensor, ref_emb: Tensor) -> Tensor:
            return x

    miner = miners.MultiSimilarityMiner()
    assert MetricLearningLoss.takes(losses.ContrastiveLoss(), None)
    assert MetricLearningLoss.takes(losses.ContrastiveLoss(), miner)
    assert MetricLearningLoss.takes(Referring(), None)
    for criterion, given in ((Other(), None), (Other(), miner), (max, None), (None, None),
                             (losses.ContrastiveLoss(), max),
                             (MetricLearningLoss(losses.ContrastiveLoss()), None)):  # fmt: skip
        assert not MetricLearningLoss.takes(criterion, given)


class Reversed(losses.ContrastiveLoss):  # type: ignore[misc]
    """Is larger for good embeddings."""

    def forward(self, embeddings: Tensor, labels: Tensor | None, indices: Any = None) -> Tensor:
        value: Tensor = -super().forward(embeddings, labels, indices)
        return value


def test_a_loss_is_used_whichever_way_it_responds() -> None:
    MetricLearningLoss(Reversed())(vectors(), None, PAIRS)
