from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from siamkit.freezing.allocations import LARGE, Allocations, Bytes


def test_what_is_alive_at_the_same_time_counts() -> None:
    with Allocations() as made:
        first = torch.ones(1000)
        second = first + 1
        del first
        third = second + 1
        del second
    assert (made.peak.total, made.now.total) == (8000, 4000)
    assert len(third) == 1000


def test_views_take_no_memory_and_blocks_are_large_or_small() -> None:
    with Allocations() as made:
        tensor = torch.empty(LARGE // 4)
        tensor[1:].view(-1)
    assert made.peak == Bytes(0, LARGE)
    assert Bytes.of(LARGE - 1, LARGE, torch.zeros(2)) == Bytes(LARGE + 7, LARGE)


def test_gradients_are_told_apart() -> None:
    weight = nn.Parameter(torch.ones(50))
    with Allocations() as made, made.watching([weight]):
        (weight * 2).sum().backward()
        (weight * 2).sum().backward()
    assert made.gradients.total == 200, "a gradient that grows is one gradient"
    made.watching([weight])
    assert not weight._post_accumulate_grad_hooks


def test_what_is_held_from_outside_counts_until_it_is_released() -> None:
    with Allocations() as made:
        made.hold(Bytes(100))
        made.spike(Bytes(10))
        made.release(Bytes(100))
        made.hold(Bytes(20))
    assert (made.peak.total, made.now.total) == (110, 20)


def test_a_convolution_works_on_copies() -> None:
    images, weight = torch.ones(2, 4, 8, 8), nn.Parameter(torch.ones(4, 4, 1, 1))
    with Allocations() as made:
        output = F.conv2d(images, weight)
    size = 4 * output.numel()
    # The images, the weight and the output in another layout; then the output in both.
    assert made.peak.total == 2 * size + 4 * 16
    with Allocations() as made:
        F.conv2d(images.double(), weight.double())
    assert made.peak.total < 5 * size, "float64 is not computed by oneDNN"
    with Allocations() as made:
        output.sum().backward()
    assert made.peak.total >= 2 * size, "copies of the gradient and of the images"
