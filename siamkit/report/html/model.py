"""What the page shows, ready for the templates: plain values, no markup."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from siamkit.data.images import Sample
from siamkit.report import units
from siamkit.report.html.embedding_map import Map
from siamkit.report.html.facts import Facts
from siamkit.report.html.heldout import HeldOutFacts, Verified
from siamkit.report.html.neighbours import Pair
from siamkit.report.html.thumbnails import LARGE, SMALL

Json = dict[str, Any]


@dataclass(frozen=True)
class Shown:
    """An image in the page.

    Attributes:
        number: Its number among the thumbnails.
        name: Its key.
        label: Its class.
        score: Its similarity to the image that it stands beside.
        right: Whether it is of the same class as that.
    """

    number: int
    name: str
    label: str
    score: float | None = None
    right: bool | None = None


@dataclass(frozen=True)
class Query:
    """A query and what was found."""

    image: Shown
    found: list[Shown]


@dataclass(frozen=True)
class ShownPair:
    """Two images, and whether the threshold decides rightly."""

    first: Shown
    second: Shown
    score: float
    accepted: bool


def headline(facts: Facts, metrics: Mapping[str, Any]) -> list[Json]:
    """Return the figures that the page starts with: untrained against best, of each metric.

    Args:
        facts: What happened.
        metrics: The ``metrics`` of ``metrics.json``; empty while there is none.
    """
    rows: list[Json] = []
    test = metrics.get("test") or {}
    if test:
        rows += _figures("test", test.get("untrained") or {}, test.get("best") or {})
    best = facts.best
    rows += _figures("validation", facts.untrained, best.metrics if best else {})
    return rows


def _figures(part: str, before: Mapping[str, Any], after: Mapping[str, Any]) -> list[Json]:
    names = [n for n in dict.fromkeys([*after, *before]) if _is_number(after.get(n, before.get(n)))]
    return [
        {
            "part": part,
            "name": name,
            "before": before.get(name),
            "after": after.get(name),
            "change": after[name] - before[name] if name in before and name in after else None,
        }
        for name in names
    ]


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def gallery(found: HeldOutFacts, queries: Sequence[int]) -> list[Query]:
    """Return queries with their neighbours."""
    near = found.near
    assert near is not None
    return [
        Query(
            _shown(found, query),
            [
                _shown(found, int(i), float(s), bool(found.labels[i] == found.labels[query]))
                for i, s in zip(near.nearest[query], near.scores[query], strict=True)
            ],
        )
        for query in queries
    ]


def shown_pairs(found: HeldOutFacts, pairs: Iterable[Pair]) -> list[ShownPair]:
    """Return pairs with the decision on each."""
    assert found.verified is not None
    threshold = found.verified.threshold.value
    return [
        ShownPair(
            _shown(found, p.first), _shown(found, p.second), p.score, p.score >= threshold
        )
        for p in pairs
    ]  # fmt: skip


def _shown(
    found: HeldOutFacts, index: int, score: float | None = None, right: bool | None = None
) -> Shown:
    return Shown(index, found.held.images.samples[index].key, found.name(index), score, right)


def thumbnail_wishes(
    found: HeldOutFacts, places: Map | None
) -> tuple[dict[int, Sample], dict[int, int]]:
    """Return the images that the page shows, and the size in which it needs each."""
    sizes: dict[int, int] = {}
    if places is not None:
        sizes.update(dict.fromkeys(places.indices.tolist(), SMALL))
    assert found.near is not None
    for query in (*found.right, *found.wrong):
        sizes.update(dict.fromkeys((query, *found.near.nearest[query].tolist()), LARGE))
    for pair in (*found.accepts, *found.rejects):
        sizes.update(dict.fromkeys((pair.first, pair.second), LARGE))
    samples = found.held.images.samples
    return {number: samples[number] for number in sizes}, sizes


def map_items(found: HeldOutFacts, places: Map) -> list[Json]:
    """Return what the page's script needs of each point: where, which image, which class."""
    near, samples = found.near, found.held.images.samples
    assert near is not None
    items: list[Json] = []
    for index, (x, y) in zip(places.indices.tolist(), places.places.tolist(), strict=True):
        nearest = int(near.nearest[index, 0])
        if found.held.images.tuples is not None:
            verdict = f"nearest image: {samples[nearest].key}"
        elif not near.findable[index]:
            verdict = "the only image of its class"
        elif near.right[index]:
            verdict = "nearest image: same class"
        else:
            verdict = f"nearest image: {found.name(nearest)}"
        items.append(
            {
                "x": float(f"{x:.4g}"),
                "y": float(f"{y:.4g}"),
                "image": index,
                "label": int(found.labels[index]),
                "name": samples[index].key,
                "verdict": verdict,
            }
        )
    return items


def verification_rows(found: Verified) -> list[tuple[str, str, str]]:
    """Return verification metrics with their intervals."""
    metrics = found.metrics
    values: list[tuple[str, str, float | None]] = [
        ("AUC", "auc", metrics.auc),
        ("equal error rate", "eer", metrics.eer),
        *((f"TAR at FAR {far:g}", f"tar@far={far:g}", tar)
          for far, tar in metrics.tar_at_far.items()),
    ]  # fmt: skip
    rows = []
    for title, key, value in values:
        ends = found.intervals.get(key)
        between = f"{ends[0]:.3f} to {ends[1]:.3f}" if ends else ""
        told = f"{value:.3f}" if value is not None else "too few different pairs to tell"
        rows.append((title, told, between))
    return rows


def threshold_rows(found: Verified) -> list[tuple[str, str, str]]:
    """Return the error rates at the threshold: here, and as the calibration foresaw them."""
    threshold = found.threshold
    rows = []
    for title, key, here in (
        ("false accepts (FAR)", "far", threshold.far),
        ("false rejects (FRR)", "frr", threshold.frr),
    ):
        foreseen = threshold.calibration.get(key)
        told = ""
        if isinstance(foreseen, Mapping) and all(
            _is_number(foreseen.get(end)) for end in ("rate", "low", "high")
        ):
            told = (
                f"{units.percent(foreseen['rate'])} "
                f"({units.percent(foreseen['low'])} to {units.percent(foreseen['high'])})"
            )
        rows.append((title, units.percent(here), told))
    return rows


def finite(value: Any) -> Any:
    """Return ``value`` without what JSON cannot say: NaN and infinity become null."""
    if isinstance(value, Mapping):
        return {str(key): finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [finite(inner) for inner in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
