from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from siamkit.comparison.arms import Arm
from siamkit.comparison.plan import Plan, Round
from siamkit.comparison.race import Stop, race, spent
from siamkit.comparison.results import ArmResult

ARMS = (Arm("still", trains=False), Arm("a"), Arm("b"), Arm("c"), Arm("d"))


def result(value, seconds=1.0, spread=0.0, seed=0, **others):
    """A result with a value of recall@1, in ten classes."""
    rng = np.random.default_rng(seed)
    totals = {str(c): (10, 10 * (value + spread * float(rng.normal()))) for c in range(10)}
    return ArmResult({"recall@1": totals}, {"recall@1": totals}, seconds, **others)


def plan(budget=None, folds=2, seeds=(0, 1, 2)):
    return Plan(ARMS, folds, seeds, budget=budget)


def results_of(values, rounds, **options):
    return {
        (arm, n): result(value, seed=100 * arm + n, **options)
        for arm, value in values.items()
        for n in range(rounds)
    }


EVEN = {0: 0.5, 1: 0.5, 2: 0.5, 3: 0.5, 4: 0.5}


def test_rounds_go_through_the_folds_of_each_seed():
    assert plan().rounds[:3] == (Round(0, 0), Round(0, 1), Round(1, 0))
    assert len(plan().rounds) == 6


def test_each_round_lacks_the_arms_without_a_result():
    assert race(plan(), {}).todo == (0, 1, 2, 3, 4)
    state = race(plan(), {(0, 0): result(0.5), (3, 0): result(0.5)})
    assert (state.round, state.todo) == (0, (1, 2, 4))
    state = race(plan(), results_of(EVEN, 6, spread=0.1))
    assert (state.round, state.todo, dict(state.stopped)) == (6, (), {})


def test_an_arm_that_is_clearly_worse_stops():
    values = EVEN | {3: 0.1}
    state = race(plan(), results_of(values, 4, spread=0.05))
    assert set(state.stopped) == {3}
    assert state.stopped[3].why == "hopeless"
    assert 3 not in state.todo
    assert 0 in state.todo, "networks without training are always compared"


def test_an_arm_stops_by_the_validation_images_and_not_by_the_held_out_ones():
    results = results_of(EVEN, 4, spread=0.05)
    worse = result(0.0)
    for n in range(4):
        good = results[3, n]
        results[3, n] = ArmResult(good.val, worse.test, 1.0)
        results[4, n] = ArmResult(worse.val, good.test, 1.0)
    assert set(race(plan(), results).stopped) == {4}


def test_arms_that_cannot_be_told_apart_all_go_on():
    values = EVEN | {1: 0.52, 4: 0.48}
    assert not race(plan(), results_of(values, 5, spread=0.2)).stopped


def test_a_short_budget_halves_the_arms():
    values = {0: 0.5, 1: 0.6, 2: 0.5, 3: 0.55, 4: 0.4}
    # One round takes 5 s, all six 30 s.
    state = race(plan(budget=22.0), results_of(values, 1))
    assert state.stopped == {2: Stop(1, "budget"), 4: Stop(1, "budget")}
    assert state.todo == (0, 1, 3)
    assert not race(plan(budget=40.0), results_of(values, 1)).stopped


@pytest.mark.parametrize(("budget", "stopped"), [(29.9, {3, 4}), (30.0, set())])
def test_a_budget_for_the_rest_with_the_networks_without_training_is_enough(budget, stopped):
    """A round takes 5 s, of which the network without training takes 1 s. The first equals stay."""
    assert set(race(plan(budget=budget), results_of(EVEN, 1)).stopped) == stopped


def test_of_three_arms_one_is_left_out():
    three = Plan(ARMS[:4], 2, (0, 1, 2), budget=16.0)
    state = race(three, results_of({0: 0.5, 1: 0.6, 2: 0.5, 3: 0.55}, 1))
    assert set(state.stopped) == {2} and state.todo == (0, 1, 3)


def test_a_round_that_just_fits_the_budget_is_trained():
    two = Plan(ARMS[:3], 2, (0, 1, 2), budget=9.0)  # a round takes 3 s
    results = results_of({0: 0.5, 1: 0.5, 2: 0.5}, 2)
    assert race(two, results).todo == (0, 1, 2)


def test_two_arms_are_not_halved_but_the_comparison_ends_with_the_budget():
    two = Plan(ARMS[:3], 2, (0, 1, 2), budget=8.0)
    results = results_of({0: 0.5, 1: 0.5, 2: 0.5}, 2)
    state = race(two, results)
    assert (state.over_budget, state.todo, state.round) == (True, (), 2)
    assert not state.stopped


