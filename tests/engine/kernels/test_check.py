from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import fusion

from siamkit.engine.difference import relative_difference as difference
from siamkit.engine.kernels import TOLERANCE, build_kernel, check, folding
from siamkit.engine.kernels.check import tolerance


def _without_shift(w, b, mean, variance, epsilon, scale, shift):
    return fusion.fuse_conv_bn_weights(w, b, mean, variance, epsilon, scale, None)


def _without_mean(w, b, mean, variance, epsilon, scale, shift):
    return fusion.fuse_conv_bn_weights(w, b, 0 * mean, variance, epsilon, scale, shift)


def _without_root(w, b, mean, variance, epsilon, scale, shift):
    return fusion.fuse_conv_bn_weights(w, b, mean, variance**2, epsilon, scale, shift)


def _another_epsilon(w, b, mean, variance, epsilon, scale, shift):
    return fusion.fuse_conv_bn_weights(w, b, mean, variance, 1e-2, scale, shift)


WRONG = [_without_shift, _without_mean, _without_root, _another_epsilon]


@pytest.mark.parametrize("wrong", WRONG)
@pytest.mark.parametrize("model", ["resnet18d", "tf_efficientnet_lite0"])
def test_a_norm_folded_wrongly_is_caught(
    cut: Callable[..., nn.Module],
    monkeypatch: pytest.MonkeyPatch,
    wrong: Callable[..., object],
    model: str,
) -> None:
    prefix, images = cut(model), torch.rand(2, 3, 64, 64)
    monkeypatch.setattr(folding, "fuse_conv_bn_weights", wrong)
    assert check(build_kernel("folded", prefix, images), prefix, images) > 10 * TOLERANCE["fp32"]


@pytest.mark.parametrize("arithmetic", list(TOLERANCE))
def test_a_kernel_that_is_a_tenth_off_is_refused_in_any_arithmetic(arithmetic: str) -> None:
    plain = torch.rand(8, 16) + 0.5
    assert difference(1.1 * plain, plain) > tolerance(f"cpu-{arithmetic}") > 0


def test_the_check_takes_more_images_than_a_batch(small: nn.Module, images: Tensor) -> None:
    kernel = build_kernel("folded", small, images[:4])
    assert check(kernel, small, images) < 1e-5


def test_the_difference_is_relative_to_the_largest_output() -> None:
    reference = torch.tensor([[1.0, -200.0], [3.0, 4.0]])
    output = reference + torch.tensor([[0.0, 0.0], [2.0, 0.0]])
    assert difference(output, reference) == pytest.approx(0.01)
    assert difference(reference, reference) == 0.0


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_what_is_not_finite_is_infinitely_wrong(bad: float) -> None:
    plain = torch.ones(2, 3)
    broken = plain.clone()
    broken[1, 1] = bad
    assert difference(broken, plain) == difference(plain, broken) == float("inf")


def test_another_shape_is_infinitely_wrong() -> None:
    assert difference(torch.ones(2, 1), torch.ones(2, 3)) == float("inf")
