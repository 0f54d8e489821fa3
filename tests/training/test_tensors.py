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
    LossAttributes,
    load_loss_attributes,
    load_model_tensors,
    loss_attributes,
    model_tensors,
    require_finite,
)

CPU = torch.device("cpu")


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
    built = Snapshot(saved.modules(), contents="attributes")
    assert loss_attributes(saved, built) == LossAttributes({}, {}, ())
    batches = [(torch.randn(6, 4), torch.arange(6) // 2) for _ in range(4)]
    for batch in batches[:3]:  # the third fills the memory
        saved(*batch)
    found = loss_attributes(saved, built)
    values = json.loads(json.dumps(found.values))
    assert found.notices == []
    assert values["criterion.queue_idx"] == 2 and values["criterion.has_been_filled"] is True
    resumed.load_state_dict(saved.state_dict())
    load_loss_attributes(resumed, values, found.tensors, CPU)
    assert torch.equal(resumed(*batches[3]), saved(*batches[3]))


def test_a_histogram_in_a_plain_attribute_of_a_foreign_loss_survives() -> None:
    saved, resumed = (MetricLearningLoss(losses.DynamicSoftMarginLoss()) for _ in range(2))
    built = Snapshot(saved.modules(), contents="attributes")
    batches = [(torch.randn(6, 4), torch.arange(6) // 2) for _ in range(4)]
    for batch in batches[:3]:
        saved(*batch)
    found = loss_attributes(saved, built)
    assert list(found.tensors) == ["loss attribute::criterion.hist_"] and found.notices == []
    assert not torch.equal(resumed(*batches[3]), saved(*batches[3])), "it decides the loss"
    saved.criterion.hist_ = found.tensors["loss attribute::criterion.hist_"].clone()
    load_loss_attributes(resumed, found.values, found.tensors, CPU)
    assert torch.equal(resumed(*batches[3]), saved(*batches[3]))
    kept = found.tensors["loss attribute::criterion.hist_"].clone()
    resumed(*batches[0])
    assert torch.equal(kept, found.tensors["loss attribute::criterion.hist_"]), "a copy is used"


class Counting(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(2))
        self.inner = nn.Module()
        self.inner.seen, self.steps, self.mode, self.other = [], 0, "first", 1
        self.last = torch.zeros(2)

    def forward(self, x: torch.Tensor) -> None:
        self.inner.seen.append(float(x.sum()))
        self.steps += 1
        self.mode, self.other = "second", None
        self.mean += x
        self.last.add_(x)


def test_state_that_no_checkpoint_holds_is_told_and_all_else_is_saved() -> None:
    loss = Counting()
    built = Snapshot(loss.modules(), contents="attributes")
    loss(torch.ones(2))
    found = loss_attributes(loss, built)
    assert found.values == {".steps": 1, ".mode": "second", ".other": None}
    assert list(found.tensors) == ["loss attribute::.last"]
    assert found.others == ("inner.seen",)
    (notice,) = found.notices
    assert notice.startswith("the loss changes inner.seen, which no checkpoint holds")
    again = Counting()
    load_loss_attributes(again, found.values, {**found.tensors, "weight::exp_avg": CPU}, CPU)  # type: ignore[dict-item]
    assert (again.steps, again.mode, again.other) == (1, "second", None)
    assert torch.equal(again.last, torch.ones(2)) and torch.equal(again.mean, torch.zeros(2))
