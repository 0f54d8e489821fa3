"""The choice of channels: the least important ones for the time that they cost."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from siamkit.compress.costs import Costs
from siamkit.compress.groups import Group

SHARE = 1 / 8
"""At least this share of each group's channels stays."""

_MULTIPLE, _SMALL = 8, 32


def choose(
    groups: Sequence[Group],
    importance: Mapping[str, Sequence[float]],
    costs: Costs,
    target: float,
) -> dict[str, list[int]]:
    """Return the channels to remove, by the name of their group.

    All channels of the network compete: those with the least importance for the time that they cost
    go first, as in a knapsack. In a large group, a multiple of 8 channels stays, which the kernels
    of CPUs and GPUs are made for.

    Args:
        groups: The pruning groups.
        importance: The importance of each channel of each group; comparable between groups.
        costs: The operations and the memory traffic of the network.
        target: The number of operations that may be left.

    Returns:
        The channels. If the target is out of reach, as many as possible.
    """
    worth = {
        group.name: [value / price for value in importance[group.name]]
        for group in groups
        if (price := costs.price(group)) > 0
    }
    limits = sorted({value for values in worth.values() for value in values})
    low, high = 0, len(limits)  # the fewest limits that reach the target lie in [low, high]
    while low < high:
        middle = (low + high) // 2
        if costs.after(groups, _below(groups, worth, limits[middle])) <= target:
            high = middle
        else:
            low = middle + 1
    return _below(groups, worth, limits[min(low, len(limits) - 1)]) if limits else {}


def _below(
    groups: Sequence[Group], worth: Mapping[str, Sequence[float]], limit: float
) -> dict[str, list[int]]:
    """Return the channels whose worth is at most ``limit``, after rounding each group's number."""
    removed = {}
    for group in groups:
        values = worth.get(group.name, ())
        stays = rounded(sum(value > limit for value in values), group.size)
        order = sorted(range(len(values)), key=lambda channel: (values[channel], channel))
        if lost := sorted(order[: max(len(values) - stays, 0)]):
            removed[group.name] = lost
    return removed


def rounded(wanted: int, size: int) -> int:
    """Return how many of ``size`` channels stay if ``wanted`` are worth it."""
    unit = _MULTIPLE if size >= _SMALL else 1
    least = max(1, math.ceil(size * SHARE))
    return min(math.ceil(max(wanted, least) / unit) * unit, size)
