"""The tensors that a checkpoint holds, and those that it refuses."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from pytorch_metric_learning import losses
from torch import nn

from siamkit.errors import CheckpointError, ConfigError, NonFiniteError, PluginError
from siamkit.model.undisturbed import Snapshot
from siamkit.objects.adapters import MetricLearningLoss
from siamkit.training.tensors import (
    load_loss_values,
    load_model_tensors,
    loss_values,
    model_tensors,
    require_finite,
)


def setup_of(net: nn.Module, loss: nn.Module | None = None) -> Any:
    return SimpleNamespace(net=net, loss=loss or nn.Module(), tensors=None)


def test_the_tensors_of_network_and_loss_are_restored() -> None:
    one, other = (setup_of(nn.Linear(2, 3), nn.Linear(3, 1)) for _ in range(2))
    tensors = model_tensors(one)
    assert sorted(tensors) == ["bias", "loss.bias", "loss.weight", "weight"]
    load_model_tensors(other, tensors)
    assert all(torch.equal(t, model_tensors(other)[name]) for name, t in tensors.items())
    with pytest.raises(CheckpointError, match=r"the checkpoint: loss: .*1 missing: bias"):
        load_model_tensors(other, {k: t for k, t in tensors.items() if k != "loss.bias"})


class Extra(nn.Linear):
    def get_extra_state(self) -> dict[str, int]:
        return {"calls": 1}

    def set_extra_state(self, state: Any) -> None:
        pass


def test_state_that_is_no_dense_tensor_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"^_extra_state: is part of the network's state"):
        model_tensors(setup_of(Extra(1, 1)))
    sparse = nn.Module()
    sparse.register_buffer("table", torch.eye(2).to_sparse())
    with pytest.raises(ConfigError, match=r"^table: is part of the network's state"):
        model_tensors(setup_of(sparse))


def test_a_buffer_that_appears_in_training_is_named() -> None:
    setup = setup_of(nn.Linear(1, 1))
    model_tensors(setup)
    model_tensors(setup)
    setup.net.register_buffer("late", torch.ones(1))
    with pytest.raises(PluginError, match=r"^late: appeared or disappeared during training"):
        model_tensors(setup)


def test_a_buffer_that_is_not_finite_is_not_saved() -> None:
    tensors = {"count": torch.tensor(3), "mean": torch.tensor([1.0, float("inf")])}
    require_finite({"count": tensors["count"]}, "fp32")
    with pytest.raises(NonFiniteError, match=r"^mean holds NaN or infinity, so this state was not"):
        require_finite(tensors, "fp32")


def test_the_position_in_the_memory_of_a_foreign_loss_survives() -> None:
    def memory() -> MetricLearningLoss:
        return MetricLearningLoss(losses.CrossBatchMemory(losses.ContrastiveLoss(), 4, 16))

    saved, resumed = memory(), memory()
    built = Snapshot(saved.modules(), contents=False)
    assert not loss_values(saved, built)
    batches = [(torch.randn(6, 4), torch.arange(6) // 2) for _ in range(4)]
    for batch in batches[:3]:  # the third fills the memory
        saved(*batch)
    values = json.loads(json.dumps(loss_values(saved, built)))
    assert values["criterion.queue_idx"] == 2 and values["criterion.has_been_filled"] is True
    resumed.load_state_dict(saved.state_dict())
    load_loss_values(resumed, values)
    assert torch.equal(resumed(*batches[3]), saved(*batches[3]))
