"""The charts of held-out images: error rates (ROC, DET), scores, and a 2-D map of embeddings."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import plotly.graph_objects as go
from numpy.typing import NDArray

from siamkit.evaluation.embedding_map import Map
from siamkit.evaluation.verification import Roc, operating_points
from siamkit.evaluation.verified import Verified
from siamkit.report import units
from siamkit.report.html.figures import BLUE, GREY, ORANGE, Cell, Chart, figure
from siamkit.report.html.heldout import Decision, HeldOutFacts
from siamkit.words import plural

_CURVE = 300
_BINS = (16, 60)


def roc_chart(verified: Verified, decision: Decision) -> Chart:
    """Return the chart of the ROC curve, on linear axes."""
    curve = verified.curve
    kept = _spread(curve)
    chart = figure(
        go.Scatter(
            x=[0, 1], y=[0, 1], mode="lines", name="chance", hoverinfo="skip",
            line={"color": GREY, "width": 1, "dash": "dot"},
        ),
        _curve(curve.far[kept], curve.tar[kept], "this network"),
        _point(decision.far, 1 - decision.frr),
        height=320,
    )  # fmt: skip
    chart.update_xaxes(title_text="false accepts (FAR)", range=[-0.01, 1], showgrid=True)
    chart.update_yaxes(title_text="true accepts (TAR)", range=[0, 1.01])
    auc = verified.metrics.auc
    return Chart(
        "roc", "ROC", f"The area under the curve is {auc:.3f}; chance is 0.5.", chart,
        ("FAR", "TAR", "threshold"),
        [(far, f"{tar:.4f}", cut) for far, tar, cut in _operating_points(verified)],
    )  # fmt: skip


def det_chart(verified: Verified, decision: Decision) -> Chart:
    """Return the chart of false rejects over false accepts, on log axes."""
    curve = verified.curve
    kept = _spread(curve)
    far, frr = curve.far[kept], 1 - curve.tar[kept]
    # A rate of zero has no place on a log axis.
    seen = (far > 0) & (frr > 0)
    chart = figure(
        _curve(far[seen], frr[seen], "this network"),
        _point(decision.far or None, decision.frr or None),
        height=320,
    )
    metrics = verified.metrics
    lows = [max(-4, math.floor(math.log10(1 / n))) for n in (metrics.different, metrics.same)]
    low = 10.0 ** min(lows)
    chart.add_scatter(
        x=[low, 1], y=[low, 1], mode="lines", name="equal", hoverinfo="skip",
        line={"color": GREY, "width": 1, "dash": "dot"},
    )  # fmt: skip
    ticks = [10.0**power for power in range(min(lows), 1)]
    axis: dict[str, Any] = {
        "type": "log", "tickmode": "array", "tickvals": ticks, "showgrid": True,
        "ticktext": [f"{100 * tick:g} %" for tick in ticks],
    }  # fmt: skip
    chart.update_xaxes(title_text="false accepts (FAR)", range=[lows[0], 0.02], **axis)
    chart.update_yaxes(title_text="false rejects (FRR)", range=[lows[1], 0.02], **axis)
    finding = (
        f"Log axes; lower is better. The equal error rate is {verified.metrics.eer:.3f}, at the "
        f"score {verified.metrics.eer_threshold:.3f}."
        if seen.any()
        else "Log axes, which have no place for a rate of zero: at each threshold, no pair is "
        "accepted falsely or none is rejected falsely, so there is no curve to draw."
    )
    rows: list[tuple[Cell, ...]] = [
        (far, f"{1 - tar:.4f}", cut) for far, tar, cut in _operating_points(verified)
    ]
    return Chart(
        "det", "Detection error trade-off", finding, chart, ("FAR", "FRR", "threshold"), rows
    )


def score_chart(verified: Verified, decision: Decision) -> Chart:
    """Return the chart of the scores of same and different pairs, with the threshold."""
    scores, same = verified.scores, verified.pairs.same
    # Few pairs in narrow bins show noise.
    bins = int(np.clip(1.5 * np.sqrt(min(same.sum(), (~same).sum())), *_BINS))
    edges = np.linspace(scores.min(), max(scores.max(), scores.min() + 1e-6), bins + 1)
    kinds = (
        ("different pairs", ~same, ORANGE, "dash", "rgba(217,102,10,0.22)"),
        ("same pairs", same, BLUE, "solid", "rgba(47,127,209,0.22)"),
    )
    chart = figure(height=320)
    counts: list[NDArray[np.int64]] = []
    for name, chosen, colour, dash, fill in kinds:
        count = np.histogram(scores[chosen], edges)[0]
        counts.append(count)
        shares = _listed(100 * count / count.sum())
        chart.add_scatter(
            x=_listed(edges[[0, *range(bins + 1)]]), y=[0.0, *shares, 0.0], mode="lines",
            name=name, fill="tozeroy", fillcolor=fill, hovertemplate="from %{x:.2f}: %{y:.2f} %",
            line={"color": colour, "width": 2, "dash": dash, "shape": "hv"},
        )  # fmt: skip
    chart.add_vline(
        x=decision.threshold,
        line={"width": 2, "dash": "dash", "color": GREY},
        annotation={
            "text": f"threshold {decision.threshold:.3f}",
            "yanchor": "bottom",
            "y": 1,
            # The label extends towards the middle, so that it stays within a narrow chart.
            "xanchor": "left" if 2 * decision.threshold < edges[0] + edges[-1] else "right",
        },
    )
    chart.update_xaxes(title_text="cosine similarity")
    chart.update_yaxes(title_text="share of pairs, %", rangemode="tozero")
    finding = (
        f"The threshold of {decision.threshold:.3f} accepts {units.percent(decision.far)} of the "
        f"different pairs and rejects {units.percent(decision.frr)} of the same pairs."
    )
    rows: list[tuple[Cell, ...]] = [
        (f"{a:.3f} to {b:.3f}", int(d), int(s))
        for a, b, d, s in zip(edges[:-1], edges[1:], *counts, strict=True)
        if d or s
    ]
    return Chart(
        "scores", "Scores of pairs", finding, chart,
        ("score", "different pairs", "same pairs"), rows,
    )  # fmt: skip


def map_chart(facts: HeldOutFacts, places: Map) -> Chart:
    """Return the map of the embeddings; the page's script shows the image of a point."""
    assert facts.near is not None
    findable = facts.near.findable
    wrong = findable & (facts.near.right < 0.5)
    chart = figure(height=560, hovermode="closest", margin={"l": 8, "r": 8, "t": 8, "b": 8})
    known = bool(findable.any())
    # Only a query with another image of its class to find can be right or wrong.
    kinds = (
        ("nearest image: same class", findable & ~wrong, BLUE, "circle", 7),
        ("nearest image: another class", wrong, ORANGE, "x", 8),
        ("no query, or alone in its class", ~findable, GREY, "circle-open", 7)
        if known
        else ("image", ~findable, BLUE, "circle", 7),
    )
    for name, of_kind, colour, symbol, size in kinds:
        chosen = np.flatnonzero(of_kind[places.indices])
        chart.add_scatter(
            x=_listed(places.places[chosen, 0]), y=_listed(places.places[chosen, 1]),
            customdata=chosen.tolist(), mode="markers", name=name, hoverinfo="none",
            showlegend=len(chosen) > 0,
            marker={"color": colour, "symbol": symbol, "size": size, "opacity": 0.75},
        )  # fmt: skip
    # The page's script fills these traces: the images of a marked class, and the focused image.
    for size, width in ((13, 2), (20, 3)):
        chart.add_scatter(
            x=[], y=[], mode="markers", showlegend=False, hoverinfo="skip",
            marker={"color": "rgba(0,0,0,0)", "size": size, "line": {"width": width}},
        )  # fmt: skip
    hidden = {"visible": False, "range": [-0.04, 1.04]}
    chart.update_xaxes(**hidden)
    chart.update_yaxes(**hidden)
    missed = np.where(findable, 1 - facts.near.right, 0)[places.indices]
    count, errors = len(places.indices), float(missed.sum())
    asked = int(findable[places.indices].sum())
    number = f"{errors:.0f}" if errors.is_integer() else f"{errors:.1f}"  # ties count in part
    whom = "them" if asked == count else plural(asked, "query")
    apart = (
        f"; the nearest image of {number} of {whom} (crosses) is of another class" if known else ""
    )
    finding = (
        f"{plural(count, 'image')}, placed by t-SNE{apart}. Neighbouring points have similar "
        "embeddings; distances between groups mean little."
    )
    return Chart("map", "Map of the embeddings", finding, chart, (), [])


