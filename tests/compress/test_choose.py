"""The choice of channels, on groups that are written by hand."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from siamkit.compress.choose import SHARE, choose, rounded
from siamkit.compress.costs import Costs
from siamkit.compress.groups import Group, Member


def group(name: str, size: int, writer: str, reader: str) -> Group:
    every = tuple(range(size))
    return Group(
        name, size, (Member(writer, "writes", every, every), Member(reader, "reads", every, every))
    )


GROUPS = (group("a", 16, "one", "two"), group("b", 24, "two", "three"))
COSTS = Costs(
    1000.0,
    {"one": 100.0, "two": 400.0, "three": 300.0},
    {"one": 3, "two": 16, "three": 24},
    {"one": 16, "two": 24, "three": 8},
    {"one": 0.0, "two": 0.0, "three": 0.0},
    {"one": 0.0, "two": 0.0, "three": 0.0},
)


def test_the_operations_of_a_layer_are_a_product_of_both_sides() -> None:
    assert COSTS.after(GROUPS, {}) == 1000
    left = COSTS.after(GROUPS, {"a": range(8), "b": range(12)})
    assert left == 1000 - 100 * 0.5 - 400 * 0.75 - 300 * 0.5


def test_channels_of_no_importance_go_first() -> None:
    importance = {"a": [0.0] * 4 + [1.0] * 12, "b": [1.0] * 24}
    removed = choose(GROUPS, importance, COSTS, 880)
    assert removed == {"a": [0, 1, 2, 3]}
    assert COSTS.after(GROUPS, removed) <= 880


def test_a_target_that_is_reached_already_removes_nothing() -> None:
    importance = {"a": [0.0] * 16, "b": [0.0] * 24}
    assert choose(GROUPS, importance, COSTS, 1000) == {}
    assert choose(GROUPS, importance, COSTS, 999.9) != {}


def test_what_costs_more_goes_before_what_costs_less() -> None:
    # A channel of a costs (100 + 400) / 16 = 31, one of b (400 + 300) / 24 = 29.
    removed = choose(GROUPS, {"a": [1.0] * 16, "b": [1.0] * 24}, COSTS, 900)
    assert set(removed) == {"a"}


def test_what_passes_through_memory_costs_too() -> None:
    busy = replace(COSTS, inputs={**COSTS.inputs, "three": 1.0})
    assert busy.price(GROUPS[1]) > COSTS.price(GROUPS[1])
    assert busy.price(GROUPS[0]) == COSTS.price(GROUPS[0])
    # Per channel, b costs 400 / 24 where it is written and 300 / 24 where it is read; and a value
    # that is read takes as long as 300 operations.
    assert COSTS.price(GROUPS[1]) == (400 + 300) / 24
    assert busy.price(GROUPS[1]) == (400 + 300) / 24 + 300
    assert set(choose(GROUPS, {"a": [1.0] * 16, "b": [1.0] * 24}, busy, 900)) == {"b"}


@given(
    st.lists(st.floats(0, 1), min_size=40, max_size=40),
    st.floats(0.35, 1),
)
def test_the_target_is_reached_with_channels_to_spare(values: list[float], share: float) -> None:
    importance = {"a": values[:16], "b": values[16:]}
    target = 1000 * share
    removed = choose(GROUPS, importance, COSTS, target)
    assert COSTS.after(GROUPS, removed) <= target or all(
        len(removed[g.name]) == g.size - rounded(0, g.size) for g in GROUPS
    )
    for each in GROUPS:
        lost = set(removed.get(each.name, ()))
        assert each.size - len(lost) >= SHARE * each.size
        kept = set(range(each.size)) - lost
        worst = max((importance[each.name][c] for c in lost), default=0.0)
        assert all(importance[each.name][c] >= worst for c in kept)


@given(
    st.lists(st.sampled_from([0.0, 1e-30, 1.0]), min_size=200, max_size=200),
    st.floats(0.2, 1),
)
def test_equal_importance_removes_no_more_than_one_step_too_much(
    values: list[float], share: float
) -> None:
    groups = (group("a", 64, "one", "two"), group("b", 128, "two", "three"))
    reads, writes = {"one": 3, "two": 64, "three": 128}, {"one": 64, "two": 128, "three": 8}
    costs = replace(COSTS, reads=reads, writes=writes)
    target = 1000 * share
    removed = choose(groups, {"a": values[:64], "b": values[64:192]}, costs, target)
    left = costs.after(groups, removed)
    # One channel fewer, which is a step of 8 in one of the groups, would not do.
    steps = [costs.price(group) * 8 for group in groups]
    assert target - max(steps) <= left
    assert left <= target or all(len(removed[g.name]) == g.size - g.size // 8 for g in groups)


def test_equal_channels_go_from_all_groups_alike() -> None:
    groups = (group("a", 20, "one", "two"), group("b", 20, "one", "two"))
    costs = replace(COSTS, reads={**COSTS.reads, "two": 40}, writes={**COSTS.writes, "one": 40})
    removed = choose(groups, {"a": [0.0] * 20, "b": [0.0] * 20}, costs, 700)
    assert abs(len(removed["a"]) - len(removed["b"])) <= 1


def test_equal_channels_go_by_the_share_of_their_group_not_by_their_number() -> None:
    removed = choose(GROUPS, {"a": [0.0] * 16, "b": [0.0] * 24}, COSTS, 500)
    assert abs(len(removed["a"]) / 16 - len(removed["b"]) / 24) <= 1 / 16


def test_channels_that_cost_nothing_stay_and_cheap_ones_may_go() -> None:
    free = group("free", 16, "norm", "other norm")
    cheap = replace(COSTS, layers={"one": 8.0, "two": 0.0, "three": 4.0}, total=100.0)
    assert cheap.price(free) == 0 and cheap.price(GROUPS[0]) == 0.5
    importance = {"free": [0.0] * 16, "a": [1.0] * 16}
    removed = choose([free, GROUPS[0]], importance, cheap, 96.0)
    assert {name: len(channels) for name, channels in removed.items()} == {"a": 8}


def test_large_groups_keep_multiples_of_eight() -> None:
    assert [rounded(9, size) for size in (31, 32)] == [9, 16], "large from 32 channels on"
    assert [rounded(n, 96) for n in (0, 9, 50, 96)] == [16, 16, 56, 96]
    assert [rounded(n, 24) for n in (0, 9, 24)] == [3, 9, 24]
    assert rounded(99, 100) == 100
    assert rounded(0, 8) == 1
