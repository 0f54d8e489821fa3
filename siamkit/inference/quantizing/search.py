"""The search for the layers that must stay in float32, by a bounded number of measurements.

No clock decides, so the same network and images give the same layers.

1. The network with all layers in int8 is measured on validation images. If it keeps the quality,
   that is the choice.
2. Likewise the network in which only the layers with weights are in int8. Additions, softmax and
   the like often cost the most quality in networks with attention, and none of the size.
3. Otherwise the layers are ranked by sensitivity: the error of the embeddings of training images if
   only these layers are in int8. Neighbours form at most :data:`GROUPS` groups, each of which is
   measured together.
4. The most sensitive layers stay in float32: 1, 2, 4, ... groups, up to all but one, until
   validation images show the quality of float32. Then bisection finds the smallest number that
   still does.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

TOLERANCE = 0.01
"""The loss of a metric on validation images up to which the quality counts as kept."""

GROUPS = 12
"""The most groups of layers that are ranked. With 12, the search measures 12 errors and at most 10
losses."""

Measure = Callable[[Collection[str]], float]
"""Returns a measured value of the int8 network in which some layers are in float32."""


@dataclass(frozen=True)
class Choice:
    """The layers that stay in float32.

    Attributes:
        floats: The layers, in the order of the graph.
        loss: The largest loss of a metric on the validation images of the search.
        layers: The number of layers that could be quantized.
    """

    floats: tuple[str, ...]
    loss: float
    layers: int


def choose(
    layers: Sequence[str],
    loss: Measure,
    error: Measure,
    *,
    weightless: Collection[str] = (),
    tolerance: float = TOLERANCE,
    groups: int = GROUPS,
) -> Choice:
    """Return the layers that stay in float32.

    Args:
        layers: The layers that can be quantized, in the order of the graph.
        loss: Returns the loss of quality on validation images, of a network with these layers in
            float32.
        error: Returns the error of the embeddings of training images, likewise.
        weightless: The layers without weights.
        tolerance: The loss that is accepted.
        groups: The most groups of layers to rank.

    Returns:
        The first choice whose loss is within ``tolerance``; the choice with the least loss if none
        is.
    """
    tried: dict[frozenset[str], float] = {}

    def fits(floats: Collection[str]) -> bool:
        key = frozenset(floats)
        if key not in tried:
            tried[key] = loss(key)
        return tried[key] <= tolerance

    def choice(floats: Collection[str]) -> Choice:
        chosen = frozenset(floats)
        return Choice(tuple(name for name in layers if name in chosen), tried[chosen], len(layers))

    def by_loss(floats: frozenset[str]) -> tuple[float, int]:
        return tried[floats], len(floats)

    for floats in ((), weightless):
        if len(floats) < max(len(layers), 1) and fits(floats):
            return choice(floats)
    base = min(tried, key=by_loss)
    ranked = _ranked(
        [name for name in layers if name not in base], frozenset(layers), error, groups
    )

    def kept(count: int) -> frozenset[str]:
        return base.union(*ranked[:count])

    most = len(ranked) - 1  # something must be in int8
    failed, passed = 0, None
    while passed is None and failed < most:
        count = min(max(2 * failed, 1), most)
        if fits(kept(count)):
            passed = count
        else:
            failed = count
    while passed is not None and passed - failed > 1:
        middle = (failed + passed) // 2
        if fits(kept(middle)):
            passed = middle
        else:
            failed = middle
    best: frozenset[str] = min(tried, key=by_loss) if passed is None else kept(passed)
    return choice(best)


def _ranked(
    layers: Sequence[str], every: frozenset[str], error: Measure, groups: int
) -> list[tuple[str, ...]]:
    """Return layers in groups of neighbours, the most sensitive group first.

    Args:
        layers: The layers to rank, in the order of the graph.
        every: All layers that can be quantized.
        error: As for :func:`choose`.
        groups: The most groups.
    """
    size = max(1, -(-len(layers) // groups))
    parts = [tuple(layers[place : place + size]) for place in range(0, len(layers), size)]
    errors = {part: error(every - set(part)) for part in parts}
    return sorted(parts, key=lambda part: -errors[part])