def _curve(x: NDArray[np.float64], y: NDArray[np.float64], name: str) -> go.Scatter:
    return go.Scatter(
        x=_listed(x), y=_listed(y), mode="lines", name=name, line={"color": BLUE, "width": 2.5},
        hovertemplate="%{x:.3g}, %{y:.3g}<extra></extra>",
    )  # fmt: skip


def _point(x: float | None, y: float | None) -> go.Scatter:
    return go.Scatter(
        x=[x], y=[y], mode="markers", name="threshold", hovertemplate="%{x:.3g}, %{y:.3g}",
        marker={"symbol": "diamond", "size": 11, "color": ORANGE},
    )  # fmt: skip


def _spread(curve: Roc) -> NDArray[np.int64]:
    """Return indices of points that draw a curve smoothly on linear and on log axes."""
    count = len(curve.far)
    if count <= 2 * _CURVE:
        return np.arange(count, dtype=np.int64)
    by_far = np.searchsorted(curve.far, np.linspace(0, 1, _CURVE))
    by_tar = np.searchsorted(curve.tar, np.linspace(0, 1, _CURVE))
    log = np.geomspace(max(curve.far[curve.far > 0].min(), 1e-9), 1, _CURVE)
    low_far = np.searchsorted(curve.far, log)
    low_frr = np.searchsorted(curve.tar, 1 - log)
    chosen = np.concatenate([by_far, by_tar, low_far, low_frr, [0, count - 1]])
    return np.unique(np.clip(chosen, 0, count - 1)).astype(np.int64)


def _operating_points(verified: Verified) -> list[tuple[str, float, str]]:
    """Return the curve at a few false accept rates: the rate, TAR, and the threshold."""
    points = operating_points(verified.curve, verified.metrics.different)
    return [
        (
            f"{p.far:g}",
            p.tar,
            f"{p.threshold:.3f}" if math.isfinite(p.threshold) else "above all scores",
        )
        for p in points
    ]


def _listed(values: NDArray[Any]) -> list[float]:
    """Return values with four significant digits, which keeps their JSON short."""
    return [float(f"{value:.4g}") for value in values]
