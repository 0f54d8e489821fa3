from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from siamkit.errors import ConfigError, PluginError
from siamkit.freezing.schedule import FreezeSchedule, status
from siamkit.guard import guard
from siamkit.interfaces import FreezePlan, FreezePolicy, Progress, Stage

STAGES = (
    Stage("stem", ("b.w", "b.bn"), norms=frozenset({"b.bn"})),
    Stage("top", ("t.w", "t.bn"), norms=frozenset({"t.bn"})),
    Stage("head", ("head.w", "head.bn"), norms=frozenset({"head.bn"})),
)
SIZES = {"b.w": 10, "b.bn": 2, "t.w": 20, "t.bn": 4, "head.w": 5, "head.bn": 1}


class Fixed(FreezePolicy):
    def __init__(self, *plans: FreezePlan) -> None:
        self.plans = plans

    def plan(self, stages: Sequence[Stage], progress: Progress) -> FreezePlan:
        return self.plans[min(progress.epoch, len(self.plans) - 1)]


HEAD_ONLY = FreezePlan.of(STAGES, [])
TOP = FreezePlan.of(STAGES, ["top"], lr_mult={"top": 0.1})


def test_equal_consecutive_plans_are_one_phase() -> None:
    found = FreezeSchedule(Fixed(HEAD_ONLY, HEAD_ONLY, TOP), STAGES, 5).phases()
    assert [(p.start_epoch, p.end_epoch) for p in found] == [(0, 2), (2, 5)]
    assert [p.plan for p in found] == [HEAD_ONLY, TOP]


def test_a_plan_that_comes_back_is_a_phase_of_its_own() -> None:
    found = FreezeSchedule(Fixed(HEAD_ONLY, TOP, HEAD_ONLY), STAGES, 3).phases()
    assert [p.plan for p in found] == [HEAD_ONLY, TOP, HEAD_ONLY]
    assert [(p.start_epoch, p.end_epoch) for p in found] == [(0, 1), (1, 2), (2, 3)]


def test_status_tells_what_trains_at_which_rate_and_where_gradients_flow() -> None:
    stem, top, head = status(STAGES, TOP, SIZES)
    assert (stem.parameters, stem.trainable, stem.norm, stem.lr_mult) == (12, 0, "frozen", 0.0)
    assert not stem.needs_backward
    assert (top.trainable, top.norm, top.lr_mult, top.needs_backward) == (24, "affine", 0.1, True)
    assert (head.trainable, head.norm, head.lr_mult) == (6, "train", 1.0)


def test_a_trainable_stage_below_a_frozen_one_needs_backward_through_both() -> None:
    stem, top, _ = status(STAGES, FreezePlan.of(STAGES, ["stem"]), SIZES)
    assert stem.needs_backward and top.needs_backward and not top.trainable


def test_one_trainable_value_needs_a_backward_pass() -> None:
    stem, top, _ = status(STAGES, FreezePlan.of(STAGES, ["stem"]), {**SIZES, "b.w": 1, "b.bn": 0})
    assert stem.trainable == 1
    assert stem.needs_backward and top.needs_backward


def test_norm_frozen_takes_the_norm_parameters_out_but_leaves_the_head_alone() -> None:
    policy = Fixed(FreezePlan.of(STAGES, ["top"], norm="frozen"))
    plan = FreezeSchedule(policy, STAGES, 1).plan_at(0)
    assert plan.trainable == {"t.w", "head.w", "head.bn"}


@pytest.mark.parametrize(
    ("plan", "message"),
    [
        (FreezePlan(frozenset({"nope"})), "parameter that no stage has, got 'nope'"),
        (FreezePlan(frozenset({"x", "b", "t.w"})), "parameter that no stage has, got 'b'"),
        (FreezePlan(frozenset(), {"y": 1.0, "top": 1.0, "x": 1.0}), "unknown stage, got 'x'"),
        (FreezePlan(frozenset(), {"top": float("inf")}), "'top' must be finite and >= 0, got inf"),
        (FreezePlan(frozenset(), {"top": "fast"}), "'top' must be finite and >= 0, got 'fast'"),
        (
            FreezePlan(frozenset(), norm="off"),
            "plan has an unknown norm mode, got 'off', allowed: ",
        ),
        (FreezePlan(frozenset(), {"nope": 1.0}), "rate for an unknown stage, got 'nope'"),
        (FreezePlan(frozenset(), {"top": -1.0}), "'top' must be finite and >= 0, got -1.0"),
        (FreezePlan(frozenset(), {"top": float("nan")}), "must be finite"),
    ],
)
def test_a_plan_that_does_not_fit_the_stages_is_the_plugins_fault(
    plan: FreezePlan, message: str
) -> None:
    with pytest.raises(PluginError, match=message):
        FreezeSchedule(Fixed(plan), STAGES, 1).plan_at(0)


