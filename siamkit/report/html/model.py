"""The model of the page: plain values for the templates, no markup."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from siamkit.data.images import Sample
from siamkit.evaluation.embedding_map import Map
from siamkit.evaluation.neighbourhood import ScoredPair
from siamkit.evaluation.verified import Verified
from siamkit.portable.calibration import Rate
from siamkit.report import units
from siamkit.report.gains import verdict
from siamkit.report.html.facts import RunFacts
from siamkit.report.html.heldout import Decision, HeldOutFacts
from siamkit.report.html.thumbnails import LARGE, SMALL
from siamkit.words import plural

Json = dict[str, Any]


@dataclass(frozen=True)
class Shown:
    """An image in the page.

    Attributes:
        number: The number of the image's thumbnail.
        name: The image's key.
        label: The image's class.
        score: The cosine similarity to the image's query; None for the query itself or a pair.
        right: Whether the image is of the query's class; None without a query.
    """

    number: int
    name: str
    label: str
    score: float | None = None
    right: bool | None = None


@dataclass(frozen=True)
class Query:
    """A query and the images nearest to it."""

    image: Shown
    neighbours: list[Shown]


@dataclass(frozen=True)
class Comparison:
    """Two images, and whether the threshold accepts them as the same."""

    first: Shown
    second: Shown
    score: float
    accepted: bool


@dataclass(frozen=True)
class ConfusedClasses:
    """Two classes, by a query of one and its nearest image, of the other, and how often."""

    query: Shown
    nearest: Shown
    share: str


def headline(facts: RunFacts, metrics: Mapping[str, Any]) -> list[Json]:
    """Return the headline figures of the page: each metric, untrained and of the best epoch.

    Args:
        facts: The facts of the run.
        metrics: The ``metrics`` of ``metrics.json``; empty while the file does not exist.
    """
    rows: list[Json] = []
    test = metrics.get("test") or {}
    if test:
        rows += _figures("test", test.get("untrained") or {}, test.get("best") or {})
    ended = metrics.get("best") or {}
    best = {name: ended[name] for name in facts.untrained if name in ended}
    if not best and facts.best is not None:
        best = dict(facts.best.metrics)
    rows += _figures("validation", facts.untrained, best)
    return rows


def _figures(part: str, before: Mapping[str, Any], after: Mapping[str, Any]) -> list[Json]:
    names = [n for n in dict.fromkeys([*after, *before]) if _is_number(after.get(n, before.get(n)))]
    changes = {n: after[n] - before[n] for n in names if n in before and n in after}
    return [
        {
            "part": part,
            "name": name,
            "before": before.get(name),
            "after": after.get(name),
            "change": units.change(changes[name]) if name in changes else None,
            "verdict": verdict(name, changes.get(name, 0.0)),
        }
        for name in names
    ]


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def gallery(facts: HeldOutFacts, queries: Sequence[int]) -> list[Query]:
    """Return queries with their neighbours."""
    near = facts.near
    assert near is not None
    return [
        Query(
            _shown(facts, query),
            [
                _shown(facts, int(i), float(s), bool(facts.labels[i] == facts.labels[query]))
                for i, s in zip(near.nearest[query], near.scores[query], strict=True)
            ],
        )
        for query in queries
    ]


def shown_pairs(facts: HeldOutFacts, pairs: Iterable[ScoredPair]) -> list[Comparison]:
    """Return each pair with the decision of the threshold."""
    assert facts.decision is not None
    threshold = facts.decision.threshold
    return [
        Comparison(_shown(facts, first), _shown(facts, second), score, score >= threshold)
        for first, second, score in pairs
    ]


def confused_classes(facts: HeldOutFacts) -> list[ConfusedClasses]:
    """Return the pairs of classes that are confused most often, each with an example."""
    return [
        ConfusedClasses(
            _shown(facts, found.example[0]),
            _shown(facts, found.example[1], found.score),
            f"{found.wrong} of {plural(found.queries, 'query')}",
        )
        for found in facts.confused
    ]


def _shown(
    facts: HeldOutFacts, index: int, score: float | None = None, right: bool | None = None
) -> Shown:
    return Shown(index, facts.held.images.samples[index].key, facts.name(index), score, right)


def thumbnail_wishes(
    facts: HeldOutFacts, places: Map | None
) -> tuple[dict[int, Sample], dict[int, int]]:
    """Return the images that the page shows, and each thumbnail's size in pixels, by number."""
    sizes: dict[int, int] = {}
    if places is not None:
        sizes.update(dict.fromkeys(places.indices.tolist(), SMALL))
    assert facts.near is not None
    for query in (*facts.right, *facts.wrong):
        sizes.update(dict.fromkeys((query, *facts.near.nearest[query].tolist()), LARGE))
    for confusion in facts.confused:
        sizes.update(dict.fromkeys(confusion.example, LARGE))
    for first, second, _ in (*facts.accepts, *facts.rejects):
        sizes.update(dict.fromkeys((first, second), LARGE))
    samples = facts.held.images.samples
    return {number: samples[number] for number in sizes}, sizes


def map_items(facts: HeldOutFacts, places: Map) -> list[Json]:
    """Return each point's position, image, class and a text about its nearest image."""
    near, samples = facts.near, facts.held.images.samples
    assert near is not None
    items: list[Json] = []
    for index, (x, y) in zip(places.indices.tolist(), places.places.tolist(), strict=True):
        nearest = int(near.nearest[index, 0])
        if facts.held.images.tuples is not None:
            verdict = f"nearest image: {samples[nearest].key}"
        elif not near.query[index]:
            verdict = "not a query"
        elif not near.findable[index]:
            verdict = "the gallery has no other image of its class"
        elif near.right[index] == 1:
            verdict = "nearest image: same class"
        elif near.right[index] > 0:
            verdict = "images of this class and of others are equally near"
        else:
            verdict = f"nearest image: {facts.name(nearest)}"
        items.append(
            {
                "x": float(f"{x:.4g}"),
                "y": float(f"{y:.4g}"),
                "image": index,
                "label": int(facts.labels[index]),
                "name": samples[index].key,
                "verdict": verdict,
            }
        )
    return items


def verification_rows(verified: Verified) -> list[tuple[str, str, str]]:
    """Return verification metrics with their intervals."""
    metrics = verified.metrics
    values: list[tuple[str, str, float | None]] = [
        ("AUC", "auc", metrics.auc),
        ("equal error rate", "eer", metrics.eer),
        *((f"TAR at FAR {far:g}", f"tar@far={far:g}", tar)
          for far, tar in metrics.tar_at_far.items()),
    ]  # fmt: skip
    rows = []
    for title, key, value in values:
        ends = verified.intervals.get(key)
        between = f"{ends[0]:.3f} to {ends[1]:.3f}" if ends else ""
        text = f"{value:.3f}" if value is not None else "too few different pairs"
        rows.append((title, text, between))
    return rows


def threshold_rows(decision: Decision) -> list[tuple[str, str, str]]:
    """Return the error rates at the threshold: measured here, and predicted by the calibration."""
    own = decision.calibration
    far, frr = (None, None) if own is None else (own.far, own.frr)
    return [
        ("false accepts (FAR)", units.percent(decision.far), _predicted(far)),
        ("false rejects (FRR)", units.percent(decision.frr), _predicted(frr)),
    ]


def _predicted(rate: Rate | None) -> str:
    if rate is None:
        return ""
    return f"{units.percent(rate.rate)} ({units.percent_range(rate.low, rate.high)})"
