"""The tensors that a checkpoint holds, and those that it refuses."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import pytest
import timm
import torch
from pytorch_metric_learning import losses
from torch import nn

from siamkit.errors import CheckpointError, ConfigError, NonFiniteError, PluginError
from siamkit.model.trace import evaluating
from siamkit.model.undisturbed import Snapshot
from siamkit.objects.adapters import MetricLearningLoss
from siamkit.training import tensors
from siamkit.training.tensors import (
    Attributes,
    changed_attributes,
    load_attributes,
    load_model_tensors,
    model_tensors,
    modules_by_name,
    require_finite,
)

CPU = torch.device("cpu")


def of_loss(loss: nn.Module) -> dict[str, nn.Module]:
    return modules_by_name(nn.Module(), loss)


def built_of(modules: dict[str, nn.Module]) -> Snapshot:
    return Snapshot(modules.values(), contents="attributes")


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
    built = built_of(of_loss(saved))
    assert changed_attributes(of_loss(saved), built) == Attributes()
    batches = [(torch.randn(6, 4), torch.arange(6) // 2) for _ in range(4)]
    for batch in batches[:3]:  # the third fills the memory
        saved(*batch)
    found = changed_attributes(of_loss(saved), built)
    values = json.loads(json.dumps(found.values))
    assert found.notices == []
    assert (
        values["loss.criterion.queue_idx"] == 2 and values["loss.criterion.has_been_filled"] is True
    )
    resumed.load_state_dict(saved.state_dict())
    load_attributes(of_loss(resumed), values, found.tensors, CPU)
    assert torch.equal(resumed(*batches[3]), saved(*batches[3]))


def test_a_histogram_in_a_plain_attribute_of_a_foreign_loss_survives() -> None:
    saved, resumed = (MetricLearningLoss(losses.DynamicSoftMarginLoss()) for _ in range(2))
    built = built_of(of_loss(saved))
    batches = [(torch.randn(6, 4), torch.arange(6) // 2) for _ in range(4)]
    for batch in batches[:3]:
        saved(*batch)
    found = changed_attributes(of_loss(saved), built)
    assert list(found.tensors) == ["attribute::loss.criterion.hist_"] and found.notices == []
    assert not torch.equal(resumed(*batches[3]), saved(*batches[3])), "it decides the loss"
    saved.criterion.hist_ = found.tensors["attribute::loss.criterion.hist_"].clone()
    load_attributes(of_loss(resumed), found.values, found.tensors, CPU)
    assert torch.equal(resumed(*batches[3]), saved(*batches[3]))
    kept = found.tensors["attribute::loss.criterion.hist_"].clone()
    resumed(*batches[0])
    assert torch.equal(kept, found.tensors["attribute::loss.criterion.hist_"]), "a copy is used"


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
    built = built_of(of_loss(loss))
    loss(torch.ones(2))
    found = changed_attributes(of_loss(loss), built)
    assert found.values == {"loss.steps": 1, "loss.mode": "second", "loss.other": None}
    assert list(found.tensors) == ["attribute::loss.last"]
    assert found.others == ("loss.inner.seen",)
    (notice,) = found.notices
    assert notice.startswith("the loss changes inner.seen, which no checkpoint holds")
    again = Counting()
    load_attributes(of_loss(again), found.values, {**found.tensors, "weight::exp_avg": CPU}, CPU)  # type: ignore[dict-item]
    assert (again.steps, again.mode, again.other) == (1, "second", None)
    assert torch.equal(again.last, torch.ones(2)) and torch.equal(again.mean, torch.zeros(2))


class Keeping(nn.Module):
    """A network that keeps state of its own, next to a cache and views."""

    def __init__(self, *, cache: bool = False) -> None:
        super().__init__()
        self.norm = torch.nn.utils.spectral_norm(nn.Linear(2, 2))
        self.flat = self.norm.weight_orig.detach().view(-1)
        self.steps, self.mean, self.row = 0, torch.zeros(2), torch.zeros(1).expand(2)
        self.inner = nn.Module()
        self.inner.size, self.inner.grids = 0, None
        self.cache = cache

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.steps += 1
        self.mean = 0.5 * self.mean + x.mean(0)
        self.row = self.row + 1
        if self.cache:
            self.inner.size, self.inner.grids = len(x), {len(x): torch.ones(len(x))}
        return self.norm(x) / self.steps - self.mean


@pytest.mark.filterwarnings("ignore:.*spectral_norm:FutureWarning")
def test_what_a_network_keeps_in_numbers_and_tensors_survives() -> None:
    torch.manual_seed(0)
    saved, resumed = Keeping(), Keeping()
    modules = modules_by_name(saved, nn.Module())
    built = built_of(modules)
    for _ in range(3):
        saved(torch.randn(4, 2))
    with torch.no_grad():
        saved.norm.weight_orig += 1
    found = changed_attributes(modules, built)
    assert found.values == {"net.steps": 3} and found.owners == {"net"} and found.notices == []
    assert sorted(n.removeprefix("attribute::net.") for n in found.tensors) == [
        "flat", "mean", "row",
    ]  # fmt: skip
    resumed.load_state_dict(saved.state_dict())
    again = modules_by_name(resumed, nn.Module())
    load_attributes(again, found.values, {**found.tensors, "head.weight::step": CPU}, CPU)  # type: ignore[dict-item]
    x = torch.randn(4, 2)
    assert torch.equal(resumed(x), saved(x)) and torch.equal(resumed.row, saved.row)
    with torch.no_grad():
        resumed.norm.weight_orig.zero_()
    assert not resumed.flat.any(), "still a view of the weight"


def test_the_key_of_a_cache_is_not_held_without_its_content(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    net = Keeping(cache=True)
    modules = modules_by_name(net, nn.Module())
    built = built_of(modules)
    net(torch.randn(4, 2))
    found = changed_attributes(modules, built)
    assert "net.inner.size" not in found.values and found.others == ("net.inner.grids",)
    (notice,) = found.notices
    assert notice.startswith("the network changes inner.grids, which no checkpoint holds")
    monkeypatch.setattr(tensors, "_LARGEST", 8)
    found = changed_attributes(modules, built)
    assert not found.values and found.others == ("net.mean", "net.row", "net.inner.grids")


@pytest.mark.parametrize(
    "name", ["resnet10t", "vit_tiny_patch16_224", "swin_tiny_patch4_window7_224", "levit_128s"]
)
def test_a_usual_backbone_keeps_nothing(name: str) -> None:
    size = {"img_size": 64} if name.startswith(("vit", "swin")) else {}
    net = timm.create_model(name, pretrained=False, num_classes=0, **size)
    modules = modules_by_name(net, nn.Module())
    built = built_of(modules)
    images = torch.randn(2, 3, *(2 * [64 if size else 224]))
    net.train()(images).sum().backward()
    with evaluating(net):
        net(images)
    assert changed_attributes(modules, built) == Attributes()
