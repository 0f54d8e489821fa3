from __future__ import annotations

import torch
from torch import nn

from siamkit.model.names import (
    Names,
    named_modules,
    named_parameters,
    named_tensors,
    tied_parameters,
    unwrap,
)


class Net(nn.Module):
    """A network with an attribute named ``module``, a tied weight and a module in two places."""

    def __init__(self) -> None:
        super().__init__()
        self.module = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
        self.module[1].weight = self.module[0].weight
        self.norm = nn.BatchNorm1d(3)
        self.again = self.module[0]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.norm(self.module(x))


def compiled(module: nn.Module) -> nn.Module:
    return torch.compile(module, backend="eager")


def test_without_wrappers_names_and_order_are_torchs() -> None:
    net = Net()
    assert list(named_modules(net)) == list(net.named_modules())
    assert list(named_parameters(net)) == list(net.named_parameters())
    assert list(named_tensors(net)) == [
        *(name for name, _ in net.named_parameters()),
        *(name for name, _ in net.named_buffers()),
    ]


def test_wrappers_leave_no_trace_wherever_they_stand() -> None:
    net = Net()
    expected = [name for name, _ in net.named_parameters()]
    for wrapped in (compiled(net), nn.DataParallel(net), nn.DataParallel(compiled(net))):
        assert unwrap(wrapped) is net
        assert [name for name, _ in named_parameters(wrapped)] == expected
    inside = Net()
    inside.module = compiled(inside.module)
    inside.norm = nn.DataParallel(inside.norm)
    assert [name for name, _ in named_parameters(inside)] == expected
    assert [n for n, _ in named_modules(inside)] == [n for n, _ in net.named_modules()]


def test_any_name_leads_to_the_plain_one() -> None:
    net = Net()
    net.module = compiled(net.module)
    net.norm = nn.DataParallel(net.norm)
    names = Names.of(nn.DataParallel(net))
    assert {given: names[given] for given in PLAIN} == PLAIN


PLAIN = {
    "module.0.bias": "module.0.bias",
    "module._orig_mod.0.bias": "module.0.bias",
    "module.module._orig_mod.0.bias": "module.0.bias",
    "_orig_mod.module.0.bias": "module.0.bias",
    "module.1.weight": "module.0.weight",
    "again.weight": "module.0.weight",
    "again": "module.0",
    "norm.module": "norm",
    "norm.module.weight": "norm.weight",
    "module.norm.weight": "norm.weight",
    "module._orig_mod.1": "module.1",
    "": "",
    "no.such.name": "no.such.name",
}


def test_a_parameter_with_two_names_in_one_module_is_found_by_both() -> None:
    layer = nn.Linear(3, 3)
    layer.same = layer.weight
    names = Names.of(nn.Sequential(layer))
    assert names["0.same"] == names["0.weight"] == "0.weight"


def test_a_shared_weight_is_tied_and_a_shared_module_is_not() -> None:
    assert tied_parameters(Net()) == {"module.0.weight": ("module.1.weight",)}
    assert tied_parameters(compiled(Net())) == {"module.0.weight": ("module.1.weight",)}
    block = nn.Linear(3, 3)
    assert tied_parameters(nn.Sequential(block, block)) == {}
