"""The record of pruned channels: as text, as JSON, composed, and applied to a network."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from siamkit.errors import CheckpointError
from siamkit.model.pruning import Cut, PrunedLayer, Pruning, as_ranges, of_ranges

channels = st.sets(st.integers(0, 40), min_size=1).map(lambda found: tuple(sorted(found)))


def network() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.Conv2d(6, 4, 1, bias=False))


def record(kept: tuple[int, ...], of: int = 6) -> Pruning:
    cut = Cut(of, kept)
    norm = dict.fromkeys(("weight", "bias", "running_mean", "running_var"), (cut,))
    return Pruning(
        {
            "0": PrunedLayer(
                {"out_channels": len(kept)},
                {"weight": (cut, None, None, None), "bias": (cut,)},
            ),
            "1": PrunedLayer({"num_features": len(kept)}, norm),
            "2": PrunedLayer({"in_channels": len(kept)}, {"weight": (None, cut, None, None)}),
        },
        {"ratio": 0.5},
    )


@given(channels)
def test_ranges_are_read_back(kept: tuple[int, ...]) -> None:
    assert of_ranges(as_ranges(kept)) == kept


def test_ranges_are_short() -> None:
    assert as_ranges((0, 1, 2, 3, 7, 9, 10)) == "0-3,7,9-10"


def test_the_record_is_read_back(tmp_path: Path) -> None:
    made = record((0, 2, 3))
    made.save(tmp_path / "pruning.json")
    assert Pruning.load(tmp_path / "pruning.json") == made
    assert len(made.to_json()["channels"]) == 1, "each list of channels is stored once"
    assert made.to_json()["format"] == 1


def test_the_kept_channels_keep_their_values() -> None:
    net = network().eval()
    images = torch.randn(2, 3, 8, 8)
    silent = network().eval()
    silent.load_state_dict(net.state_dict())
    with torch.no_grad():
        silent[2].weight[:, [1, 4, 5]] = 0
    made = record((0, 2, 3))
    assert not made.is_applied(net)
    assert not made.is_applied(nn.Identity()), "a network without these layers"
    made.apply(net, "a test")
    assert made.is_applied(net)
    assert torch.allclose(net(images), silent(images), atol=1e-6)
    assert net[0].out_channels == net[1].num_features == net[2].in_channels == 3
    assert all(parameter.requires_grad for parameter in net.parameters())


@given(st.data())
def test_two_prunings_are_one(data: st.DataObject) -> None:
    first = data.draw(st.sets(st.integers(0, 5), min_size=2).map(lambda s: tuple(sorted(s))))
    places = st.sets(st.integers(0, len(first) - 1), min_size=1)
    second = data.draw(places.map(lambda s: tuple(sorted(s))))
    twice, once = network(), network()
    once.load_state_dict(twice.state_dict())
    a, b = record(first), record(second, len(first))
    a.apply(twice, "a test")
    b.apply(twice, "a test")
    b.after(a).apply(once, "a test")
    for name, tensor in twice.state_dict().items():
        assert torch.equal(tensor, once.state_dict()[name]), name


def test_a_record_of_another_network_is_refused() -> None:
    other = nn.Sequential(nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5), nn.Conv2d(5, 4, 1))
    with pytest.raises(CheckpointError, match="belongs to another network"):
        record((0, 1)).apply(other, "a test")
    with pytest.raises(CheckpointError, match="belongs to another network"):
        record((0, 1)).apply(nn.Sequential(nn.Linear(3, 6)), "a test")


@pytest.mark.parametrize(
    "change",
    [
        lambda values: values.update(format=9),
        lambda values: values["channels"][0].update(kept="3-1"),
        lambda values: values["channels"][0].update(kept="0-6"),
        lambda values: values["channels"][0].update(kept="-1"),
        lambda values: values["channels"][0].update(kept="0-99999999999"),
        lambda values: values["channels"][0].update(of="six"),
        lambda values: values["layers"]["0"]["sizes"].update(out_channels=0),
        lambda values: values["layers"]["0"]["sizes"].update(out_channels=True),
        lambda values: values["layers"]["0"]["sizes"].update(out_channels=[2, 0]),
        lambda values: values["channels"][0].update(kept="0-1", of=1),
        lambda values: values["channels"][0].update(kept="1,1"),
        lambda values: values["layers"]["0"]["tensors"].update(weight=[7]),
        lambda values: values.pop("layers"),
    ],
)
def test_what_is_no_record_is_refused(change: Any) -> None:
    values = json.loads(json.dumps(record((0, 1)).to_json()))
    change(values)
    with pytest.raises(CheckpointError):
        Pruning.from_json(values, "pruning.json")


def test_an_edited_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "pruning.json"
    record((0, 2, 3)).save(path)
    path.write_text(path.read_text().replace("0,2-3", "0,2,4"))
    with pytest.raises(CheckpointError, match="damaged or was edited"):
        Pruning.load(path)


def test_sizes_of_several_numbers_are_read_back() -> None:
    made = Pruning({"norm": PrunedLayer({"normalized_shape": (3, 1)}, {"weight": (Cut(4, (0,)),)})})
    read = Pruning.from_json(json.loads(json.dumps(made.to_json())), "a test")
    assert read == made and read.digest == made.digest != record((0,)).digest


def test_layers_that_only_one_of_two_prunings_cut_are_kept() -> None:
    first, second = record((0, 2, 3)), record((0, 2), 3)
    alone = {"new": PrunedLayer({"out_features": 1}, {"bias": (Cut(2, (1,)),)})}
    both = Pruning({**alone, "0": second.layers["0"]}).after(first)
    assert both.layers["new"] == alone["new"] and both.layers["2"] == first.layers["2"]
    assert both.layers["0"].tensors["bias"] == (Cut(6, (0, 3)),)
    assert both.layers["0"].sizes == {"out_channels": 2}


@pytest.mark.parametrize(
    ("sizes", "tensors"),
    [({}, {"text": (Cut(3, (0,)),)}), ({}, {"bias": (Cut(6, (0,)), None)}), ({"bias": 3}, {})],
)
def test_what_is_no_tensor_of_these_axes_or_no_size_is_refused(sizes: Any, tensors: Any) -> None:
    layer = nn.Linear(2, 6)
    layer.text = "abc"  # type: ignore[assignment]
    with pytest.raises(CheckpointError, match="belongs to another network"):
        Pruning({"": PrunedLayer(sizes, tensors)}).apply(layer, "a test")
