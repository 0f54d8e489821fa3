from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from siamkit.freezing.planner import AUTO_VIEWS, WORTHWHILE, Costs, Work, decide, views_for

COSTS = Costs(decode=0.003, prefix=0.05, suffix=0.001, row_bytes=8192)
WORK = Work(epochs=10, visits=512, held_out=64, rows=576, missing=576)
ROOM = 10**12


def test_many_epochs_over_few_rows_are_cached():
    decision = decide(WORK, COSTS, budget=ROOM, free=ROOM, wanted="auto")
    assert decision.mode == "cached" and decision.live > 5 * decision.cached


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
    assert decide(work, costs, budget=0, free=0, wanted="always").mode == "cached"
    assert decide(work, costs, budget=ROOM, free=ROOM, wanted="off").mode == "live"
    auto = decide(work, costs, budget=ROOM, free=ROOM, wanted="auto")
    assert (auto.mode == "cached") == (auto.live - auto.cached >= WORTHWHILE)


def test_views_follow_the_config_then_the_budget():
    assert views_for(3, 100, 10, ROOM) == 3
    assert views_for(None, 100, None, ROOM) is None
    assert views_for(None, 100, 10, ROOM) == AUTO_VIEWS
    assert views_for(None, 100, 10, 4 * 1000) == 4
    assert views_for(None, 100, 10, 1999) is None
