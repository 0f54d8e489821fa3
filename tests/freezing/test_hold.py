from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from siamkit.freezing.hold import hold, is_held, release


@pytest.fixture
def nested() -> nn.Sequential:
    return nn.Sequential(nn.Sequential(nn.BatchNorm1d(3), nn.Dropout(0.5)), nn.Linear(3, 3))


def test_a_held_module_stays_in_eval_whichever_ancestor_is_trained(nested: nn.Sequential) -> None:
    norm = nested[0][0]
    hold(norm)
    for ancestor in (nested, nested[0], norm, nn.Sequential(nested)):
        ancestor.train()
        assert not norm.training
    assert nested[0][1].training, "only what is held is kept in eval"


def test_a_released_module_follows_train_again(nested: nn.Sequential) -> None:
    norm = nested[0][0]
    hold(norm)
    release(norm, training=True)
    assert norm.training and not is_held(norm)
    nested.eval()
    assert not norm.training
    nested.train()
    assert norm.training


def test_a_copy_of_a_held_module_is_held_by_itself(nested: nn.Sequential) -> None:
    hold(nested[0][0])
    twin = copy.deepcopy(nested)
    twin.train()
    assert not twin[0][0].training
    release(twin[0][0], training=True)
    assert is_held(nested[0][0])


def test_a_held_batch_norm_keeps_its_statistics(nested: nn.Sequential) -> None:
    norm = nested[0][0]
    hold(norm)
    nested.train()(torch.randn(8, 3))
    assert torch.equal(norm.running_mean, torch.zeros(3))
    assert norm.num_batches_tracked == 0
