"""Equal times: gives cheap arms more epochs, so that all arms take about equally long."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from siamkit.comparison.arms import Arm
from siamkit.comparison.directory import ComparisonDir
from siamkit.comparison.plan import Plan
from siamkit.comparison.race import Results, spent
from siamkit.comparison.unit import config_of
from siamkit.config import RunConfig
from siamkit.registry import Registry
from siamkit.words import plural

_MOST = 20
"""The most times the epochs of the base config that an arm gets."""


def first_round(plan: Plan) -> Plan:
    """Return the plan of a comparison of one round, in which all arms see equally many images."""
    arms = tuple(replace(arm, name=f"{arm.name} (to measure the time)") for arm in plan.arms)
    # Every budget lets the first round through, and a tiny one nothing else.
    return replace(plan, arms=arms, equal="images", budget=1e-9, tuned={})


def with_equal_times(
    plan: Plan, base: RunConfig, registries: Mapping[str, Registry], results: Results
) -> Plan:
    """Return the plan with epochs for each trained arm, such that all take about equally long.

    The first round counts for the budget. The slowest arm keeps its epochs. The seconds of an arm
    are those of its first round without the features, which all arms share, and without what a
    network without training takes too.

    Args:
        plan: The plan.
        base: The config of all arms.
        registries: The registry of each component section.
        results: The results of :func:`first_round`.
    """
    done = [i for i in range(len(plan.arms)) if results[i, 0].failed is None]
    start = min((results[i, 0].seconds for i in done if not plan.arms[i].trains), default=0.0)
    trained = [i for i in done if plan.arms[i].trains and results[i, 0].epochs]
    costs = {i: max(results[i, 0].seconds - start, 1e-3) for i in trained}
    longest = max(costs.values(), default=0.0)

    def lengthened(number: int, arm: Arm) -> Arm:
        if number not in costs:
            return arm
        epochs = config_of(base, registries, arm).train.epochs
        more = round(epochs * min(longest / costs[number], _MOST))
        return replace(arm, values={**arm.values, "train.epochs": max(more, epochs)})

    budget = plan.budget
    if budget is not None:  # at least a moment, which no round but the first fits
        budget = max(budget - spent(results, 1), 1e-9)
    arms = tuple(lengthened(i, arm) for i, arm in enumerate(plan.arms))
    return replace(plan, arms=arms, budget=budget)


def forget_other_lengths(
    plan: Plan, base: RunConfig, registries: Mapping[str, Registry], place: ComparisonDir
) -> list[str]:
    """Remove the results of runs that had other epochs than those of the plan.

    A run that failed while the times were measured is measured again when the command is repeated.
    With its time, other arms may get other epochs than before.

    Args:
        plan: The plan of :func:`with_equal_times`.
        base: The config of all arms.
        registries: The registry of each component section.
        place: The directory of the comparison.

    Returns:
        Notices about the removed results.
    """
    notices = []
    results = place.done(plan)
    for number, arm in enumerate(plan.arms):
        if not arm.trains:
            continue
        epochs = config_of(base, registries, arm).train.epochs
        others = [u for u, r in results.items() if u[0] == number and r.planned != epochs]
        for unit in others:
            place.forget(unit)
        if others:
            was = "was" if len(others) == 1 else "were"
            notices.append(
                f"{arm.name!r} trains for {plural(epochs, 'epoch')}, because the times were "
                f"measured again: {plural(len(others), 'earlier run')} of another length {was} "
                "removed"
            )
    return notices
