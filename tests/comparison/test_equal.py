from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from siamkit import api
from siamkit.comparison.arms import Arm
from siamkit.comparison.directory import ComparisonDir
from siamkit.comparison.equal import first_round, forget_other_lengths, with_equal_times
from siamkit.comparison.plan import Plan
from siamkit.comparison.results import ArmResult

ARMS = (Arm("still", trains=False), Arm("slow"), Arm("quick"), Arm("tiny"), Arm("broken"))


@pytest.fixture
def plan() -> Plan:
    return Plan(ARMS, equal="time", tuned={"optimizer.lr": (1, 2)}, budget=99.0)


def lengths(plan: Plan, seconds: dict[int, float]) -> dict[str, int | None]:
    base = api.load_config({"train": {"epochs": 10}})
    results = {(i, 0): ArmResult(seconds=s, epochs=0 if i == 0 else 10) for i, s in seconds.items()}
    results[4, 0] = ArmResult(failed="no")
    found = with_equal_times(plan, base, api.registries(), results)
    return {arm.name: arm.values.get("train.epochs") for arm in found.arms}


def test_the_slowest_arm_keeps_its_epochs_and_the_others_get_more(plan: Plan) -> None:
    assert lengths(plan, {0: 2.0, 1: 12.0, 2: 7.0, 3: 2.0}) == {
        "still": None, "slow": 10, "quick": 20, "tiny": 200, "broken": None,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("budget", "left"), [(99.0, 72.0), (27.0, 1e-9), (5.0, 1e-9), (None, None)]
)
def test_the_round_that_tells_the_times_counts_for_the_budget(
    plan: Plan, budget: float | None, left: float | None
) -> None:
    base = api.load_config({"train": {"epochs": 10}})
    seconds = {0: 2.0, 1: 12.0, 2: 7.0, 3: 2.0}
    results = {(i, 0): ArmResult(seconds=s, epochs=10) for i, s in seconds.items()}
    results[4, 0] = ArmResult(failed="no", seconds=3.0, filling=1.0)
    found = with_equal_times(replace(plan, budget=budget), base, api.registries(), results)
    assert found.budget == left


def test_a_network_without_training_that_failed_tells_no_time() -> None:
    plan = Plan((Arm("still", trains=False), *ARMS[:3]), equal="time")
    base = api.load_config({"train": {"epochs": 10}})
    seconds = {1: 2.0, 2: 12.0, 3: 7.0}
    results = {(i, 0): ArmResult(seconds=s, epochs=10 * (i > 1)) for i, s in seconds.items()}
    results[0, 0] = ArmResult(failed="its stages cannot be read")
    found = with_equal_times(plan, base, api.registries(), results)
    assert [arm.values.get("train.epochs") for arm in found.arms] == [None, None, 10, 20]


def test_an_arm_without_epochs_is_not_lengthened(plan: Plan) -> None:
    base = api.load_config({"train": {"epochs": 10}})
    results = {(i, 0): ArmResult(seconds=float(i), epochs=10 * (i != 2)) for i in range(5)}
    found = with_equal_times(plan, base, api.registries(), results)
    assert [arm.values.get("train.epochs") for arm in found.arms] == [None, 40, None, 13, 10]


def test_without_an_untrained_network_all_of_the_time_counts() -> None:
    plan = Plan(ARMS[1:3], equal="time")
    base = api.load_config({"train": {"epochs": 10}})
    results = {(0, 0): ArmResult(seconds=9.0, epochs=10), (1, 0): ArmResult(seconds=6, epochs=10)}
    found = with_equal_times(plan, base, api.registries(), results)
    assert [arm.values["train.epochs"] for arm in found.arms] == [10, 15]


def test_results_of_other_lengths_are_forgotten_and_told(tmp_path: Path) -> None:
    """Patience may have left out epochs, and a network without training has none."""
    plan = Plan((ARMS[0], Arm("slow"), Arm("quick", {"train.epochs": 40}), Arm("new")), 2, (0,))
    base, place = api.load_config({"train": {"epochs": 10}}), ComparisonDir(tmp_path)
    kept = {
        (0, 0): ArmResult(), (0, 1): ArmResult(), (1, 0): ArmResult(planned=10, epochs=7),
        (1, 1): ArmResult(planned=10, failed="the loss is NaN"),
        (2, 1): ArmResult(planned=40, epochs=40),
    }  # fmt: skip
    others = {
        (2, 0): ArmResult(planned=10, epochs=10), (3, 0): ArmResult(planned=20, epochs=10),
        (3, 1): ArmResult(planned=20, failed="the loss is NaN"),
    }  # fmt: skip
    for unit, result in {**kept, **others}.items():
        place.keep(unit, result)
    notices = forget_other_lengths(plan, base, api.registries(), place)
    assert place.done(plan) == ComparisonDir(tmp_path).done(plan) == kept
    assert notices == [
        "'quick' trains for 40 epochs, because the times were measured again: 1 earlier run of "
        "another length was removed",
        "'new' trains for 10 epochs, because the times were measured again: 2 earlier runs of "
        "another length were removed",
    ]
    assert forget_other_lengths(plan, base, api.registries(), place) == []


def test_the_first_round_has_equal_images_and_tunes_nothing(plan: Plan) -> None:
    first = first_round(plan)
    assert (first.equal, first.tuned) == ("images", {})
    assert first.budget is not None and first.budget < 1e-6
