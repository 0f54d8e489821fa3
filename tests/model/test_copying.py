"""Copies of modules: equal, independent, and with the same shared memory, or refused."""

import pytest
import torch
from torch import nn

from siamkit.errors import ConfigError
from siamkit.model.copying import copied


class Lock:
    def __deepcopy__(self, memo):
        raise TypeError("a lock")


def test_a_copy_is_equal_and_independent():
    module = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
    twin = copied(module, "backbone")
    assert all(
        torch.equal(a, b) for a, b in zip(module.parameters(), twin.parameters(), strict=True)
    )
    with torch.no_grad():
        twin[0].weight.zero_()
    assert module[0].weight.any()


def test_an_attribute_that_cannot_be_copied_is_named():
    module = nn.Sequential(nn.Linear(3, 2))
    module[0].lock = Lock()
    with pytest.raises(ConfigError, match=r"attribute 0\.lock"):
        copied(module, "backbone")


def _with_view():
    module = nn.Linear(4, 4, bias=False)
    module.register_buffer("view", module.weight.data[2:])
    return module


def _with_two_parameters():
    module = nn.ModuleList([nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False)])
    module[1].weight = nn.Parameter(module[0].weight.data)
    return module


def _with_part(choose):
    def build():
        module = nn.Linear(4, 4, bias=False)
        module.register_buffer("part", choose(module.weight.data))
        return module

    return build


def _with_two_parts():
    module = nn.Linear(4, 4, bias=False)
    module.first = nn.Parameter(module.weight.data[:1])
    module.second = nn.Parameter(module.weight.data[1:2])
    return module


@pytest.mark.parametrize(
    ("build", "names"),
    [
        (_with_part(lambda weight: weight[:1, :1]), "weight and part|part and weight"),
        (_with_part(lambda weight: weight[-1:, -1:]), "weight and part"),
        (_with_part(lambda weight: weight[:, 3]), "weight and part"),
        (_with_two_parts, "first and weight|weight and first"),
    ],
)
def test_a_single_value_that_is_shared_is_noticed(build, names):
    with pytest.raises(ConfigError, match=names):
        copied(build(), "backbone")


@pytest.mark.parametrize(
    ("build", "names"),
    [(_with_view, "weight and view"), (_with_two_parameters, r"[01]\.weight and [01]\.weight")],
)
def test_memory_that_would_no_longer_be_shared_is_refused(build, names):
    with pytest.raises(ConfigError, match=names):
        copied(build(), "backbone")


def test_tied_parameters_shared_buffers_and_parts_of_one_block_are_copied():
    module = nn.ModuleList([nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False)])
    module[1].weight = module[0].weight  # one parameter under two names
    whole = torch.arange(8.0)
    module.register_buffer("whole", whole)
    module.register_buffer("part", whole[:3])
    block = torch.zeros(2, 4)  # as cuDNN packs the weights of an LSTM
    module.one, module.other = nn.Parameter(block[0]), nn.Parameter(block[1])
    twin = copied(module, "backbone")
    assert twin[1].weight is twin[0].weight
    twin.whole[0] = 9
    assert twin.part[0] == 9 and module.part[0] == 0
