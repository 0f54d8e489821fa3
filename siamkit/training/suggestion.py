"""The suggestion: the learning rate that the curves of a range test speak for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Curve:
    """The loss by learning rate of one pass over the rates.

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
        lr: The suggested rate; None if the curves speak for none.
        low: The lowest rate that one pass alone speaks for; None without a suggestion.
        high: The highest such rate; None without a suggestion.
        reason: How the rate was found, or why there is none.
    """

    lr: float | None
    low: float | None
    high: float | None
    reason: str


def has_diverged(losses: Sequence[float]) -> bool:
    """Return whether the last loss is so far above the first that higher rates need no trial."""
    return losses[-1] > losses[0] + 2 * abs(losses[0])


def mean_curve(curves: Sequence[Curve]) -> Curve:
    """Return the mean of several passes over the same rates, up to where the first one ended."""
    shortest = min(curves, key=lambda curve: len(curve.rates))
    columns = zip(*(curve.losses[: len(shortest.losses)] for curve in curves), strict=True)
    return Curve(shortest.rates, tuple(sum(column) / len(column) for column in columns))


def suggested(curves: Sequence[Curve]) -> Suggestion:
    """Return the rate that the passes of a range test speak for.

    Args:
        curves: The passes, over the same rates and from the same weights.
    """
    mean = mean_curve(curves)
    if why := _says_nothing(curves, mean):
        return Suggestion(None, None, None, why)
    alone = [rate for curve in curves if (rate := _rate(curve)) is not None]
    rate = _rate(mean)
    assert rate is not None and alone
    return Suggestion(
        rounded(rate),
        rounded(min(alone)),
        rounded(max(alone)),
        "here the loss has fallen by half of what it falls by at most",
    )


def rounded(rate: float) -> float:
    """Return a rate with two significant digits, so that rounding errors rarely change it."""
    return float(f"{rate:.1e}")


def _rate(curve: Curve) -> float | None:
    first, least = curve.losses[0], min(curve.losses)
    limit = first - 0.5 * (first - least)
    reached = (r for r, loss in zip(curve.rates, curve.losses[1:], strict=True) if loss <= limit)
    return next(reached, None) if least < first else None


def _says_nothing(curves: Sequence[Curve], mean: Curve) -> str | None:
    return None if min(mean.losses) < mean.losses[0] else "the loss fell at no rate"
