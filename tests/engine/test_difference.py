import pytest
import torch

from siamkit.engine.difference import relative_difference


def test_it_is_relative_to_the_largest_magnitude_of_the_reference():
    reference = torch.tensor([[1.0, -4.0], [0.5, 0.0]])
    assert relative_difference(reference, reference) == 0.0
    output = reference.clone()
    output[1, 1] = 0.25
    assert relative_difference(output, reference) == pytest.approx(0.25 / 4)
    assert relative_difference(10 * output, 10 * reference) == pytest.approx(0.25 / 4)
    assert relative_difference(output.half(), reference) == pytest.approx(0.25 / 4)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_what_is_not_finite_never_passes(bad):
    reference = torch.ones(3)
    output = torch.tensor([1.0, bad, 1.0])
    assert relative_difference(output, reference) == float("inf")
    assert relative_difference(reference, output) == float("inf")


def test_shapes_must_be_equal_and_zeros_are_compared_too():
    assert relative_difference(torch.ones(2, 1), torch.ones(2)) == float("inf")
    assert relative_difference(torch.zeros(2), torch.zeros(2)) == 0.0
    assert relative_difference(torch.full((2,), 1e-3), torch.zeros(2)) > 1e6
    assert relative_difference(torch.ones(0, 3), torch.ones(0, 3)) == 0.0


def test_an_imaginary_part_counts_on_either_side():
    real, other = torch.ones(2), torch.tensor([1.0, 1.0 + 2.0j])
    assert relative_difference(other, real) == pytest.approx(2.0)
    assert relative_difference(real, other) == pytest.approx(2.0 / 5**0.5)
