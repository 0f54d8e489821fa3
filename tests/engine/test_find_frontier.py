"""The templates of a prefix's outputs, and what cannot be a part of them."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from siamkit.engine.calls import Call
from siamkit.engine.find_frontier import _leaf, _require_known, _require_rows
from siamkit.engine.outputs import Blank, Count, Leaf, Repeated, Shape, Unchanged
from siamkit.engine.recording import IMAGE
from siamkit.errors import SiamkitError

CALL = Call("stem", 0)


def leaf(two: Any, three: Any, *labels: str) -> Leaf:
    """The template of a value that is seen for two images and for three."""
    return _leaf(two, three, (2, 3), frozenset(labels))


@pytest.mark.parametrize("value", [True, None, "text", 2, 1.5, SimpleNamespace()])
def test_a_value_that_is_the_same_for_all_images_stays(value: Any) -> None:
    assert leaf(value, value) == Unchanged(value)


def test_the_number_of_images_is_known_by_its_value() -> None:
    assert leaf(2, 3) == Count()
    with pytest.raises(SiamkitError, match="it returns 2 for 2 images and 4 for 3"):
        leaf(2, 4)
    with pytest.raises(SiamkitError, match="it returns False for 2 images and True for 3"):
        leaf(False, True)


def test_constants_are_kept_once_however_many_images_there_are() -> None:
    token = torch.arange(4.0)
    assert leaf(token, token) == Unchanged(token)
    found = leaf(token.expand(2, 1, 4), token.expand(3, 1, 4))
    assert isinstance(found, Repeated) and found.axis == 0
    assert torch.equal(found.value, token[None, None])


@pytest.mark.parametrize(
    ("two", "three", "labels"),
    [
        (torch.eye(2), torch.eye(3)[:, :2], ()),  # another value for each image
        (torch.ones(2, 4), torch.ones(3, 4), (IMAGE,)),
        (torch.ones(4), torch.ones(4), (IMAGE,)),
        (torch.ones(2, 2), torch.ones(3, 3), ()),  # both axes grow
    ],
)
def test_what_may_depend_on_an_image_is_left_blank(
    two: Tensor, three: Tensor, labels: tuple[str, ...]
) -> None:
    found = leaf(two, three, *labels)
    assert isinstance(found, Blank) and found.dtype == two.dtype
    assert found.shape.of(2) == tuple(two.shape) and found.shape.of(3) == tuple(three.shape)


def test_axes_that_come_with_more_images_are_refused() -> None:
    with pytest.raises(SiamkitError, match="its number of dimensions depends on the number of"):
        leaf(torch.ones(2), torch.ones(3, 1))


@pytest.mark.parametrize(
    ("shape", "dtype", "told"),
    [
        (
            Shape((4,), (False,)),
            torch.float32,
            r"a tensor of shape \[4\] for 2 images, which has no",
        ),
        (Shape((1, 1), (True, True)), torch.float32, r"shape \[2, 2\] for 2 images"),
        (Shape((1, 4), (True, False)), torch.int64, "returns int64 values, which activations"),
        (Shape((1, 4), (True, False)), torch.float16, None),
    ],
)
def test_a_row_is_the_part_of_one_image_in_floating_point(
    shape: Shape, dtype: torch.dtype, told: str | None
) -> None:
    blank = Blank(shape, dtype, torch.device("cpu"))
    if told is None:
        _require_rows(CALL, blank)
        return
    with pytest.raises(SiamkitError, match=f"'stem' returns .*{told}|'stem' {told}"):
        _require_rows(CALL, blank)


def test_outputs_whose_tensors_cannot_be_seen_are_refused() -> None:
    _require_known({"features": [torch.ones(1), 3, None], "size": torch.Size([1])})
    with pytest.raises(SiamkitError, match="the network returns a SimpleNamespace, whose tensors"):
        _require_known([torch.ones(1), SimpleNamespace(features=torch.ones(1))])