def test_runs_of_a_round_that_are_there_count_as_what_they_took():
    two = Plan(ARMS[:3], 2, (0, 1, 2), budget=37.0)
    results = results_of({0: 0.5, 1: 0.5, 2: 0.5}, 2, seconds=5.0)  # 30 s
    assert race(two, results).over_budget
    some = results | {(0, 2): result(0.5, 0.5, filling=0.5), (1, 2): result(0.5, 1.0)}
    state = race(two, some)
    assert (state.todo, state.over_budget) == ((2,), False), "30 s, 2 s, and 5 s for the last run"
    assert race(replace(two, budget=36.9), some).over_budget


def test_a_round_that_has_begun_within_the_budget_is_finished():
    two = Plan(ARMS[:3], 2, (0, 1, 2), budget=45.0)
    results = results_of({0: 0.5, 1: 0.5, 2: 0.5}, 2, seconds=5.0)
    assert race(two, results).todo == (0, 1, 2)
    slow = results | {(0, 2): result(0.5, seconds=90.0)}
    assert (race(two, slow).todo, race(two, slow).over_budget) == ((1, 2), False)
    whole = slow | {(arm, 2): result(0.5, seconds=5.0) for arm in (1, 2)}
    assert race(two, whole).over_budget, "the next round does not fit"


def test_the_first_round_is_trained_whatever_the_budget():
    state = race(plan(budget=0.1), {(0, 0): result(0.5, seconds=50.0)})
    assert state.todo == (1, 2, 3, 4)
    assert not state.over_budget


def test_an_arm_whose_training_failed_is_left_out():
    results = results_of(EVEN, 2, spread=0.1)
    results[2, 0] = ArmResult(failed="the loss is NaN")
    del results[2, 1]
    state = race(plan(), results)
    assert state.stopped == {2: Stop(1, "failed")}
    assert 2 not in state.todo


@pytest.mark.parametrize("budget", [None, 30.0, 60.0])
def test_what_happened_later_does_not_change_what_was_decided(budget):
    values = {0: 0.5, 1: 0.62, 2: 0.5, 3: 0.58, 4: 0.3}
    every = results_of(values, 6, spread=0.1)
    stopped = race(plan(budget), {u: r for u, r in every.items() if u[1] < 1}).stopped
    every = {(arm, n): r for (arm, n), r in every.items() if arm not in stopped or n < 1}
    for rounds in range(1, 6):
        known = {unit: r for unit, r in every.items() if unit[1] < rounds}
        early, late = race(plan(budget), known).stopped, race(plan(budget), every).stopped
        assert {a: s for a, s in late.items() if s.rounds <= rounds} == early


def test_features_that_are_computed_once_are_not_expected_again():
    # Six runs take 5 s each in a round; the features of the first round take 300 s more.
    results = results_of(EVEN, 1, seconds=5.0) | {(0, 0): result(0.5, 5.0, filling=300.0)}
    assert not race(plan(budget=460.0), results).stopped, "6 rounds take 150 s, and 300 s are over"
    assert race(plan(budget=440.0), results).stopped
    # Each new seed needs some features of its own, as the latest round shows.
    results = results_of(EVEN, 2, seconds=5.0, filling=4.0)
    assert not race(plan(budget=271.0), results).stopped, "4 rounds of 45 s after 90 s"
    assert len(race(plan(budget=269.0), results).stopped) == 2
    assert not race(plan(budget=118.0), results).over_budget, "27 s for the three that are left"
    assert race(plan(budget=116.0), results).over_budget


def test_a_budget_that_is_given_later_leaves_out_no_arm_whose_runs_are_there():
    values = {0: 0.5, 1: 0.6, 2: 0.5, 3: 0.55, 4: 0.4}
    assert not race(plan(budget=22.0), results_of(values, 6, spread=0.2)).stopped
    assert set(race(plan(budget=22.0), results_of(values, 1)).stopped) == {2, 4}
    half = results_of(values, 1) | {(2, 1): result(0.5)}
    assert set(race(plan(budget=22.0), half).stopped) == {4}


def test_the_features_count_for_the_budget():
    results = {(0, 0): result(0.5, filling=4.0), (0, 1): result(0.5, filling=1.0)}
    assert spent(results, 1) == 5.0
    assert spent(results, 2) == 7.0
