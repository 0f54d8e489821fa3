"""The summary of a comparison: a row for each arm, and a verdict in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

from siamkit.comparison.arms import Arm
from siamkit.comparison.compare import Compared
from siamkit.comparison.intervals import Difference, Totals, difference, mean
from siamkit.comparison.plan import METRICS
from siamkit.comparison.results import ArmResult
from siamkit.words import plural

_CLASSES = 20
_MUCH = 1.15
"""From this ratio of times on, the verdict says which arm costs more."""


@dataclass(frozen=True)
class Tried:
    """An arm with its results of finished rounds, by the number of the round, without failures."""

    arm: Arm
    number: int
    results: Mapping[int, ArmResult]

    def mean(self, metric: str) -> float:
        """Return the mean of a metric over the held-out folds."""
        return mean([result.test[metric] for result in self.results.values()])

    @property
    def seconds(self) -> float:
        """The median seconds of a run, without those for the features that all arms share."""
        return median(result.seconds for result in self.results.values())

    def less(self, other: Tried, metric: str) -> Difference | None:
        """Return the difference to another arm in their common rounds; None if there are none."""
        common = sorted(set(self.results) & set(other.results))
        if not common:
            return None
        first, second = ([arm.results[n].test[metric] for n in common] for arm in (self, other))
        return difference(first, second)


def summary(compared: Compared) -> dict[str, Any]:
    """Return the JSON object of ``siamkit compare --json``, without the paths of its files."""
    plan, metric = compared.plan, compared.plan.metric
    tried = _tried(compared)
    best = _best(tried, compared)
    every = [*compared.results.values(), *compared.pilot.values()]
    ranked = _ranked(tried, best, metric)
    rows = [_row(one, best, compared) for one in ranked]
    return {
        "metric": metric,
        "how": compared.how,
        "folds": plan.folds,
        "seeds": list(plan.seeds),
        "equal": plan.equal,
        "rounds": compared.race.round,
        "of": len(plan.rounds),
        "tuned": {key: list(values) for key, values in plan.tuned.items()},
        "budget": plan.budget,
        "over_budget": compared.race.over_budget,
        "arms": rows,
        "failed": [
            {"name": plan.arms[arm].name, "round": turn + 1, "why": result.failed}
            for (arm, turn), result in sorted(compared.results.items())
            if result.failed is not None
        ],
        "best": best.arm.name,
        "held_out": _held_out(compared.how),
        "verdict": _verdict(ranked, best, compared),
        "features_seconds": sum(r.filling for r in every),
        "seconds": sum(r.seconds + r.filling for r in every),
        "classes": _classes(ranked, metric),
        "notices": list(compared.notices),
    }


def _tried(compared: Compared) -> list[Tried]:
    """Return the arms with their results of the rounds that the race has finished.

    The budget may have ended the next round when only some arms had a result of it. Means over
    other rounds cannot be compared. A stopped arm has fewer rounds, and is never the best one.
    """
    plan = compared.plan
    every = []
    for number, arm in enumerate(plan.arms):
        results = {
            n: compared.results[number, n]
            for n in range(compared.race.round)
            if (number, n) in compared.results and compared.results[number, n].failed is None
        }
        if results:
            every.append(Tried(arm, number, results))
    return every


def _best(tried: Sequence[Tried], compared: Compared) -> Tried:
    """Return the arm of the highest mean among those that no rule stopped.

    Of equal arms, it is the one that is better in the other metrics, and else the cheaper one. An
    arm without training is the cheapest.
    """
    metric = compared.plan.metric
    others = [name for name in METRICS if name != metric]
    left = [one for one in tried if one.number not in compared.race.stopped]

    def worth(one: Tried) -> tuple[Any, ...]:
        means = [one.mean(name) for name in (metric, *others)]
        return *means, not one.arm.trains, -one.seconds

    return max(left, key=worth)


def _ranked(tried: Sequence[Tried], best: Tried, metric: str) -> list[Tried]:
    """Return the arms by their difference to the best one in common rounds, the best one first."""

    def place(one: Tried) -> tuple[bool, float, int]:
        found = None if one is best else one.less(best, metric)
        return one is not best, 0.0 if found is None else -found.value, one.number

    return sorted(tried, key=place)


def _held_out(how: str) -> str:
    """Return what is held out, for sentences: classes, groups, or images of the same classes."""
    if how.startswith("class-disjoint"):
        return "held-out classes"
    return "held-out groups" if how.startswith("by group") else "held-out images"


def _row(one: Tried, best: Tried, compared: Compared) -> dict[str, Any]:
    results = list(one.results.values())
    stop = compared.race.stopped.get(one.number)
    metric = compared.plan.metric
    return {
        "name": one.arm.name,
        "values": dict(one.arm.values),
        "trains": one.arm.trains,
        "runs": len(results),
        "value": one.mean(metric),
        "metrics": {name: one.mean(name) for name in METRICS},
        "interval": _ends(difference([r.test[metric] for r in results], _zero(results, metric))),
        "to_best": None if one is best else _as_json(one.less(best, metric)),
        "seconds": one.seconds,
        "epochs": median(r.epochs for r in results),
        "best_epochs": [r.best_epoch for r in results],
        "images": median(r.images for r in results),
        "phases": list(results[0].phases),
        "tuned": [dict(r.tuned) for r in results],
        "stopped": None if stop is None else asdict(stop),
        "notices": list(dict.fromkeys(text for r in results for text in r.notices)),
    }


def _zero(results: Sequence[ArmResult], metric: str) -> list[Totals]:
    return [{name: (n, 0.0) for name, (n, _) in r.test[metric].items()} for r in results]


def _ends(found: Difference) -> list[float] | None:
    if found.low is None or found.high is None:
        return None
    return [max(found.low, 0.0), min(found.high, 1.0)]


def _as_json(found: Difference | None) -> dict[str, Any] | None:
    return None if found is None else {**asdict(found), "clear": found.is_clear}


def _classes(ranked: Sequence[Tried], metric: str) -> list[dict[str, Any]]:
    """Return the classes in which the arms differ most, with the mean of each arm."""
    full = max(len(one.results) for one in ranked)
    compared = [one for one in ranked if len(one.results) == full]
    totals = [(one.arm.name, _by_class(one, metric)) for one in compared]
    rows = []
    for name, (queries, _) in totals[0][1].items():
        means = {arm: by_class[name][1] / by_class[name][0] for arm, by_class in totals}
        spread = max(means.values()) - min(means.values())
        if spread > 0:
            row = {"class": name, "queries": queries, "means": means}
            rows.append((-spread * queries, name, row))
    return [row for _, _, row in sorted(rows)[:_CLASSES]]  # each class has another name


def _by_class(one: Tried, metric: str) -> dict[str, tuple[int, float]]:
    sums: dict[str, tuple[int, float]] = {}
    for result in one.results.values():
        for name, (count, total) in result.test[metric].items():
            before = sums.get(name, (0, 0.0))
            sums[name] = before[0] + count, before[1] + total
    return sums


# --- words ---------------------------------------------------------------------------------------


def _verdict(tried: Sequence[Tried], best: Tried, compared: Compared) -> list[str]:
    """Return the verdict as sentences."""
    metric = compared.plan.metric
    number = plural(len(best.results), "run")
    lines = [
        f"{_quoted(best)} is the best: {metric} {best.mean(metric):.3f} on "
        f"{_held_out(compared.how)}, in {number}."
    ]
    stopped = compared.race.stopped
    for other in tried:
        found = None if other is best else best.less(other, metric)
        if found is not None:
            stop = stopped.get(other.number)
            lines.append(_sentence(best, other, found, None if stop is None else stop.why))
    trained = [
        one
        for one in tried
        if one.arm.trains
        and any(result.epochs for result in one.results.values())
        and (one.number not in stopped or stopped[one.number].why != "failed")
    ]
    if trained and not best.arm.trains:
        losses = [best.less(one, metric) for one in trained]
        if any(loss is not None and loss.is_clear and loss.value < 0 for loss in losses):
            return lines  # a trained arm was clearly better, and the sentence about it says more
        pays = (
            "No training pays on this data"
            if all(loss is not None and (loss.is_clear or loss.same) for loss in losses)
            else "These runs do not show that training pays on this data"
        )
        lines.append(f"{pays}: the best network is not trained at all.")
    return lines


def _sentence(best: Tried, other: Tried, found: Difference, stopped: str | None) -> str:
    """Return the sentence about an arm that is not the best one.

    Args:
        best: The best arm.
        other: The other arm.
        found: Their difference.
        stopped: Why the other arm was stopped; None if it was not.
    """
    if found.same:
        return f"{_quoted(other)} equals {_quoted(best)} in every run."
    if found.half is None:
        high, low = (best, other) if found.value >= 0 else (other, best)
        return (
            f"{_quoted(high)} is {abs(found.value):.3f} above {_quoted(low)} in one run, which "
            "does not tell how much of that is chance."
        )
    if found.is_clear and found.value > 0:
        return (
            f"{_quoted(best)} beats {_quoted(other)} by {found.value:.3f} ± {found.half:.3f}"
            f"{_over(best, other)}."
        )
    if found.is_clear:  # only an arm that was stopped can be better than the best of the others
        why = "a run of it failed" if stopped == "failed" else "it was worse on validation images"
        return (
            f"{_quoted(other)} was better than {_quoted(best)} by {-found.value:.3f} ± "
            f"{found.half:.3f}{_over(best, other)}, but was stopped because {why}."
        )
    text = f"{_quoted(other)} cannot be told from {_quoted(best)} ({-found.value:+.3f} ± "
    text += f"{found.half:.3f})"
    if not other.arm.trains:
        return f"{text}, and needs no training."
    ratio = other.seconds / best.seconds if best.seconds else 1.0
    if max(ratio, 1 / ratio if ratio else 1.0) < _MUCH:
        return f"{text}, and costs about as much."
    if ratio < 1:
        return f"{text}, and costs {round(100 * (1 - ratio))}% less."
    return f"{text}, and costs {ratio:.1f} times as much."


def _over(best: Tried, other: Tried) -> str:
    """Return over how many runs two arms were compared, if they are not all."""
    common = len(set(best.results) & set(other.results))
    return "" if common == len(best.results) else f" in {plural(common, 'common run')}"


def _quoted(one: Tried) -> str:
    return repr(one.arm.name)
