from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from siamkit.engine.planner import AUTO_VIEWS, WORTHWHILE, Costs, Work, decide, place

COSTS = Costs(decode=0.003, prefix=0.05, suffix=0.001, row_bytes=8192)
WORK = Work(epochs=10, visits=512, held_out=64, rows=576, missing=576)
ROOM = 10**12


def test_many_epochs_over_few_rows_are_cached():
    decision = decide(WORK, COSTS, budget=ROOM, free=ROOM, wanted="auto")
    assert decision.mode == "cached" and decision.live > 5 * decision.cached


def test_the_estimates_are_the_sums_of_their_parts():
    plan = decide(WORK, COSTS, budget=ROOM, free=ROOM, wanted="off")
    training = 10 * 512 * 0.001
    assert plan.live == pytest.approx(10 * (512 + 64) * 0.053 + training)
    gigabyte = Work(epochs=2, visits=3, held_out=1, rows=5, missing=4)
    plan = decide(gigabyte, Costs(0.5, 0.25, 0.125, 10**9), budget=0, free=0, wanted="off")
    assert plan.live == 8 * 0.75 + 6 * 0.125
    # A gigabyte is written in 4 s and read in 1.25 s. Each row is checked once, and read per use.
    assert plan.cached == pytest.approx(4 * (0.75 + 4) + (5 + 8) * 1.25 + 6 * 0.125)
    assert plan.bytes == 5 * 10**9


def test_one_epoch_of_new_views_is_live():
    once = Work(epochs=1, visits=512, held_out=64, rows=576, missing=576)
    assert decide(once, COSTS, budget=ROOM, free=ROOM, wanted="auto").mode == "live"


def test_a_cache_over_its_budget_or_the_disk_is_not_filled():
    size = WORK.rows * COSTS.row_bytes
    assert decide(WORK, COSTS, budget=size - 1, free=ROOM, wanted="auto").mode == "live"
    assert decide(WORK, COSTS, budget=ROOM, free=size - 1, wanted="auto").mode == "live"
    assert decide(WORK, COSTS, budget=size, free=size, wanted="auto").mode == "cached"


@given(st.integers(1, 50), st.integers(1, 10_000), st.floats(1e-5, 1), st.integers(0, 10_000))
def test_what_is_asked_for_is_done_and_auto_saves_time(epochs, visits, prefix, missing):
    work = Work(epochs, visits, 0, max(visits, missing), missing)
    costs = Costs(0.001, prefix, 0.001, 4096)
    assert decide(work, costs, budget=ROOM, free=0, wanted="always").mode == "cached"
    assert decide(work, costs, budget=0, free=ROOM, wanted="always").mode == "live"
    assert decide(work, costs, budget=ROOM, free=ROOM, wanted="off").mode == "live"
    auto = decide(work, costs, budget=ROOM, free=ROOM, wanted="auto")
    assert (auto.mode == "cached") == (auto.live - auto.cached >= WORTHWHILE)


def test_the_deepest_boundary_that_fits_is_taken_with_the_views_that_are_wanted():
    assert place([10, 40], 100, 0, 20, 3, ROOM) == (0, 3)
    assert place([10, 40], 100, 0, 20, None, ROOM) == (0, AUTO_VIEWS)


def test_a_shallower_boundary_is_taken_where_its_rows_are_small_enough():
    assert place([40, 10], 100, 0, 20, None, 40 * 100 * AUTO_VIEWS) == (0, AUTO_VIEWS)
    assert place([40, 10], 100, 0, 20, None, 40 * 100 * AUTO_VIEWS - 1) == (1, AUTO_VIEWS)
    assert place([40, 10, 10], 100, 1, 20, None, 40 * 100 * AUTO_VIEWS) == (1, AUTO_VIEWS)


def test_as_many_views_as_fit_anywhere_but_never_a_single_one():
    assert place([20, 10], 100, 0, 20, None, 4 * 1000) == (1, 4)
    assert place([10], 100, 0, 20, None, 1999) == (0, None)
    assert place([10], 100, 0, 20, 6, 1999) == (0, 6), "what is asked for is not changed"


def test_a_phase_shorter_than_the_views_needs_no_more_than_its_epochs():
    assert place([10], 100, 0, 2, None, 2000) == (0, AUTO_VIEWS)
    assert place([10], 100, 1, 2, None, 2000) == (0, None)


@given(
    st.lists(st.integers(1, 10**6), min_size=1, max_size=6),
    st.integers(2, 10**5),
    st.integers(0, 10**4),
    st.integers(1, 100),
    st.none() | st.integers(1, 50),
    st.integers(0, 10**12),
)
def test_what_is_placed_fits_or_nothing_does(sizes, images, held, epochs, wanted, budget):
    index, views = place(sizes, images, held, epochs, wanted, budget)
    rows = images * min(views or epochs, epochs) + held
    if wanted is None and views is not None:
        assert sizes[index] * rows <= budget
    assert wanted is None or views == wanted
    if index:
        assert sizes[index] < sizes[0], "a shallower boundary is only worth it for its size"
