"""The trial of a cut: the outcome of a step, and what counts as a difference."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from siamkit.engine.blank import blank
from siamkit.engine.trial import Outcome, _detached, allowed_for, difference, step, sum_of
from siamkit.errors import SiamkitError


def test_the_loss_weights_the_values_of_an_output_from_minus_one_to_one() -> None:
    """So values that change places, or all values that move by the same amount, are told apart."""
    net = nn.Linear(1, 3)
    outcome = step(net, net, torch.tensor([[2.0]]), ())
    weights = torch.tensor([-1.0, 0.0, 1.0])
    assert outcome.error is None
    torch.testing.assert_close(outcome.values["the gradient of 'bias'"], weights)
    torch.testing.assert_close(outcome.values["the gradient of 'weight'"], 2 * weights[:, None])
    assert all(parameter.grad is None for parameter in net.parameters())


NAN = float("nan")
A, B = torch.tensor([1.0, 2.0]), torch.tensor([1.0, 2.5])


@pytest.mark.parametrize(
    ("whole", "parts", "told"),
    [
        ({"output": A, "n": 2}, {"output": A.clone(), "n": 2}, None),
        ({"output": A}, {"output": B}, "output differs by 0.2 of its largest value"),
        ({"one": A, "two": A}, {"one": B, "two": 2 * A}, "two differs by 1 of its largest value"),
        ({"two": A, "one": A}, {"two": 2 * A, "one": B}, "two differs by 1 of its largest value"),
        ({"x": A, "y": A}, {"x": A}, "only the whole network has or changes y"),
        ({"x": A}, {"x": A, "y": A}, "only the cut network has or changes y"),
        ({"n": 1}, {"n": 2}, "n is 2, not 1"),
        ({"n": (1, float("1e3"))}, {"n": (1, float("1e3"))}, None),
        ({"n": NAN}, {"n": NAN}, None),
        ({"n": A}, {"n": None}, f"n is None, not {A!r}"),
        ({"x": A}, {"x": A[:1]}, "x has the shape [1], not [2]"),
    ],
)
def test_what_differs_most_is_told(whole: Any, parts: Any, told: str | None) -> None:
    assert difference(Outcome(whole), Outcome(parts), 0.2) == told


@pytest.mark.parametrize(("allowed", "alike"), [(0.5, True), (0.49, False)])
def test_a_difference_that_is_just_allowed_is_none(allowed: float, alike: bool) -> None:
    found = difference(Outcome({"x": A}), Outcome({"x": A - torch.tensor([0.0, 1.0])}), allowed)
    assert (found is None) is alike


def test_gradients_that_are_only_rounding_are_compared_with_the_largest_one() -> None:
    def outcome(rounding: float, name: str) -> Outcome:
        return Outcome({"the gradient of 'a'": A, f"{name} 'b'": torch.tensor([rounding])})

    alike = (outcome(1e-9, "the gradient of"), outcome(2e-9, "the gradient of"))
    assert difference(*alike, 1e-4) is None
    assert difference(outcome(1e-9, "the buffer"), outcome(2e-9, "the buffer"), 1e-4) is not None
    large = (outcome(1e-3, "the gradient of"), outcome(2e-3, "the gradient of"))
    assert difference(*large, 1e-4) == "the gradient of 'b' differs by 0.5 of its largest value"


def test_failing_alike_is_no_difference_and_failing_alone_is() -> None:
    fine, one, other = Outcome(), Outcome(error=ValueError("no\nyes")), SiamkitError("too small")
    assert difference(one, Outcome(error=ValueError("no\nmore")), 1.0) is None
    assert difference(fine, one, 1.0) == "the cut network fails: ValueError: no"
    assert difference(Outcome(error=other), fine, 1.0) == "the whole network fails: too small"
    assert difference(Outcome(error=other), one, 1.0) == "the cut network fails: ValueError: no"


def test_half_precision_may_differ_more() -> None:
    images = torch.zeros(1, 3, 2, 2)
    single, half, brain = (
        allowed_for(images, images.to(t)) for t in (torch.float32, torch.float16, torch.bfloat16)
    )
    assert 0 < single < half < brain < 0.1


def test_outputs_without_a_gradient_have_a_sum_of_zero() -> None:
    with_gradient = torch.ones(2, requires_grad=True)
    assert sum_of([torch.ones(3), "text"]).item() == 0 and sum_of([]).requires_grad
    assert sum_of({"a": with_gradient, "b": torch.ones(3)}).item() == 2


def test_values_are_kept_as_they_are_now() -> None:
    tensor, array = torch.ones(2), np.ones(2)
    kept = [_detached(value) for value in (tensor, array, np.array(["a"]), 3)]
    tensor += 1
    array += 1
    assert kept[0].tolist() == kept[1].tolist() == [1, 1] and kept[2:] == ["['a']", 3]
    assert _detached(blank(torch.ones(1))) == "a value that the suffix does not compute"
