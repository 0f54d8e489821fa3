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
    go first, as in a knapsack. Among equals, such as channels that nothing depends on, those of the
    group that lost the smaller share go first. In a large group, a multiple of 8 channels stays,
    which the kernels of CPUs and GPUs are made for.

    Args:
        groups: The pruning groups.
        importance: The importance of each channel of each group; comparable between groups.
        costs: The operations and the memory traffic of the network.
        target: The number of operations that may be left.

    Returns:
        The channels; one channel fewer would not do. If the target is out of reach, as many as
        possible.
    """
    order = _in_order(groups, importance, costs)
    low, high = 0, len(order)  # the fewest channels that reach the target lie in [low, high]
    while low < high:
        middle = (low + high) // 2
        if costs.after(groups, _rounded(groups, order[:middle])) <= target:
            high = middle
        else:
            low = middle + 1
    return _rounded(groups, order[:low])


def _in_order(
    groups: Sequence[Group], importance: Mapping[str, Sequence[float]], costs: Costs
) -> list[tuple[str, int]]:
    """Return all channels with their group's name, in the order in which they go."""
    keyed = []
    for place, group in enumerate(groups):
        price = costs.price(group)
        if price <= 0:
            continue
        values = importance[group.name]
        order = sorted(range(group.size), key=lambda channel: (values[channel], channel))
        for rank, channel in enumerate(order):
            key = (values[channel] / price, rank / group.size, place)
            keyed.append((key, group.name, channel))
    return [(name, channel) for _, name, channel in sorted(keyed)]


def _rounded(groups: Sequence[Group], first: Sequence[tuple[str, int]]) -> dict[str, list[int]]:
    """Return the first channels that go, after rounding the number that stays in each group."""
    going: dict[str, list[int]] = {}
    for name, channel in first:
        going.setdefault(name, []).append(channel)
    removed = {}
    for group in groups:
        channels = going.get(group.name, [])
        count = group.size - rounded(group.size - len(channels), group.size)
        if count:
            removed[group.name] = sorted(channels[:count])
    return removed


def rounded(wanted: int, size: int) -> int:
    """Return how many of ``size`` channels stay if ``wanted`` are worth it."""
    unit = _MULTIPLE if size >= _SMALL else 1
    least = max(1, math.ceil(size * SHARE))
    return min(math.ceil(max(wanted, least) / unit) * unit, size)
