from __future__ import annotations

import time

import torch
from torch import nn

from siamkit import engine
from siamkit.engine import timing
from siamkit.engine.timing import UNKNOWN, first_run, load_first, spread, time_parts
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
    first = first_run(cut, images)
    times = time_parts(net, cut, images, first, precisely=True)
    assert times.activations.shape[0] == 5 and times.prefix > 0 and times.suffix > 0
    assert all(p.grad is None for p in net.parameters())


def test_an_outlier_changes_neither_the_time_nor_its_spread(monkeypatch):
    ticks = iter([0.0, 5.0, 5.0, 5.1, 6.0, 6.1, 7.0, 67.0, 70.0, 70.1, 71.0, 71.1])
    monkeypatch.setattr(timing, "_BUDGET", 1000.0)
    monkeypatch.setattr(timing, "_now", lambda device: next(ticks))
    seconds = timing._timed(lambda: None, torch.device("cpu"))
    assert len(seconds) == 5  # without the first
    assert abs(sorted(seconds)[2] - 0.1) < 1e-6 and spread(seconds) < 1e-6


def test_slow_work_is_timed_once_and_the_uncertainty_says_so(monkeypatch):
    ticks = iter([0.0, 5.0])
    monkeypatch.setattr(timing, "_now", lambda device: next(ticks))
    seconds = timing._timed(lambda: None, torch.device("cpu"))
    assert seconds == [5.0] and spread(seconds) == UNKNOWN


def test_the_prefix_runs_again_only_if_its_time_must_be_precise():
    class Counted(torch.nn.Module):
        calls = 0

        def forward(self, images):
            Counted.calls += 1
            return images

    class Halves:
        prefix, suffix = Counted(), torch.nn.Linear(3, 1)

    images = torch.randn(5, 3)
    first = first_run(Halves, images)
    rough = time_parts(Halves.suffix, Halves, images, first, precisely=False)
    assert Counted.calls == 1 and rough.prefix == first.seconds / 5
    assert rough.spread >= UNKNOWN
    time_parts(Halves.suffix, Halves, images, first, precisely=True)
    assert Counted.calls > 2


def test_one_image_that_is_slow_to_load_does_not_count():
    class Slow(Images):
        def example(self, index, view):
            time.sleep(0.2 if index == 0 else 0.001)
            return super().example(index, view)

    assert load_first(Slow(8), torch.nn.Identity()).seconds < 0.1
