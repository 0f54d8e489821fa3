from __future__ import annotations

import random
from collections import OrderedDict, deque
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import nn

from siamkit.model.undisturbed import Snapshot, attributes, undisturbed


class Keeps(nn.Module):
    """A module that keeps state of every kind."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(3)
        self.lazy = nn.LazyLinear(2)
        self.register_buffer("count", torch.zeros(()))
        self.calls = 0
        self.mean = torch.zeros(3)
        self.array = np.zeros(3)
        self.log = [torch.zeros(1), {"seen": [0]}]
        self.table = OrderedDict(a=torch.zeros(2))
        self.names, self.last = {"x"}, deque([1], maxlen=3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.norm(x)
        self.count += 1
        self.calls += 1
        self.mean.mul_(0.9).add_(x.mean(0))
        self.array += 1
        self.log[0] += 1
        self.log[1]["seen"].append(len(x))
        self.log.append("more")
        self.table["b"] = torch.ones(1)
        self.names.add("y")
        self.last.append(2)
        self.fresh = x
        self.register_buffer("born", x.mean(), persistent=False)
        random.random(), np.random.rand(), torch.rand(1)
        return y * random.random() * self.calls


def state(net: nn.Module) -> str:
    own = {name: attributes(module) for name, module in net.named_modules()}
    rest = (net.state_dict(), random.getstate(), np.random.get_state()[1].tolist())
    return repr((own, rest, torch.get_rng_state().tolist(), net._non_persistent_buffers_set))


def test_a_run_leaves_nothing_behind() -> None:
    net = Keeps().eval()
    net.norm.weight.grad = torch.ones(3)
    before, calls = state(net), net.calls
    with undisturbed(net):
        assert net.training and net.norm.weight.grad is None
        net(torch.randn(4, 3)).sum().backward()
        assert net.calls == calls + 1 and state(net) != before
    assert state(net) == before
    assert torch.equal(net.norm.weight.grad, torch.ones(3)) and not net.training
    assert not hasattr(net, "fresh") and "born" not in net._buffers


def test_a_failed_run_leaves_nothing_behind() -> None:
    net = Keeps()
    before = state(net)
    with pytest.raises(ValueError), undisturbed(net):
        net(torch.randn(4, 3))
        raise ValueError
    assert state(net) == before and net.training


def test_a_snapshot_of_one_module_leaves_its_children_alone() -> None:
    net = Keeps()
    mean = net.mean
    snapshot = Snapshot([net])
    net(torch.randn(4, 3))
    statistics = net.norm.running_mean.clone()
    snapshot.restore()
    assert net.mean is mean and not mean.any() and net.calls == 0
    assert torch.equal(net.norm.running_mean, statistics)


@pytest.mark.filterwarnings("ignore:.*torch.jit")
def test_torchscript_is_left_to_its_buffers() -> None:
    net = torch.jit.script(nn.BatchNorm1d(3))
    with undisturbed(net):
        net(torch.randn(4, 3))
    assert not net.running_mean.any()


@pytest.mark.parametrize(
    ("change", "name"),
    [
        (lambda net: net.count.add_(1), "count"),
        (lambda net: net.norm.running_mean.add_(1), "running_mean"),
        (lambda net: setattr(net, "calls", 1), "calls"),
        (lambda net: setattr(net, "mean", 0.9 * net.mean + 1), "mean"),
        (lambda net: net.mean.add_(1), "mean"),
        (lambda net: np.add(net.array, 1, out=net.array), "array"),
        (lambda net: net.log[0].add_(1), "log"),
        (lambda net: net.log[1]["seen"].append(1), "log"),
        (lambda net: net.log.append(1), "log"),
        (lambda net: net.table.update(b=torch.ones(1)), "table"),
        (lambda net: net.names.add("y"), "names"),
        (lambda net: net.last.append(2), "last"),
        (lambda net: setattr(net, "fresh", 1), "fresh"),
        (lambda net: setattr(net, "log", None), "log"),
        (lambda net: delattr(net, "calls"), "calls"),
        (lambda net: net.register_buffer("born", torch.zeros(1)), "born"),
        (lambda net: setattr(net, "twice", (0, 1)), "twice"),
    ],
)
def test_what_changed_is_named(change: Callable[[Keeps], object], name: str) -> None:
    net = Keeps()
    net.twice = (0, 0)
    snapshot = Snapshot(net.modules())
    assert not list(snapshot.changed())
    change(net)
    assert [found for _, found in snapshot.changed()] == [name]
    snapshot.restore()
    assert not list(snapshot.changed())


def test_a_value_that_cannot_be_compared_counts_as_changed() -> None:
    class Odd:
        def __eq__(self, other: object) -> bool:
            raise TypeError("cannot be compared")

        __hash__ = None  # type: ignore[assignment]

    net = Keeps()
    net.odd = Odd()
    snapshot = Snapshot(net.modules())
    assert not list(snapshot.changed())
    net.odd = Odd()
    assert [name for _, name in snapshot.changed()] == ["odd"]


def test_an_equal_value_in_the_place_of_another_is_no_change() -> None:
    net = Keeps()
    net.log.append(net.log)  # a list that holds itself
    net.mean = torch.tensor([torch.nan, 1.0])
    snapshot = Snapshot(net.modules())
    net.mean, net.array, net.table = net.mean.clone(), net.array.copy(), net.table.copy()
    assert not list(snapshot.changed())


def test_a_snapshot_over_an_earlier_one_reuses_its_memory() -> None:
    net = Keeps()
    first = Snapshot(net.modules())
    copies = {id(content) for _, content in first._contents.values() if torch.is_tensor(content)}
    net(torch.randn(4, 3))
    net.mean = torch.ones(5)  # of another shape
    again = Snapshot(net.modules(), over=first)
    reused = {id(content) for _, content in again._contents.values()} & copies
    assert len(reused) >= len(copies) - 1
    before = state(net)
    net.count.add_(1)
    net.mean.mul_(2)
    net.norm.running_mean.add_(1)
    again.restore()
    assert state(net) == before


@pytest.mark.parametrize("training", [True, False])
def test_weights_that_are_merged_in_eval_mode_are_as_before(training: bool) -> None:
    class Merges(nn.Linear):
        merged = False

        def train(self, mode: bool = True) -> Merges:
            super().train(mode)
            if self.merged == mode:
                self.weight.data += -1 if mode else 1
                self.merged = not mode
            return self

    net = nn.Sequential(Merges(2, 2)).train(training)
    before, merged = net[0].weight.detach().clone(), net[0].merged
    with undisturbed(net):
        assert not net[0].merged
        net.train(not training)
        assert net[0].merged is training
    assert net[0].training is training and net[0].merged is merged
    torch.testing.assert_close(net[0].weight.detach(), before)


class Shares(nn.Module):
    """A module with objects that torch and numpy do not write to."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor([[0.5], [1.0]]).expand(2, 3))
        self.row = torch.arange(3.0).expand(2, 3)
        self.windows = torch.arange(6.0).unfold(0, 4, 1)
        self.array = np.broadcast_to(np.float32(2), (3,))
        self.counts = np.zeros(3)
        self.register_buffer("last", torch.zeros(2))


def test_objects_that_cannot_be_written_to_are_restored() -> None:
    net = Shares()
    snapshot = Snapshot(net.modules())
    snapshot.restore()
    net.mean[:, :1].mul_(2)
    net.row[0] = 7
    net.windows[0] = 7
    net.last += 1
    assert {name for _, name in snapshot.changed()} == {"mean", "row", "windows", "last"}
    snapshot.restore()
    assert not list(snapshot.changed())
    assert net.mean.tolist() == [[0.5] * 3, [1.0] * 3] and net.row[1].tolist() == [0, 1, 2]


def test_all_else_is_restored_if_an_object_refuses() -> None:
    net = Shares()
    snapshot = Snapshot(net.modules())
    net.counts += 1
    net.counts.setflags(write=False)
    net.last += 1
    with pytest.raises(ValueError, match="read-only"):
        snapshot.restore()
    assert {name for _, name in snapshot.changed()} == {"counts"}
