from __future__ import annotations

import pytest
import torch
from torch import nn

from siamkit import engine
from siamkit.engine.kernels import available, build_kernel
from siamkit.freezing.controller import FreezeController
from siamkit.interfaces import FreezePlan, Stage
from siamkit.model.trace import evaluating

NAMES = ("stem", "left", "right", "join", "head")


class Branches(nn.Module):
    """Two frozen branches of different shapes, and an operation in place between them."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU())
        self.left = nn.Conv2d(4, 4, 3, padding=1)
        self.right = nn.Conv2d(4, 8, 3, 2, padding=1)
        self.join = nn.Conv2d(12, 4, 1)
        self.head = nn.Linear(4, 2)

    def forward(self, images):
        x = self.stem(images)
        left = self.left(x)
        left += 1
        right = nn.functional.interpolate(self.right(x), scale_factor=2.0)
        return self.head(self.join(torch.cat([left, right], 1)).mean((2, 3)))


@pytest.fixture
def branches():
    torch.manual_seed(0)
    net, images = Branches(), torch.randn(5, 3, 8, 8)
    stages = [
        Stage(n, tuple(f"{n}.{p}" for p, _ in net.get_submodule(n).named_parameters()), (n,), n)
        for n in NAMES
    ]
    plan = FreezePlan.of(stages, ["join", "head"])
    FreezeController(net, stages).apply(plan)
    result = engine.cut(net, stages, plan, images)
    assert result.cut is not None and not result.reasons
    return net, result.cut, images


def test_all_that_crosses_lies_side_by_side_in_one_row_per_image(branches):
    net, found, images = branches
    rows = found.prefix(images)
    assert rows.shape == (5, 4 * 8 * 8 + 8 * 4 * 4)
    x = net.stem(images)
    assert torch.equal(rows[:, : 4 * 64], net.left(x).flatten(1))  # before it was written to
    assert torch.equal(rows[:, 4 * 64 :], net.right(x).flatten(1))


def test_nothing_after_the_boundary_runs(branches):
    net, found, images = branches
    ran = []
    net.join.register_forward_hook(lambda *_: ran.append("join"))
    found.prefix(images)
    assert ran == []


def test_nothing_before_the_boundary_runs_in_the_suffix(branches):
    net, found, images = branches
    rows = found.prefix(images)
    with torch.no_grad():
        net.stem[0].weight.fill_(float("nan"))
        net.left.weight.fill_(float("nan"))
    assert found.suffix(rows).isfinite().all()


@pytest.mark.parametrize("name", ["folded", "onnxruntime"])
def test_kernels_run_a_prefix_of_several_tensors(branches, name):
    if reason := available("cpu")[name]:
        pytest.skip(reason)
    net, found, images = branches
    with evaluating(net):
        kernel = build_kernel(name, found.prefix, images)
        torch.testing.assert_close(kernel(images), found.prefix(images), atol=1e-5, rtol=1e-4)
        assert found.differs(images, kernel(images)) is None


def test_the_suffix_is_a_module_that_trains_what_trains(branches):
    net, found, images = branches
    found.suffix(found.prefix(images)).sum().backward()
    assert net.join.weight.grad is not None and net.left.weight.grad is None
    assert {id(p) for p in found.suffix.parameters()} == {id(p) for p in net.parameters()}
