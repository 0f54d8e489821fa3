"""The race: which arms go on after each round.

An arm that is clearly worse than the leader on the validation images is not trained any further
(Birattari et al., "A Racing Algorithm for Configuring Metaheuristics", 2002). If the rest of the
budget is too short for all arms, the worse half of them stops, as in successive halving (Jamieson
and Talwalkar, 2016). The held-out folds, which the comparison reports, decide nothing here.

The pruners of Optuna do not know that the classes of a run deviate together. With one value for
each run, its ``WilcoxonPruner`` stops clearly worse arms later, and equal arms far more often
(``tests/benchmarks/race.py``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from siamkit.comparison.intervals import difference, mean
from siamkit.comparison.plan import Plan
from siamkit.comparison.results import ArmResult

SURE = 0.99
"""The coverage of the interval by which an arm is hopeless."""

Results = Mapping[tuple[int, int], ArmResult]
"""The results by (number of the arm, number of the round), both from 0."""


@dataclass(frozen=True)
class Stop:
    """An arm that is not trained any further.

    Attributes:
        rounds: The number of rounds that it was trained in.
        why: ``hopeless``, ``budget`` or ``failed``.
    """

    rounds: int
    why: str


@dataclass(frozen=True)
class Race:
    """The state of a comparison.

    Attributes:
        round: The number of the current round, from 0; the number of all rounds at the end.
        todo: The arms that the current round lacks.
        stopped: The arms that are not trained any further.
        over_budget: Whether the budget ended the comparison. Results of the current round, from an
            earlier command, are not compared then.
    """

    round: int
    todo: tuple[int, ...]
    stopped: Mapping[int, Stop]
    over_budget: bool = False


def race(plan: Plan, results: Results) -> Race:
    """Return the state of a comparison. It depends only on the results.

    Args:
        plan: The plan.
        results: All results so far.
    """
    stopped: dict[int, Stop] = {}
    alive = list(range(len(plan.arms)))
    for number in range(len(plan.rounds)):
        todo = tuple(arm for arm in alive if (arm, number) not in results)
        if todo:
            over = _over_budget(plan, results, number, alive)
            return Race(number, () if over else todo, stopped, over)
        for arm in _leaving(plan, results, alive, number + 1):
            stopped[arm[0]] = Stop(number + 1, arm[1])
            alive.remove(arm[0])
    return Race(len(plan.rounds), (), stopped)


def _leaving(
    plan: Plan, results: Results, alive: Sequence[int], rounds: int
) -> list[tuple[int, str]]:
    """Return the arms that stop after some rounds, and why."""
    failed = [arm for arm in alive if results[arm, rounds - 1].failed is not None]
    racing = [arm for arm in alive if plan.arms[arm].trains and arm not in failed]
    leaving = [(arm, "failed") for arm in failed]
    if rounds == len(plan.rounds) or len(racing) < 2:
        return leaving
    scores = {arm: [results[arm, n].val[plan.metric] for n in range(rounds)] for arm in racing}
    ranked = sorted(racing, key=lambda arm: (-mean(scores[arm]), arm))
    leader, others = ranked[0], ranked[1:]
    hopeless = []
    for arm in others:
        high = difference(scores[arm], scores[leader], SURE).high
        if high is not None and high < 0:
            hopeless.append(arm)
    leaving += [(arm, "hopeless") for arm in hopeless]
    left = [arm for arm in ranked if arm not in hopeless]
    if plan.budget is not None and len(left) > 2:
        ahead = len(plan.rounds) - rounds
        still = [arm for arm in alive if arm not in failed and arm not in racing]
        needed = ahead * sum(typical(results, arm, rounds) for arm in (*left, *still))
        if needed > plan.budget - spent(results, rounds):
            worse = left[-(-len(left) // 2) :]
            # Runs of an earlier command, with another budget or none, count all the same.
            leaving += [(arm, "budget") for arm in worse if (arm, rounds) not in results]
    return leaving


def spent(results: Results, rounds: int) -> float:
    """Return the seconds that the runs of the first rounds took."""
    return sum(r.seconds + r.filling for (_, number), r in results.items() if number < rounds)


def _over_budget(plan: Plan, results: Results, number: int, alive: Sequence[int]) -> bool:
    """Return whether the rest of the budget is too short for a round. The first has no limit.

    Runs of this round that are there count as what they took, but not as more than was expected of
    them: a round that has begun within the budget is finished, so that none of its runs is in vain.

    Args:
        plan: The plan.
        results: All results so far.
        number: The number of the round, from 0.
        alive: The arms of the round, with those that it has results of.
    """
    if plan.budget is None or not number:
        return False
    needed = 0.0
    for arm in alive:
        expected, done = typical(results, arm, number), results.get((arm, number))
        needed += expected if done is None else min(expected, done.seconds + done.filling)
    return spent(results, number) + needed > plan.budget


def typical(results: Results, arm: int, rounds: int) -> float:
    """Return the seconds that an arm's next run will take, by its runs of the first rounds.

    Runs share the features that they compute, so those of a first run are not computed again.

    Args:
        results: The results, with at least one of these rounds.
        arm: The number of the arm.
        rounds: The number of rounds.
    """
    known = [results[arm, number] for number in range(rounds) if (arm, number) in results]
    filling = known[-1].filling if len(known) > 1 else 0.0
    return fmean(result.seconds for result in known) + filling
