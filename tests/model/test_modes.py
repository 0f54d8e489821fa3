"""Modules are in eval mode in every thread that asks for it, and have their own mode afterwards."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from torch import nn

import siamkit
from siamkit.model import modes
from siamkit.model.modes import in_eval_mode, set_mode


def mixed() -> nn.Sequential:
    """A network in train mode with one module in eval mode."""
    net = nn.Sequential(nn.Linear(2, 2), nn.Sequential(nn.BatchNorm1d(2), nn.Dropout()))
    net[1][1].eval()
    return net


class Merges(nn.Linear):
    """A layer that copies its weight in eval mode, and forgets the copy in train mode."""

    def __init__(self) -> None:
        super().__init__(2, 2)
        self.merged: torch.Tensor | None = None
        self.calls: list[bool] = []

    def train(self, mode: bool = True) -> Merges:
        super().train(mode)
        self.calls.append(mode)
        self.merged = None if mode else self.weight.detach().clone()
        return self


def modes_of(net: nn.Module) -> list[bool]:
    return [m.training for m in net.modules()]


@pytest.fixture(autouse=True)
def nothing_is_held_at_the_end() -> Any:
    yield
    assert not modes._HELD


def test_each_module_gets_its_own_mode_back() -> None:
    net = mixed()
    before = modes_of(net)
    with pytest.raises(KeyError), in_eval_mode(net):
        assert not any(modes_of(net))
        raise KeyError
    assert modes_of(net) == before


def test_a_nested_block_restores_what_it_found() -> None:
    net = mixed()
    before = modes_of(net)
    with in_eval_mode(net):
        net.train()
        with in_eval_mode(net[1]):
            assert not any(modes_of(net[1]))
        assert all(modes_of(net))
    assert modes_of(net) == before


@pytest.mark.parametrize("first", ["whole", "part"])
def test_a_thread_that_ends_leaves_eval_mode_to_the_others(first: str) -> None:
    net = mixed()
    before = modes_of(net)
    one, other = (net, net[1]) if first == "whole" else (net[1], net)
    entered, leave = threading.Event(), threading.Event()

    def longer() -> bool:
        with in_eval_mode(other):
            entered.set()
            leave.wait(10)
            return any(modes_of(other))

    with ThreadPoolExecutor(1) as pool:
        with in_eval_mode(one):
            later = pool.submit(longer)
            entered.wait(10)
        leave.set()
        assert not later.result()
    assert modes_of(net) == before


def test_threads_that_share_a_network_in_train_mode_get_its_embeddings() -> None:
    net = siamkit.create_model("timm:resnet10t", pretrained=False, image_size=32, head="linear")
    images = torch.randn(4, 3, 32, 32)
    wanted, before = net.embed(images), {n: t.clone() for n, t in net.state_dict().items()}
    net.train()
    with ThreadPoolExecutor(4) as pool:
        for found in pool.map(net.embed, [images] * 40):
            torch.testing.assert_close(found, wanted)
    assert net.training
    assert all(torch.equal(t, before[n]) for n, t in net.state_dict().items())


def test_a_module_that_overrides_train_is_as_its_own_train_leaves_it() -> None:
    net = nn.Sequential(Merges(), nn.Sequential(Merges(), nn.Dropout()), Merges().eval())
    merging, before = [net[0], net[1][0], net[2]], modes_of(net)
    with in_eval_mode(net):
        assert all(m.merged is not None for m in merging)
        with in_eval_mode(net[1]):
            pass
        assert net[1][0].merged is not None
    assert modes_of(net) == before
    assert [m.merged is None for m in merging] == [True, True, False]


def test_train_of_a_module_leaves_a_child_that_another_thread_uses() -> None:
    class Around(Merges):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Sequential(Merges(), nn.BatchNorm1d(2))

    net = Around()
    entered, leave = threading.Event(), threading.Event()

    def longer() -> bool:
        with in_eval_mode(net.inner):
            entered.set()
            leave.wait(10)
            return any(modes_of(net.inner)) or net.inner[0].merged is None

    with ThreadPoolExecutor(1) as pool:
        with in_eval_mode(net):
            later = pool.submit(longer)
            entered.wait(10)
        assert net.training and net.merged is None
        assert not any(modes_of(net.inner)) and net.inner[0].calls[-1] is False
        leave.set()
        assert not later.result()
    assert all(modes_of(net)) and net.inner[0].merged is None
    assert not any("train" in vars(m) for m in net.modules())


def test_modes_are_restored_if_a_train_fails() -> None:
    class Fails(nn.Linear):
        def train(self, mode: bool = True) -> Fails:
            if not hasattr(self, "failing"):
                return super().train(mode)
            raise RuntimeError("cannot")

    net = nn.Sequential(nn.Dropout(), Fails(2, 2), nn.Dropout())
    with pytest.raises(RuntimeError, match="cannot"), in_eval_mode(net):
        net[1].failing = True
    assert all(modes_of(net))
    with pytest.raises(RuntimeError, match="cannot"), in_eval_mode(net):
        raise AssertionError("the block does not run")
    assert all(modes_of(net))


def test_the_mode_of_one_module_is_set_by_its_own_train() -> None:
    net = nn.Sequential(Merges(), nn.Dropout())
    set_mode(net[0], False)
    assert not net[0].training and net[0].merged is not None and net[1].training
    set_mode(net[0], False)
    assert net[0].calls == [False]
    set_mode(net, False)
    assert modes_of(net) == [False, False, True]
