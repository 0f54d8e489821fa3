"""The tensors that a checkpoint holds, and those that it refuses."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from siamkit.errors import CheckpointError, ConfigError, NonFiniteError, PluginError
from siamkit.training.tensors import load_model_tensors, model_tensors, require_finite


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
