"""Groups that are written by hand: whether they can be used, and what is left without them."""

from __future__ import annotations

import torch
from torch import nn

from siamkit.compress.groups import Group, Member, apart, record_of, silence
from siamkit.model.pruning import Cut


def test_a_group_is_even_if_each_layer_has_each_channel_as_often() -> None:
    whole = Member("a", "writes", (0, 1, 2), (0, 1, 2))
    flat = Member("b", "reads", (0, 1, 2, 3, 4, 5), (0, 0, 1, 1, 2, 2))
    part = Member("c", "reads", (0, 1), (0, 1))
    odd = Member("d", "reads", (0, 1, 2, 3), (0, 1, 2, 2))
    assert Group("a", 3, (whole, flat)).is_even
    assert not Group("a", 3, (whole, part)).is_even
    assert not Group("a", 3, (whole, odd)).is_even


def test_groups_that_claim_the_same_place_are_left_out() -> None:
    def group(name: str, *places: int) -> Group:
        return Group(name, len(places), (Member("it", "reads", places, tuple(range(len(places)))),))

    one, two, other = group("a", 0, 1), group("b", 1, 2), group("c", 3, 4)
    assert apart((one, two, other)) == (other,)
    written = Group("d", 2, (Member("it", "writes", (3, 4), (0, 1)),))
    assert apart((other, written)) == (other, written), "another side is another place"


def test_a_layer_that_reads_two_groups_loses_channels_of_both() -> None:
    net = nn.ModuleDict({"one": nn.Linear(3, 2), "two": nn.Linear(3, 3), "both": nn.Linear(5, 4)})
    groups = (
        Group("one", 2, (Member("one", "writes", (0, 1), (0, 1)),
                         Member("both", "reads", (0, 1), (0, 1)))),
        Group("two", 3, (Member("two", "writes", (0, 1, 2), (0, 1, 2)),
                         Member("both", "reads", (2, 3, 4), (0, 1, 2)))),
    )  # fmt: skip
    removed = {"one": [1], "two": [0, 2]}
    record = record_of(net, groups, removed)
    assert record.layers["both"].tensors == {"weight": (None, Cut(5, (0, 3)))}
    assert record.layers["one"].sizes == {"out_features": 1}
    assert record.layers["two"].tensors["bias"] == (Cut(3, (1,)),)
    assert record_of(net, groups, {"one": [1]}).layers.keys() == {"one", "both"}
    silence(net, groups, removed)
    zero = (net["both"].weight == 0).all(0)
    assert torch.equal(zero, torch.tensor([False, True, True, False, True]))
