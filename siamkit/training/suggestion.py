"""The suggestion: picks a learning rate from the curves of a range test.

As the rate rises, the loss first falls and then rises again: its curve has a valley. The suggested
rate is the first at which the loss has fallen by a quarter of the valley's depth, or by 3 % if that
is less. The rate at the bottom of the valley is too high, since a training stays at its rate for
longer than the test does. The depth of the valley says little: a network learns the few images of
the test by heart, and a collapsed embedding leaves a loss few pairs to mine. ``docs/defaults.md``
compares this rule with others.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median_low

from siamkit.spelling import argument

SHARE = 0.25
"""The share of the valley's depth by which the loss has fallen at the suggested rate."""

MOST = 0.03
"""The largest fall that is waited for, as a share of the loss before the first step."""

_LEAST = 0.02  # the least depth of a valley, as a share of the loss before the first step
_RISE = 0.3  # the share of its depth by which the loss rises at the end of a valley
_EXPLODED = 3.0  # the multiple of the loss before the first step that ends a repeat
_APART = 10.0  # the ratio of the repeats' highest and lowest rate above which none is suggested


@dataclass(frozen=True)
class Curve:
    """The loss by learning rate in one repeat of a range test.

    Attributes:
        rates: The rate of each step, rising.
        losses: The loss before the first step, then after each step.
    """

    rates: tuple[float, ...]
    losses: tuple[float, ...]


@dataclass(frozen=True)
class Suggestion:
    """The outcome of a range test.

    Attributes:
        lr: The suggested rate; None if the curves suggest none.
        low: The lowest rate that a single repeat suggests; None without a suggestion.
        high: The highest rate that a single repeat suggests; None without a suggestion.
        reason: How the rate was found, or why there is none.
    """

    lr: float | None
    low: float | None
    high: float | None
    reason: str


def suggested(curves: Sequence[Curve]) -> Suggestion:
    """Return the median of the rates that the repeats of a range test suggest.

    There is no suggestion if half of the repeats or more suggest none, or if the rates are far
    apart.

    Args:
        curves: The curves of the repeats, over the same rates and from the same weights.
    """
    each = [_suggestion(curve) for curve in curves]
    rates = sorted(one.lr for one in each if one.lr is not None)
    if 2 * len(rates) <= len(each):
        return next(one for one in each if one.lr is None)
    low, high = rates[0], rates[-1]
    if high > _APART * low:
        return _none(f"the repeats disagree: they suggest rates from {low:g} to {high:g}")
    part = "" if len(rates) == len(each) else f" (in {len(rates)} of {len(each)} repeats)"
    reason = f"the loss begins to fall there{part}"
    return Suggestion(median_low(rates), low, high, reason)


def mean_curve(curves: Sequence[Curve]) -> Curve:
    """Return the mean of several curves over the same rates, up to the end of the shortest."""
    shortest = min(curves, key=lambda curve: len(curve.rates))
    columns = zip(*(curve.losses[: len(shortest.losses)] for curve in curves), strict=True)
    return Curve(shortest.rates, tuple(sum(column) / len(column) for column in columns))


def is_over(losses: Sequence[float]) -> bool:
    """Return whether higher rates need no trial: the valley has ended, or the loss has exploded."""
    _, ended = _valley(losses)
    return ended or losses[-1] > losses[0] + (_EXPLODED - 1) * abs(losses[0])


def rounded(rate: float) -> float:
    """Return a rate with two significant digits. More would be noise."""
    return float(f"{rate:.1e}")


def _suggestion(curve: Curve) -> Suggestion:
    losses = curve.losses
    bottom, ended = _valley(losses)
    first, depth = losses[0], losses[0] - losses[bottom]
    if not any(losses[: bottom + 1]):
        return _none("the loss is 0 before the first step, so there is nothing to learn from")
    if depth <= _LEAST * abs(first):
        return _none(f"the loss falls by less than {_LEAST:.0%} at every rate")
    fall = min(SHARE * depth, MOST * abs(first))
    if not ended and bottom == len(losses) - 1 and fall == SHARE * depth:
        last = argument("highest", flag="--to")
        return _none(f"the loss still falls at the last rate; raise {last}")
    place = next(i for i, loss in enumerate(losses) if loss <= first - fall)
    if place == 1:
        return _none(
            f"the loss falls at the first rate already; lower {argument('lowest', flag='--from')}"
        )
    rate = rounded(curve.rates[place - 1])
    return Suggestion(rate, rate, rate, "")


def _none(reason: str) -> Suggestion:
    return Suggestion(None, None, None, reason)


def _valley(losses: Sequence[float]) -> tuple[int, bool]:
    """Return the index of the first valley's bottom, and whether the loss rises after it."""
    bottom = 0
    for place, loss in enumerate(losses):
        if loss < losses[bottom]:
            bottom = place
        depth = losses[0] - losses[bottom]
        if depth > _LEAST * abs(losses[0]) and loss - losses[bottom] >= _RISE * depth:
            return bottom, True
    return bottom, False
