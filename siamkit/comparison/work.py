"""The work of a comparison: one process, or several, train the runs that the race still needs."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean

from siamkit.comparison.directory import ComparisonDir, Unit
from siamkit.comparison.intervals import mean
from siamkit.comparison.plan import Plan, Round
from siamkit.comparison.race import Race, Results, race, spent, typical
from siamkit.comparison.results import ArmResult
from siamkit.comparison.unit import FAILURES, place_of, run_arm, variant_of
from siamkit.config import RunConfig
from siamkit.data.memory import TABLE
from siamkit.errors import Interrupted, NoMemoryError, PluginError
from siamkit.portable.signals import interrupted, sigterm_raises
from siamkit.registry import Registry
from siamkit.runs.events import Listener

_WAIT = 0.5  # seconds between looks at what other processes have finished


@dataclass(frozen=True)
class Work:
    """The comparison that the processes work on.

    Attributes:
        plan: The plan.
        base: The config of all arms, with the place of the data.
        path: The directory of the comparison.
        tables: The folder of the table of each round's images.
        root: The folder that the paths in the tables are relative to.
        again: How the user continues a comparison that was stopped.
        processes: The number of processes that share the work, for estimates.
    """

    plan: Plan
    base: RunConfig
    path: Path
    tables: Mapping[Round, Path]
    root: Path
    again: str
    processes: int = 1


@dataclass(frozen=True)
class Helpers:
    """Other processes that take part in the work.

    Attributes:
        count: Their number.
        started: Given their number and the work, returns a context in which they work, with a list
            that is filled with notices at its end.
    """

    count: int
    started: Callable[[int, Work], AbstractContextManager[list[str]]]


@dataclass(frozen=True)
class Step:
    """The progress of a comparison: before a run, after it, or while others finish the round.

    Attributes:
        arm: The name of the run's arm.
        round: The number of the round, from 1.
        rounds: The number of all rounds.
        result: The result; None before the run.
        ahead: The estimated seconds until the end; None while it is not known.
        waiting: Whether another process trains the run, and this process waits for its result.
    """

    arm: str
    round: int
    rounds: int
    result: ArmResult | None
    ahead: float | None
    waiting: bool = False

    @property
    def means(self) -> dict[str, float]:
        """The metrics of the result on the held-out fold; empty before the run."""
        if self.result is None:
            return {}
        return {name: mean([totals]) for name, totals in self.result.test.items()}


Watch = Callable[[Step], None]


def work(
    job: Work,
    registries: Mapping[str, Registry],
    place: ComparisonDir,
    watch: Watch = lambda step: None,
    listeners: Sequence[Listener] = (),
    *,
    all_told: bool = False,
) -> tuple[Results, Race]:
    """Train runs until the race is over; other processes may do the same.

    Args:
        job: The comparison.
        registries: The registry of each component section, and of ``track``.
        place: The directory of the comparison.
        watch: Called before and after each run, and when this process begins to wait for a run
            of another process.
        listeners: Called with the events of the runs.
        all_told: Whether ``watch`` is called after the runs of other processes too.

    Returns:
        All results, and the state at the end.

    Raises:
        SiamkitError: The disk is full, a result is damaged, or the work was stopped.
    """
    try:
        with sigterm_raises():  # a run itself stops at the end of a step
            return _worked(job, registries, place, watch, listeners, all_told)
    except KeyboardInterrupt as error:
        raise interrupted(error, hint=job.again) from None


def _worked(
    job: Work,
    registries: Mapping[str, Registry],
    place: ComparisonDir,
    watch: Watch,
    listeners: Sequence[Listener],
    all_told: bool,
) -> tuple[Results, Race]:
    plan = job.plan
    told, waits = set(place.done(plan)), None
    while True:
        results = place.done(plan)
        state = race(plan, results)
        for unit in sorted(results.keys() - told, key=lambda unit: unit[::-1]):
            told.add(unit)
            if all_told:
                step = replace(_step(job, state, results, unit[0]), round=unit[1] + 1)
                watch(replace(step, result=results[unit]))
        if not state.todo:
            return results, state
        done = _next(job, registries, state, results, place, watch, listeners)
        if done is not None:
            told.add(done)
            continue
        unit = state.todo[0], state.round
        if unit != waits and not all_told:
            watch(replace(_step(job, state, results, unit[0]), waiting=True))
            waits = unit
        time.sleep(_WAIT)


def _next(
    job: Work,
    registries: Mapping[str, Registry],
    state: Race,
    results: Results,
    place: ComparisonDir,
    watch: Watch,
    listeners: Sequence[Listener],
) -> Unit | None:
    """Train the first run that no other process trains, and return it; None if there is none."""
    plan = job.plan
    for arm in state.todo:
        unit = arm, state.round
        with place.claimed(unit) as mine:
            if not mine:
                continue
            step = _step(job, state, results, arm)
            watch(step)
            result = _trained(job, registries, place, unit, listeners)
            place.keep(unit, result)
            known = {**results, unit: result}
            watch(replace(step, result=result, ahead=_ahead(job, race(plan, known), known)))
            return unit
    return None


def _trained(
    job: Work,
    registries: Mapping[str, Registry],
    place: ComparisonDir,
    unit: Unit,
    listeners: Sequence[Listener],
) -> ArmResult:
    arm, turn = job.plan.arms[unit[0]], job.plan.rounds[unit[1]]
    variants = job.plan.variants_of(arm)
    configs = [
        variant_of(
            job.plan, job.base, registries, arm, values,
            place=place_of(job.tables[turn] / TABLE, job.root, turn, place.run(unit, number)),
        )
        for number, values in enumerate(variants)
    ]  # fmt: skip
    planned = configs[0].train.epochs  # the same for all variants, if times shall be equal
    begun = time.perf_counter()
    try:
        result = run_arm(configs, variants, registries, job.plan.metric, listeners)
        return replace(result, planned=planned)
    except FAILURES as error:
        # Its time counts for the budget too.
        mendable = isinstance(error, NoMemoryError | PluginError)
        seconds = time.perf_counter() - begun
        return ArmResult(seconds=seconds, planned=planned, failed=str(error), mendable=mendable)
    except Interrupted as error:
        what = f"the comparison was stopped: {error.what}"
        raise Interrupted(what, exit_code=error.exit_code, hint=job.again) from None


def _step(job: Work, state: Race, results: Results, arm: int) -> Step:
    plan, ahead = job.plan, _ahead(job, state, results)
    return Step(plan.arms[arm].name, state.round + 1, len(plan.rounds), None, ahead)


def _ahead(job: Work, state: Race, results: Results) -> float | None:
    """Return the estimated seconds until the end, if no more arms stop."""
    plan = job.plan
    if not state.todo:
        return 0.0
    times = {arm: typical(results, arm, len(plan.rounds)) for arm, _ in results}
    trained = [times[arm] for arm in times if plan.arms[arm].trains]
    if not trained:
        return None
    alive = [arm for arm in range(len(plan.arms)) if arm not in state.stopped]
    later = len(plan.rounds) - state.round - 1
    each = {arm: times.get(arm, fmean(trained)) for arm in alive}
    ahead = sum(each[arm] for arm in state.todo) + later * sum(each.values())
    if plan.budget is not None:
        left = plan.budget - spent(results, len(plan.rounds))
        ahead = max(0.0, min(ahead, left))
    return ahead / job.processes
