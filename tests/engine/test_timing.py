from __future__ import annotations

import torch
from torch import nn

from siamkit import engine
from siamkit.engine.timing import load_first, time_parts
from siamkit.freezing.controller import FreezeController
from siamkit.interfaces import FreezePlan
from siamkit.model.stages import discover_stages


class Images:
    """Inputs of as many images as ``count``; an image is filled with its number plus its view."""

    def __init__(self, count: int) -> None:
        self.count = count

    def __len__(self) -> int:
        return self.count

    def example(self, index: int, view: int) -> torch.Tensor:
        return torch.full((3, 4, 4), float(index + view))


def test_the_first_images_are_loaded_in_view_zero():
    taken = load_first(Images(20), torch.nn.Identity())
    assert taken.images[:, 0, 0, 0].tolist() == [0, 1, 2, 3, 4, 5, 6, 7]
    assert taken.seconds > 0
    assert len(load_first(Images(2), torch.nn.Identity()).images) == 2


class Pair(nn.Module):
    """Gives a tuple: timing needs no single tensor."""

    def __init__(self):
        super().__init__()
        self.body, self.tail = nn.Conv2d(3, 64, 3), nn.Linear(64, 2)

    def forward(self, images):
        y = self.body(images)
        return self.tail(y.mean((2, 3))), y.shape[2]


def test_both_parts_are_timed_and_nothing_changes():
    net, images = Pair(), torch.randn(5, 3, 32, 32)
    stages = discover_stages(net, images[:1])
    plan = FreezePlan.of(stages, [stages[-1].name])
    FreezeController(net, stages).apply(plan)
    cut = engine.cut(net, stages, plan, images).cut
    times = time_parts(net, cut, images)
    assert times.activations.shape[0] == 5 and times.prefix > 0 and times.suffix > 0
    assert all(p.grad is None for p in net.parameters())
