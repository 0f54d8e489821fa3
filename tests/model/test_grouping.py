"""The order of groups of parameters, and the groups of norms."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from siamkit.model.grouping import (
    bucket,
    in_order,
    is_norm,
    join_norms,
    place,
    structural_groups,
    unit_name,
)
from siamkit.model.trace import Trace

TRACE = Trace(
    starts={"net": 0, "net.a": 1, "net.b": 5, "net.c": 9},
    ends={"net": 20, "net.a": 4, "net.b": 8, "net.c": 12},
    uses={"net.a.w": 2, "net.b.w": 6, "net.c.w": 10},
)


def test_groups_come_in_the_order_of_their_first_use() -> None:
    groups = [["net.c.w"], ["net.b.w", "net.a.w"], ["net.b.w"]]
    assert in_order(groups, TRACE) == [groups[1], groups[2], groups[0]]


def test_the_start_of_an_ancestor_counts_only_without_a_use_of_its_own() -> None:
    # ``net.x`` did not run: for its parameter, there is the start of ``net`` alone.
    late, early = ["net.c.w", "net.x.w"], ["net.x.w", "net.x.b"]
    assert in_order([late, ["net.b.w"]], TRACE) == [["net.b.w"], late]
    assert in_order([["net.a.w"], early], TRACE) == [early, ["net.a.w"]]


def test_a_group_that_did_not_run_stays_behind_the_one_before_it() -> None:
    groups = [["net.b.w"], ["other.w"], ["net.a.w"], ["more.w"]]
    assert in_order(groups, TRACE) == [["net.a.w"], ["more.w"], ["net.b.w"], ["other.w"]]
    assert in_order([["other.w"], ["net.a.w"]], TRACE) == [["other.w"], ["net.a.w"]]
    assert in_order([], TRACE) == []


def test_a_group_of_norms_joins_the_group_before_it() -> None:
    norms = frozenset({"n1", "n2", "n3"})
    assert join_norms([["n1"], ["a"], ["n2"], ["n3"], ["b", "n1"]], norms) == [
        ["n1"], ["a", "n2", "n3"], ["b", "n1"],
    ]  # fmt: skip


def test_a_parameter_joins_the_group_that_began_last_before_its_first_use() -> None:
    groups = [["net.a.w"], ["net.b.w"], ["net.c.w"], ["other.w"]]
    uses = {"early": 1, "first": 2, "before": 5, "at": 6, "between": 9, "late": 30}
    trace = Trace(starts={}, ends={}, uses={**TRACE.uses, **uses})
    assert place([*uses, "never"], groups, trace) == [
        ["net.a.w", "early", "first", "before", "never"],
        ["net.b.w", "at", "between"],
        ["net.c.w", "late"],
        ["other.w"],
    ]


@pytest.mark.parametrize(
    ("before", "last", "runs"),
    [
        (["blocks.7.w"], ["blocks.8.w"], 5),
        (["blocks.7.w", "scale"], ["blocks.8.w", "norm.w"], 5),
        (["blocks.7.w"], ["neck.0.w"], 8),
        (["blocks.7.w"], ["blocks.neck.w"], 8),
        (["blocks.conv.w"], ["blocks.8.w"], 8),
        (["blocks.7.w"], ["scale"], 8),
        (["scale"], ["blocks.8.w"], 8),
    ],
)
def test_one_group_too_many_joins_the_last_stage_if_it_is_no_block_of_a_series(
    before: list[str], last: list[str], runs: int
) -> None:
    groups = [*([f"blocks.{i}.w"] for i in range(7)), before, last]
    found = bucket(groups)
    assert len(found) == runs
    if runs == 8:
        assert found[-1] == [before, last]


def block() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(4, 4, 1, bias=False), nn.ReLU())


class Holder(nn.Module):
    """Holds modules as attributes, which are no sequence."""

    def __init__(self, **children: nn.Module) -> None:
        super().__init__()
        for name, child in children.items():
            self.add_module(name, child)


@pytest.mark.parametrize(
    ("stage", "groups"),
    [
        (nn.Sequential(block(), block()), [["s.0.0.weight"], ["s.1.0.weight"]]),
        (nn.ModuleList([block(), block()]), [["s.0.0.weight"], ["s.1.0.weight"]]),
        (nn.Sequential(block(), nn.Identity(), block()), [["s.0.0.weight"], ["s.2.0.weight"]]),
        (nn.Sequential(nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1)), []),
        (nn.Sequential(block(), nn.Conv2d(4, 4, 1)), []),
        (nn.Sequential(nn.ReLU(), nn.ReLU()), []),
        (Holder(a=block(), b=block()), []),
        (
            Holder(pre=nn.Conv2d(4, 4, 1, bias=False), deep=nn.Sequential(block(), block())),
            [["s.pre.weight"], ["s.deep.0.0.weight"], ["s.deep.1.0.weight"]],
        ),
        (Holder(pre=nn.ReLU(), deep=nn.Sequential(block(), block())),
         [["s.deep.0.0.weight"], ["s.deep.1.0.weight"]]),
        (nn.Sequential(block()), []),
    ],
)  # fmt: skip
def test_the_blocks_of_a_stage_are_the_deep_members_of_a_sequence(
    stage: nn.Module, groups: list[list[str]]
) -> None:
    assert structural_groups(Holder(s=stage), "s") == groups


@pytest.mark.parametrize(
    ("group", "taken", "name"),
    [
        (["blocks.0.conv.w", "blocks.0.norm.w"], (), "blocks.0"),
        (["blocks.0.conv.w", "blocks.1.norm.w"], (), "blocks.0-1"),
        (["blocks.0.conv.w"], ("blocks.0",), "blocks.0.conv"),
        (["stages.1.downsample.w", "stages.1.blocks.0.w"], (), "stages.1"),
        (["stages.0.downsample.w", "stages.0.blocks.0.w"], (), "stages.0.blocks.0"),
        (["stem.w"], (), "stem"),
        (["token", "stem.w"], (), "token"),
        (["0.w"], (), "0"),
        (["0.w", "1.w"], (), "0"),
    ],
)
def test_a_unit_has_the_name_of_the_outermost_module_in_it(
    group: list[str], taken: tuple[str, ...], name: str
) -> None:
    """The network has a third of ``blocks`` too, and a second block in the first stage."""
    others = ["blocks.2.conv.w", "stages.0.blocks.1.w", "2.w"]
    assert unit_name(group, [*group, *others], taken) == name


@pytest.mark.parametrize("count", [8, 10, 12, 13])
def test_many_groups_are_a_stem_and_quarters(count: int) -> None:
    groups = [["stem.w"], *([f"blocks.{i}.w"] for i in range(count - 1))]
    sizes = {8: [1] * 8, 10: [1, 3, 2, 2, 2], 12: [1, 3, 3, 3, 2], 13: [1, 3, 3, 3, 3]}
    found = bucket(groups)
    assert [len(run) for run in found] == sizes[count]
    assert [group for run in found for group in run] == groups


class RmsNorm(nn.Module):
    """A norm that is known by its name, if its own parameters are vectors."""

    def __init__(self, *shape: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(shape))


class PreNorm(nn.Sequential):
    """A container with the name of a norm."""


class NormAct(RmsNorm):
    """A norm with an activation, which has no parameters."""

    def __init__(self) -> None:
        super().__init__(4)
        self.act = nn.ReLU()


class SpectralNorm(RmsNorm):
    """Normalises weights, so it is no norm of activations."""


@pytest.mark.parametrize(
    ("module", "norm"),
    [
        (nn.BatchNorm2d(4), True), (nn.GroupNorm(2, 4), True), (nn.LayerNorm((2, 3)), True),
        (RmsNorm(4), True), (RmsNorm(1, 4, 1, 1), True), (RmsNorm(), True), (RmsNorm(2, 4), False),
        (NormAct(), True), (PreNorm(nn.ReLU()), True), (PreNorm(nn.Linear(4, 1)), False),
        (PreNorm(nn.BatchNorm1d(4, affine=False)), False), (SpectralNorm(4), False),
        (nn.Linear(4, 1), False), (nn.ReLU(), False),
    ],
)  # fmt: skip
def test_a_norm_is_known_by_its_class_or_its_name(module: nn.Module, norm: bool) -> None:
    assert is_norm(module) == norm
