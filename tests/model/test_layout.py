from __future__ import annotations

from collections import namedtuple
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from siamkit.errors import PluginError
from siamkit.model.layout import check_layout, infer_layout, layout_of_layer, pool, select_from


@given(st.permutations("NCHW"), st.tuples(*[st.integers(1, 4)] * 4))
def test_pooling_averages_all_but_images_and_channels(
    axes: list[str], size: tuple[int, ...]
) -> None:
    plain = torch.randn(size, dtype=torch.float64)  # [N, C, H, W]
    output = plain.permute(["NCHW".index(axis) for axis in axes])
    expected = torch.tensor([[float(c.mean()) for c in image] for image in plain])
    torch.testing.assert_close(pool(output, "".join(axes)), expected.double())


@pytest.mark.parametrize("layout", ["NHW", "CHW", "NCC", "NNC", "", "N C", "N1C", 3, ("N", "C")])
def test_what_is_no_layout_is_refused(layout: Any) -> None:
    with pytest.raises(PluginError, match="one letter per axis"):
        check_layout(layout)


def test_a_layout_with_other_axes_than_the_output_is_refused() -> None:
    with pytest.raises(
        PluginError, match=r"3 axes, but the output has 4, got 'NLC' \(output \[2, 3, 4, 4"
    ):
        pool(torch.zeros(2, 3, 4, 4), "NLC")


@pytest.mark.parametrize(
    ("shapes", "layout"),
    [
        ([(1, 6)], "NC"),
        ([(1, 6, 8, 8), (1, 6, 4, 4)], "NCHW"),
        ([(1, 8, 8, 6), (1, 4, 4, 6)], "NHWC"),
        ([(1, 8, 8, 8), (1, 8, 4, 4)], "NCHW"),
        ([(1, 64, 6), (1, 16, 6)], "NLC"),
        ([(1, 6, 64), (1, 6, 16)], "NCL"),
        ([(1, 6, 1, 1), (1, 6, 1, 1)], "NCHW"),
        ([(1, 1, 6), (1, 1, 6)], "NLC"),
        ([(1, 6, 7, 7), (1, 6, 7, 7)], "NCHW"),
        ([(1, 7, 7, 6)], "NHWC"),
        ([(1, 7, 7, 7)], None),  # a cube
        ([(1, 7, 6, 7)], None),
        ([(1, 49, 6)], None),  # tokens, or a sequence?
        ([(1, 4, 6), (1, 4, 6)], None),
        ([(1, 4, 64, 6), (1, 4, 16, 6)], None),  # heads
        ([(1, 6, 64), (1, 24, 16)], None),
        ([(1, 6, 1, 8, 8), (1, 6, 1, 4, 4)], None),
        ([(1, 6, 8, 8), (1, 6)], None),
    ],
)
def test_the_channels_are_the_axis_that_stays(shapes: Any, layout: str | None) -> None:
    assert infer_layout(shapes, square=True) == layout


def test_an_oblong_image_makes_no_square_grid() -> None:
    assert infer_layout([(1, 6, 7, 7)], square=False) is None


@given(
    st.sampled_from(["NCHW", "NHWC", "NCL", "NLC"]),
    st.lists(st.integers(1, 9), min_size=2, max_size=4, unique=True),
    st.integers(1, 9),
)
def test_where_the_positions_change_the_answer_is_right_or_none(
    layout: str, sides: list[int], channels: int
) -> None:
    length = {"N": 1, "C": channels}
    shapes = [tuple(length.get(axis, side) for axis in layout) for side in sides]
    assert infer_layout(shapes, square=True) == layout


def test_some_layers_say_where_their_channels_are() -> None:
    assert layout_of_layer(nn.LayerNorm(6), 3) == "NLC"
    assert layout_of_layer(nn.LayerNorm((6, 6)), 3) is None
    assert layout_of_layer(nn.BatchNorm1d(6), 3) == "NCL"
    assert layout_of_layer(nn.Conv2d(3, 6, 1), 4) == "NCHW"
    assert layout_of_layer(nn.Linear(6, 6), 3) is None  # it may mix positions (MLP-Mixer)


# --- selecting -----------------------------------------------------------------------------------

Named = namedtuple("Named", "features other")
T = torch.ones(1, 6)


@dataclass
class Data:
    features: Tensor
    other: int = 1


@pytest.mark.parametrize(
    ("output", "select"),
    [
        (T, None),
        ({"features": T, "other": 1}, "features"),
        ({7: T}, 7),
        ((0, T), 1),
        ([T, 0], 0),
        ((0, T), -1),
        (Named(T, 1), "features"),
        (Named(T, 1), 0),
        (Data(T), "features"),
        ({"a": {"b": T}}, lambda output: output["a"]["b"]),
        (torch.stack([T, T], 1), lambda tokens: tokens[:, 0]),
    ],
)
def test_a_part_is_selected_by_key_index_or_function(output: Any, select: Any) -> None:
    assert torch.equal(select_from(output, select), T)


@pytest.mark.parametrize(
    ("output", "select", "message"),
    [
        ((T, T), None, r"got 'tuple'.*select=.*has the parts 0 \(\[1, 6\]\), 1 \(\[1, 6\]\)"),
        ({"features": T, "n": 1}, None, r"got 'dict'.*'features' \(\[1, 6\]\), 'n' \(int\)"),
        ({"features": T}, "feature", "no such part, got 'feature'.*did you mean 'features'"),
        ((T,), 4, "no such part, got 4"),
        (Data(T), "nothing", "a Data, has no such part"),
        (Data(T), "other", "must return features, got 'int'"),
        (T, 0, "one tensor, which has no parts to select"),  # not the first image
        (T, "shape", "one tensor, which has no parts to select"),
        (None, None, "got 'NoneType'"),
        ({"a": {"b": T}}, "a", r"got 'dict'.*the output has the parts 'b' \(\[1, 6\]\)"),
    ],
)
def test_what_leads_to_no_tensor_is_refused_with_what_there_is(
    output: Any, select: Any, message: str
) -> None:
    with pytest.raises(PluginError, match=message):
        select_from(output, select)


def test_the_output_of_a_transformer() -> None:
    outputs = pytest.importorskip("transformers.modeling_outputs")
    output = outputs.BaseModelOutputWithPooling(last_hidden_state=T[:, None], pooler_output=T)
    assert torch.equal(select_from(output, "pooler_output"), T)
    assert torch.equal(select_from(output, 1), T)
    with pytest.raises(PluginError, match=r"'last_hidden_state' \(\[1, 1, 6\]\), 'pooler_output'"):
        select_from(output, None)
