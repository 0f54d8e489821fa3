from __future__ import annotations

import re

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from siamkit.engine.outputs import Blank, Count, Repeated, Shape, Unchanged
from siamkit.errors import SiamkitError

sizes = st.lists(st.integers(1, 4), min_size=1, max_size=4)


@given(sizes, st.data())
def test_a_shape_seen_twice_holds_for_any_number_of_images(rest, data):
    axis = data.draw(st.integers(0, len(rest)))
    per_image = data.draw(st.integers(1, 3))
    images = data.draw(st.integers(1, 6))
    other = data.draw(st.sampled_from([1, 3, 5, 8]))

    def full(n):
        return torch.Size([*rest[:axis], per_image * n, *rest[axis:]])

    shape = Shape.between(full(2), full(other), (2, other))
    assert shape.of(images) == tuple(full(images))
    assert shape.axis == axis
    tensor = torch.arange(full(images).numel()).reshape(full(images))
    rows = shape.rows(tensor)
    assert rows.shape == (images, shape.values)
    assert torch.equal(shape.unrow(rows), tensor)
    one = tensor.narrow(axis, 0, per_image)
    assert torch.equal(shape.rows(one)[0], rows[0])


@pytest.mark.parametrize(("two", "three"), [((2, 4), (4, 4)), ((3,), (4,)), ((4,), (5,))])
def test_a_shape_by_another_rule_is_refused(two, three):
    told = f"its shape is {list(two)} for 2 images and {list(three)} for 3"
    with pytest.raises(SiamkitError, match=re.escape(told)):
        Shape.between(torch.Size(two), torch.Size(three), (2, 3))


def test_a_square_of_images_has_no_axis():
    shape = Shape.between(torch.Size((2, 2)), torch.Size((3, 3)), (2, 3))
    assert shape.axis is None and shape.of(5) == (5, 5)


def test_a_blank_costs_one_value_unless_it_is_written_to():
    shape = Shape((1, 8, 64, 64), (True, False, False, False))
    blank = Blank(shape, torch.float32, torch.device("cpu"))
    view = blank.make(32, {})
    assert view.shape == (32, 8, 64, 64) and view.as_subclass(torch.Tensor).isnan().all()
    assert view.untyped_storage().nbytes() == 4
    Blank(shape, torch.float32, torch.device("cpu"), written=True).make(2, {}).add_(1)
    counts = Blank(shape, torch.int64, torch.device("cpu")).make(2, {})
    assert not counts.as_subclass(torch.Tensor).any()


def test_constants_that_are_written_to_are_copied():
    value = torch.ones(3)
    Unchanged(value, written=True).make(2, {}).add_(1)
    Repeated(value[None], 0, written=True).make(4, {}).add_(1)
    assert torch.equal(value, torch.ones(3))
    assert Unchanged(value).make(2, {}) is value
    view = Repeated(value[None], 0).make(4, {})
    assert view.shape == (4, 3) and view.data_ptr() == value.data_ptr(), "no memory of its own"
    assert Repeated(torch.ones(2, 3), 0).make(4, {}).shape == (8, 3)
    assert Count().make(7, {}) == 7