def test_a_policy_that_returns_no_plan_is_told() -> None:
    with pytest.raises(PluginError, match="freeze policy 'Fixed': plan must return a FreezePlan"):
        FreezeSchedule(Fixed(None), STAGES, 1).plan_at(0)  # type: ignore[arg-type]


def test_a_policy_sees_the_epochs_that_are_over_and_no_more() -> None:
    seen: list[Progress] = []

    class Watching(FreezePolicy):
        def plan(self, stages: Sequence[Stage], progress: Progress) -> FreezePlan:
            seen.append(progress)
            return HEAD_ONLY

    history = [{"recall@1": 0.1}, {"recall@1": 0.2}, {"recall@1": 0.3}]
    FreezeSchedule(Watching(), STAGES, 4).plan_at(2, history)
    progress = seen[0]
    assert (progress.epoch, progress.epochs, progress.fraction) == (2, 4, 0.5)
    assert progress.monitored == (0.1, 0.2)


def test_an_unknown_stage_lists_what_exists() -> None:
    with pytest.raises(
        ConfigError, match=r"got 'tpo', allowed: stem, top, head; did you mean 'top'"
    ):
        FreezePlan.of(STAGES, ["tpo"])


def test_a_run_in_which_nothing_trains_is_refused() -> None:
    nothing = FreezePlan(frozenset())
    schedule = FreezeSchedule(Fixed(HEAD_ONLY, nothing), STAGES, 3, name="mine")
    with pytest.raises(
        ConfigError, match=r"nothing would train in epochs 2-3: policy 'mine' freezes every stage"
    ):
        schedule.require_trainable(schedule.phases())
    trains = FreezeSchedule(Fixed(HEAD_ONLY), STAGES, 3)
    trains.require_trainable(trains.phases())


@pytest.mark.parametrize(
    ("stages", "told"),
    [
        (STAGES, "freezes every stage (stem, top, head)"),
        (STAGES[:2], "freezes every stage (stem, top) and the head has no parameters"),
    ],
)
def test_a_head_without_parameters_is_said_to_have_none(
    stages: tuple[Stage, ...], told: str
) -> None:
    schedule = FreezeSchedule(Fixed(FreezePlan(frozenset())), stages, 2, name="mine")
    with pytest.raises(ConfigError) as caught:
        schedule.require_trainable(schedule.phases())
    assert caught.value.what == f"nothing would train in epochs 1-2: policy 'mine' {told}"


def test_a_rate_of_zero_is_valid() -> None:
    plan = FreezePlan.of(STAGES, ["top"], lr_mult={"top": 0.0})
    assert FreezeSchedule(Fixed(plan), STAGES, 1).plan_at(0) == plan


def test_a_policy_that_gives_two_plans_for_the_same_arguments_is_refused() -> None:
    class Forgetful(FreezePolicy):
        """Counts its own calls."""

        calls = 0

        def plan(self, stages: Sequence[Stage], progress: Progress) -> FreezePlan:
            self.calls += 1
            return HEAD_ONLY if self.calls < 4 else TOP

    schedule = FreezeSchedule(Forgetful(), STAGES, 3, name="mine")
    with pytest.raises(
        PluginError, match=r"'mine'.* two different plans .* in epoch 2.* pure function"
    ):
        schedule.phases()


def test_the_epoch_at_which_a_stage_was_unfrozen_counts_the_last_time() -> None:
    schedule = FreezeSchedule(Fixed(HEAD_ONLY, TOP, HEAD_ONLY, TOP, TOP), STAGES, 5)
    assert [schedule.unfrozen_at(epoch) for epoch in range(5)] == [
        {}, {"top": 1}, {}, {"top": 3}, {"top": 3},
    ]  # fmt: skip
    assert schedule.span_at(4) == range(3, 5)


