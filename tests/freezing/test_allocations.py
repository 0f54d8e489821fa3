from __future__ import annotations

import ctypes

import pytest
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


@pytest.mark.parametrize("images_too", [False, True])
def test_the_gradients_of_a_convolution_are_computed_on_copies(images_too: bool) -> None:
    images = torch.ones(2, 4, 8, 8, requires_grad=images_too)
    weight = nn.Parameter(torch.ones(3, 4, 1, 1))
    output = F.conv2d(images, weight)
    gradient = torch.ones_like(output)
    wanted = [images, weight] if images_too else [weight]
    with Allocations() as made:
        torch.autograd.grad(output, wanted, gradient)
    of_images, of_weight, of_output = (4 * one.numel() for one in (images, weight, output))
    # The gradient of the weight is computed from copies of the images and of the output's gradient,
    # beside the weight in two layouts; a gradient of the images exists by then.
    copies = of_output + of_images + 2 * of_weight
    assert made.peak.total == copies + (of_images if images_too else 0)


def test_large_blocks_are_those_that_the_c_library_always_maps() -> None:
    # glibc, mallopt(3): DEFAULT_MMAP_THRESHOLD_MAX is 4 * 1024 * 1024 * sizeof(long).
    assert 4 * 1024 * 1024 * ctypes.sizeof(ctypes.c_long) == LARGE


def test_amounts_are_added_taken_away_and_scaled() -> None:
    one, other = Bytes(5, 7), Bytes(2, 3)
    assert one + other == Bytes(7, 10) and one - other == Bytes(3, 4)
    assert one * 2 == Bytes(10, 14) and one * 0.5 == Bytes(2, 4)
    assert one.total == 12
