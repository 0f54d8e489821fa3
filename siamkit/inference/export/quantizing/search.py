"""The search for the layers that must stay in float32, by measurement and in bounded time.

1. The network with all layers in int8 is measured on validation images. If it keeps the quality,
   all layers stay in int8.
2. Otherwise the layers are ranked by sensitivity: the error of the embeddings of training images if
   only this layer is in int8. Where there are too many layers for the time, neighbours are measured
   together.
3. The most sensitive layers stay in float32: 1, 2, 4, ... groups, until validation images show the
   quality of float32. Then bisection finds the smallest number that still does.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field

TOLERANCE = 0.01
"""The loss of a metric on validation images up to which the quality counts as kept."""

SECONDS = 180.0
"""The time that the search may take, in seconds. A measurement that has begun is finished."""

Measure = Callable[[Collection[str]], float]
"""Returns a measured value of the int8 network in which some layers are in float32."""


@dataclass(frozen=True)
class Choice:
    """The layers that stay in float32.

    Attributes:
        floats: The layers, in the order of the graph.
        loss: The largest loss of a metric on the validation images of the search.
        layers: The number of layers that could be quantized.
        tried: The measured loss by the number of layers in float32.
        in_time: Whether the search ended before its time was up.
    """

    floats: tuple[str, ...]
    loss: float
    layers: int
    tried: dict[int, float] = field(default_factory=dict)
    in_time: bool = True


def choose(
    layers: Sequence[str],
    loss: Measure,
    error: Measure,
    *,
    tolerance: float = TOLERANCE,
    seconds: float = SECONDS,
    clock: Callable[[], float] = time.monotonic,
) -> Choice:
    """Return the layers that stay in float32.

    Args:
        layers: The layers that can be quantized, in the order of the graph.
        loss: Returns the loss of quality on validation images, of a network with these layers in
            float32.
        error: Returns the error of the embeddings of training images, likewise.
        tolerance: The loss that is accepted.
        seconds: The time for the search.
        clock: Returns the time in seconds.

    Returns:
        The first choice whose loss is within ``tolerance``; the choice with the least loss if none
        is, or if the time is up.
    """
    end = clock() + seconds
    tried = {0: loss(())}
    if tried[0] <= tolerance or not layers:
        return Choice((), tried[0], len(layers), tried)
    ranked = _ranked(layers, error, clock() + seconds / 2, clock)
    floats: dict[int, tuple[str, ...]] = {
        count: tuple(name for group in ranked[:count] for name in group)
        for count in range(len(ranked))  # one group less than all: with all, nothing is in int8
    }

    def fits(count: int) -> bool:
        tried[count] = loss(floats[count])
        return tried[count] <= tolerance

    failed, passed, count = 0, None, 1
    while passed is None and count in floats and clock() < end:
        if fits(count):
            passed = count
        else:
            failed, count = count, 2 * count
    while passed is not None and passed - failed > 1 and clock() < end:
        middle = (failed + passed) // 2
        if fits(middle):
            passed = middle
        else:
            failed = middle
    best = min(tried, key=lambda count: (tried[count], count)) if passed is None else passed
    chosen = set(floats[best])
    return Choice(
        tuple(name for name in layers if name in chosen),
        tried[best],
        len(layers),
        {len(floats[count]): value for count, value in tried.items()},
        in_time=clock() < end,
    )


def _ranked(
    layers: Sequence[str], error: Measure, end: float, clock: Callable[[], float]
) -> list[tuple[str, ...]]:
    """Return the layers in groups of neighbours, the most sensitive group first.

    The first measurement tells how many groups there is time for.
    """
    every = frozenset(layers)
    start = clock()
    first = (layers[0],)
    errors = {first: error(every - set(first))}
    each = max(clock() - start, 1e-9)
    most = max(3, int((end - clock()) / each))
    rest = layers[1:]
    size = max(1, -(-len(rest) // most))
    groups = [tuple(rest[i : i + size]) for i in range(0, len(rest), size)]
    for group in groups:
        errors[group] = error(every - set(group))
    return sorted(errors, key=lambda group: -errors[group])
