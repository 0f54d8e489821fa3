from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from siamkit import engine
from siamkit.engine.timing import sample, survey
from siamkit.freezing.controller import FreezeController
from siamkit.interfaces import FreezePlan
from siamkit.model.stages import discover_stages


@dataclass
class Images:
    images: list

    class dataset:
        def __class_getitem__(cls, item):
            index, view = item
            return torch.full((3, 4, 4), float(index + view))


def test_a_sample_is_the_first_images_in_view_zero():
    taken = sample(Images(list(range(20))), torch.device("cpu"))
    assert taken.images[:, 0, 0, 0].tolist() == [0, 1, 2, 3, 4, 5, 6, 7]
    assert taken.seconds > 0
    assert len(sample(Images([1, 2]), torch.device("cpu")).images) == 2


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
    found = engine.cut(net, stages, plan, images).cut
    seen = survey(net, found, images)
    assert seen.activations.shape[0] == 5 and seen.prefix > 0 and seen.suffix > 0
    assert all(p.grad is None for p in net.parameters())
