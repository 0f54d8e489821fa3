from __future__ import annotations

import pytest
import torch
from torch import nn

from siamkit.engine.calls import Call, Leave, intercepting, targets_of


def network():
    shared = nn.Linear(2, 2)
    return nn.Sequential(nn.Sequential(shared), shared, nn.Linear(2, 1))


def test_calls_are_counted_and_those_inside_are_not():
    net, calls = network(), []

    def note(call, compute):
        calls.append(call)
        return compute()

    x = torch.ones(3, 2)
    expected = net(x)
    with intercepting(net, targets_of(net, ["0", "1", "2"]), note):
        assert torch.equal(net(x), expected)
    assert calls == [Call("0", 0), Call("1", 0), Call("2", 0)]


def test_an_answer_stands_for_the_output_and_hooks_run_on_it():
    net = network()
    net[1].register_forward_hook(lambda m, i, o: o + 1)
    with intercepting(
        net, targets_of(net, ["0", "1"]), lambda call, _: torch.full((3, 2), float(call.module))
    ):
        assert torch.equal(net(torch.ones(3, 2)), net[2](torch.full((3, 2), 2.0)))


def test_a_forward_of_another_library_comes_back():
    net = network()
    own = net[2].forward = lambda x: x * 2
    with pytest.raises(Leave), intercepting(net, targets_of(net, ["2", "0"]), _leave):
        net(torch.ones(3, 2))
    assert vars(net[2])["forward"] is own and "forward" not in vars(net[0])


def _leave(call, compute):
    compute()
    raise Leave


def test_a_compiled_module_does_not_hide_what_it_calls():
    net = network()
    net.compile(backend="eager")
    x = torch.ones(3, 2)
    net(x)
    with intercepting(net, targets_of(net, ["1"]), lambda *_: torch.zeros(3, 2)):
        assert torch.equal(net(x), net[2](torch.zeros(3, 2)))
    assert not torch.equal(net(x), net[2](torch.zeros(3, 2)))
