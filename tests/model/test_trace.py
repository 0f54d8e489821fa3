"""The order of a forward."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from siamkit.model.trace import Trace, blank, call, trace, watch


def test_a_parameter_without_a_recorded_use_is_used_when_its_module_starts() -> None:
    trace = Trace(starts={"": 0, "a": 1, "a.b": 5}, ends={}, uses={"a.weight": 3})
    assert trace.first_use("a.weight") == 3, "its use was recorded"
    assert trace.first_use("a.bias") == 1
    assert trace.first_use("a.b.weight") == 5
    assert trace.first_use("a.c.weight") is None, "its module did not run"
    assert trace.first_use("weight") is None, "the root spans everything"


class Two(nn.Module):
    """Takes one or two arguments; ``b`` runs within ``a``, and ``weight`` before its owner."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Sequential(nn.Linear(2, 2), nn.ReLU())
        self.owner = nn.Linear(2, 2, bias=False)
        self.never = nn.Linear(2, 2)

    def forward(self, one: Any, other: Tensor | None = None) -> Any:
        if not isinstance(one, Tensor):
            return one
        x = one if other is None else one + other
        return self.owner(self.a(x @ self.owner.weight))


@pytest.mark.parametrize(
    ("example", "expected"),
    [
        (torch.ones(1, 2), torch.ones(1, 2)),
        ((torch.ones(1, 2),), torch.ones(1, 2)),
        ((torch.ones(1, 2), torch.ones(1, 2)), torch.full((1, 2), 2.0)),
        ({"one": torch.ones(1, 2), "other": torch.ones(1, 2)}, torch.full((1, 2), 2.0)),
    ],
)
def test_an_example_is_one_argument_or_a_tuple_or_a_mapping_of_them(
    example: Any, expected: Tensor
) -> None:
    net = Two()
    assert torch.equal(call(net, example), net(expected))
    assert call(net, [1, 2]) == [1, 2], "a list is one argument"


def test_the_order_of_a_forward_is_recorded() -> None:
    net = Two()
    found = trace(net, torch.ones(1, 2))
    assert found.starts[""] == 0
    order = ["", "a", "a.0", "a.1", "owner"]
    assert sorted(found.starts, key=found.starts.__getitem__) == order
    assert found.ends["a.0"] < found.starts["a.1"] < found.ends["a.1"] < found.ends["a"]
    assert found.start("a.0.x.y") == found.starts["a.0"] and found.start("never") is None
    assert found.start("") is None
    assert found.ran("a") and not found.ran("never")
    assert found.ran_within("a") and not found.ran_within("a.0")
    assert found.used_before_its_owner("owner.weight")
    assert not found.used_before_its_owner("a.0.weight")
    assert not found.used_before_its_owner("never.weight")
    assert found.used_in("a.0.weight", "a") and found.used_in("a.0.weight", "a.0")
    assert not found.used_in("a.0.weight", "owner") and not found.used_in("owner.weight", "a")
    assert not found.used_in("never.weight", "") and not found.used_in("a.0.weight", "never")
    assert net.training and not any(m._forward_hooks for m in net.modules())


def test_a_black_image_has_the_type_of_the_floating_point_parameters() -> None:
    net = nn.Module()
    net.count = nn.Parameter(torch.zeros(1, dtype=torch.int64), requires_grad=False)
    net.scale = nn.Parameter(torch.zeros(1, dtype=torch.float16))
    image = blank(net, 4, (5, 6))
    assert (tuple(image.shape), image.dtype) == ((1, 4, 5, 6), torch.float16) and not image.any()
    assert blank(nn.ReLU(), 3, (1, 1)).dtype == torch.float32


def test_watched_modules_tell_their_outputs_and_keep_no_hooks() -> None:
    net = nn.Sequential(nn.Linear(2, 3), nn.Dropout(), nn.Linear(3, 4)).train()
    seen: list[tuple[str, list[int]]] = []

    def note(name: str, output: Tensor) -> None:
        seen.append((name, list(output.shape)))

    watch(net, ["0", "2"], lambda: net(torch.ones(5, 2)), note)
    assert seen == [("0", [5, 3]), ("2", [5, 4])]
    with pytest.raises(RuntimeError, match="shapes"):
        watch(net, ["0"], lambda: net(torch.ones(5, 9)), note)
    assert net.training and not any(module._forward_hooks for module in net.modules())
