from __future__ import annotations

import torch
from torch import nn

from siamkit.engine.boundary import Boundary, find_boundaries, row_elements
from siamkit.freezing.controller import FreezeController
from siamkit.freezing.hold import release
from siamkit.interfaces import FreezePlan, Stage
from siamkit.model.stages import discover_stages


class Body(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3)
        self.blocks = nn.Sequential(nn.Conv2d(4, 4, 3), nn.Conv2d(4, 4, 3))
        self.norm = nn.BatchNorm2d(4)

    def forward(self, images):
        return self.norm(self.blocks(self.stem(images))).mean((2, 3))


class Net(nn.Module):
    """No SiameseNet: its names are its own."""

    def __init__(self):
        super().__init__()
        self.body = Body()
        self.neck = nn.Linear(4, 4)
        self.classifier = nn.Linear(4, 2)

    def forward(self, images):
        return self.classifier(self.neck(self.body(images)))


def stages_of(net):
    stages = [s.prefixed("body.") for s in discover_stages(net.body, torch.zeros(1, 3, 16, 16))]
    for name in ("neck", "classifier"):
        stages.append(Stage(name, (f"{name}.weight", f"{name}.bias"), (name,), name))
    return stages


def boundaries(train, net=None):
    net = net or Net()
    stages = stages_of(net)
    names = [s.name for s in stages[:-2]] if "body" in train else []
    plan = FreezePlan.of(stages, [*names, *(n for n in train if n != "body")], head=False)
    FreezeController(net, stages).apply(plan)
    return net, find_boundaries(net, stages, plan)


def test_a_module_around_the_last_frozen_stage_is_the_deepest_boundary():
    _, found = boundaries(["neck", "classifier"])
    assert found[0].module == "body"
    assert found[1].module == "body.norm"  # its pooling is not yet done there
    assert "body.blocks" not in [b.module for b in found]  # gives what its last part gives
    assert set(found[0].parameters) == {f"body.{n}" for n, _ in Net().body.named_parameters()}


def test_boundaries_end_before_what_trains():
    net, found = boundaries(["body", "neck", "classifier"])
    assert found == ()
    assert all(p.requires_grad for p in net.parameters())


def test_a_module_that_is_not_held_whole_ends_no_prefix():
    net, found = boundaries(["neck", "classifier"])
    release(net.body.norm, True)
    stages = stages_of(net)
    plan = FreezePlan.of(stages, ["neck", "classifier"], head=False)
    assert "body" in [b.module for b in found]
    assert "body" not in [b.module for b in find_boundaries(net, stages, plan)]


def test_a_shared_parameter_counts_under_all_its_names():
    net = Net()
    net.body.blocks[1].weight = net.body.blocks[0].weight
    _, found = boundaries(["neck", "classifier"], net)
    assert found[0].module == "body"


def test_values_per_image_are_those_of_all_tensors():
    net, found = boundaries(["neck", "classifier"])
    elements = dict(
        zip(
            [b.module for b in found],
            row_elements(net, found, torch.zeros(1, 3, 16, 16)),
            strict=True,
        )
    )
    assert elements["body"] == 4

    class Pair(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = nn.Conv2d(3, 4, 16)

        def forward(self, images):
            return self.body(images), images

    outer = nn.Sequential(Pair())
    never = Boundary("x", "0.body", (), (), ())
    both = Boundary("y", "0", (), (), ())
    assert row_elements(outer, [both, never], torch.zeros(1, 3, 16, 16)) == (4 + 768, 4)


class Chain(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 1)
        self.blocks = nn.ModuleList(nn.Conv2d(4, 4, 1) for _ in range(3))
        self.head = nn.Linear(4, 2)

    def forward(self, images):
        x = self.stem(images)
        for block in self.blocks:
            x = block(x)
        return self.head(x.mean((2, 3)))


def unit(name, module, **fields):
    return Stage(name, (f"{module}.weight", f"{module}.bias"), (module,), module, **fields)


def test_a_boundary_is_named_by_its_block_and_the_last_one_by_its_stage():
    net = Chain()
    parts = tuple(unit(f"blocks.{i}", f"blocks.{i}") for i in range(3))
    everything = tuple(p for part in parts for p in part.parameters)
    modules = tuple(part.modules[0] for part in parts)
    layers = Stage("layers", everything, modules, modules[-1], blocks=parts)
    stages = (unit("stem", "stem"), layers, unit("head", "head"))
    plan = FreezePlan.of(stages, ["head"], head=False)
    FreezeController(net, stages).apply(plan)
    found = find_boundaries(net, stages, plan)
    assert [(b.name, b.module) for b in found] == [
        ("layers", "blocks.2"), ("blocks.1", "blocks.1"), ("blocks.0", "blocks.0"),
        ("stem", "stem"),
    ]  # fmt: skip
    assert [b.units for b in found] == [
        ("stem", "blocks.0", "blocks.1", "blocks.2")[:n] for n in (4, 3, 2, 1)
    ]
    plan = FreezePlan(frozenset({*parts[1].parameters, *stages[-1].parameters}))
    FreezeController(net, stages).apply(plan)
    assert [b.name for b in find_boundaries(net, stages, plan)] == ["blocks.0", "stem"]