def test_a_span_goes_on_while_the_same_parameters_train_in_the_same_mode() -> None:
    rates = [replace(TOP, lr_mult={"top": 1 / n}) for n in (1, 2, 2)]
    plans = [HEAD_ONLY, *rates, replace(TOP, norm="train"), TOP]
    schedule = FreezeSchedule(Fixed(*plans), STAGES, 7)
    spans = [range(1), range(1, 4), range(4, 5), range(5, 7)]
    assert [schedule.span_at(e) for e in range(7)] == [span for span in spans for _ in span]
    assert len(schedule.phases()) == 5


class ByTheLastMetric(FreezePolicy):
    """Trains the top in the epoch after a good one, and counts how often it is asked."""

    metric_driven = True

    def __init__(self) -> None:
        self.calls = 0

    def plan(self, stages: Sequence[Stage], progress: Progress) -> FreezePlan:
        self.calls += 1
        return TOP if progress.history and progress.history[-1]["m"] > 0.5 else HEAD_ONLY


metrics = st.lists(st.sampled_from([0.0, 1.0]).map(lambda value: {"m": value}), max_size=5)


@given(st.lists(st.tuples(st.integers(0, 5), metrics), max_size=6))
def test_earlier_questions_dont_change_when_a_stage_was_unfrozen(
    questions: list[tuple[int, list[Mapping[str, float]]]],
) -> None:
    asked = FreezeSchedule(ByTheLastMetric(), STAGES, 6)
    for epoch, history in questions:
        new = FreezeSchedule(ByTheLastMetric(), STAGES, 6)
        assert asked.unfrozen_at(epoch, history) == new.unfrozen_at(epoch, history)


def test_metrics_that_were_changed_in_place_are_read_again() -> None:
    schedule, history = FreezeSchedule(ByTheLastMetric(), STAGES, 3), [{"m": 0.0}]
    assert schedule.unfrozen_at(1, history) == {}
    history[0]["m"] = 1.0
    assert schedule.unfrozen_at(1, history) == {"top": 1}


def test_a_policy_whose_state_grows_during_a_run_is_caught() -> None:
    class Growing(FreezePolicy):
        """Trains the top from the first question about the third epoch on."""

        calls = 0

        def plan(self, stages: Sequence[Stage], progress: Progress) -> FreezePlan:
            self.calls += progress.epoch == 2
            return TOP if self.calls else HEAD_ONLY

    schedule = FreezeSchedule(guard(Growing(), "policy 'mine'"), STAGES, 5)
    with pytest.raises(PluginError, match=r"'mine': plan returned different plans for epoch 1 "):
        for epoch in range(5):
            schedule.unfrozen_at(epoch)


def test_each_epoch_of_a_long_run_asks_for_a_few_plans_only() -> None:
    policy = ByTheLastMetric()
    schedule, history = FreezeSchedule(policy, STAGES, 50), []
    for epoch in range(50):
        schedule.unfrozen_at(epoch, history)
        schedule.unfrozen_at(epoch, history)
        history.append({"m": epoch % 2})
    assert policy.calls == 2 * (50 + 2 * 50)  # its own plan and the first, each twice


@pytest.mark.parametrize("policy", [lambda stages, progress: TOP, Fixed, "lp-ft", None])
def test_what_is_no_policy_is_refused_with_the_way_to_make_one(policy: Any) -> None:
    with pytest.raises(ConfigError, match=r"policy: is not a siamkit\.FreezePolicy.*create_policy"):
        FreezeSchedule(policy, STAGES, 3)


@pytest.mark.parametrize("epochs", [-1, 2.5, "3", None, True])
def test_what_is_no_number_of_epochs_is_refused(epochs: Any) -> None:
    with pytest.raises(ConfigError, match="epochs: must be a whole number"):
        FreezeSchedule(Fixed(TOP), STAGES, epochs)


@pytest.mark.parametrize("epoch", [-1, 3])
def test_an_epoch_outside_the_run_has_no_phase(epoch: int) -> None:
    with pytest.raises(ConfigError, match=f"no such epoch, got {epoch}, allowed: 0 to 2"):
        FreezeSchedule(Fixed(TOP), STAGES, 3).span_at(epoch)
