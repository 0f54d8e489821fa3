"""The charts of a run over its epochs: curves, rates, time."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import plotly.graph_objects as go

from siamkit.report import units
from siamkit.report.html import timing
from siamkit.report.html.facts import RunFacts
from siamkit.report.html.figures import (
    AMBER,
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    PINK,
    SKY,
    Cell,
    Chart,
    draw_bands,
    epoch_axis,
    figure,
    label,
    rate_text,
    thinned,
)  # fmt: skip
from siamkit.words import plural

_POINTS = 500
_LEGEND = 8
_MARKED = 40
_NARROWEST = 0.05  # the shortest axis of a metric
_DECADES = 20  # ratio of rates above which the axis has one tick per decade
_RATE_STYLES = ("solid", "dash", "dot", "dashdot")
_RATE_COLOURS = (BLUE, ORANGE, GREEN, PINK, SKY, AMBER, GREY)


def loss_chart(facts: RunFacts) -> Chart | None:
    """Return the chart of the training loss, by step and by epoch."""
    if not facts.steps:
        return None
    steps = [facts.steps[i] for i in thinned(len(facts.steps), _POINTS)]
    traces = [
        go.Scatter(
            x=[s.at for s in steps], y=[s.loss for s in steps], name="step", mode="lines",
            line={"color": GREY, "width": 1}, opacity=0.6, hoverinfo="skip",
        ),
        go.Scatter(
            x=[e.number + 1 for e in facts.epochs], y=[e.loss for e in facts.epochs],
            name="epoch mean", mode=_mode(facts), line={"color": BLUE, "width": 2.5},
            hovertemplate="epoch %{x}: %{y:.4g}<extra></extra>",
        ),
    ]  # fmt: skip
    plot = figure(*traces, xaxis=epoch_axis(facts.span))
    draw_bands(plot, facts.bands)
    if facts.epochs:
        first, last = facts.epochs[0].loss, facts.epochs[-1].loss
        finding = f"The mean loss per epoch goes from {first:.3g} to {last:.3g}."
    else:
        finding = f"The loss of the first {plural(len(facts.steps), 'step')}; no epoch is complete."
    rows: list[tuple[Cell, ...]] = [(e.number + 1, _three(e.loss)) for e in facts.epochs]
    return Chart("loss", "Training loss", finding, plot, ("epoch", "mean loss"), rows)


def _mode(facts: RunFacts) -> str:
    """Return the mode of lines over epochs: no marks if they would merge into a thick line."""
    return "lines+markers" if len(facts.epochs) <= _MARKED else "lines"


def metric_chart(facts: RunFacts, name: str) -> Chart | None:
    """Return the chart of a metric by epoch, on held-out and on training classes, with the gap."""
    epochs = [e for e in facts.epochs if name in e.metrics]
    if not epochs:
        return None
    before = facts.untrained.get(name)
    x = [e.number + 1 for e in epochs]
    held = [e.metrics[name] for e in epochs]
    gaps = [(e.number + 1, e.train_metrics[name]) for e in epochs if name in e.train_metrics]
    held_x, held_y = ([0, *x], [before, *held]) if before is not None else (x, held)
    plot = figure(xaxis=epoch_axis(facts.span), hovermode="x unified")
    plot.add_scatter(
        x=held_x, y=held_y, name="held out", mode=_mode(facts),
        line={"color": BLUE, "width": 2.5}, marker={"size": 7}, hovertemplate="%{y:.3f}",
        cliponaxis=False,
    )  # fmt: skip
    if gaps:
        plot.add_scatter(
            x=[g[0] for g in gaps], y=[g[1] for g in gaps], name="training",
            mode=_mode(facts), line={"color": ORANGE, "width": 2, "dash": "dash"},
            marker={"symbol": "square", "size": 6}, hovertemplate="%{y:.3f}", cliponaxis=False,
        )  # fmt: skip
    if gaps and len(gaps) == len(x):
        plot.add_scatter(
            x=[*x, *reversed(x)], y=[*held, *(g[1] for g in reversed(gaps))], fill="toself",
            fillcolor="rgba(217,102,10,0.12)", line={"width": 0}, mode="lines", name="gap",
            hoverinfo="skip",
        )  # fmt: skip
    if before is not None:
        plot.add_hline(y=before, line={"color": GREY, "width": 1, "dash": "dot"})
    best = facts.best
    if best is not None and name in best.metrics:
        plot.add_scatter(
            x=[best.number + 1], y=[best.metrics[name]], name="best", mode="markers",
            marker={"symbol": "star", "size": 15, "color": BLUE}, hoverinfo="skip",
            cliponaxis=False,
        )  # fmt: skip
    plot.update_yaxes(range=_range([*held_y, *(gap[1] for gap in gaps)]))
    draw_bands(plot, facts.bands)
    return Chart(
        f"metric-{name.replace('@', '-')}",
        f"{name} by epoch",
        _metric_finding(facts, name, epochs[-1].metrics[name], gaps),
        plot,
        ("epoch", "held-out", "training", "gap"),
        _metric_rows(facts, name),
    )


def _range(values: Sequence[float]) -> tuple[float, float] | None:
    """Return the ends of a metric's axis. A shorter axis would exaggerate small changes."""
    known = [value for value in values if math.isfinite(value)]
    if not known:
        return None
    low, high = min(known), max(known)
    margin = max(0.08 * (high - low), (_NARROWEST - (high - low)) / 2)
    return low - margin, high + margin


def _metric_finding(
    facts: RunFacts, name: str, last: float, gaps: Sequence[tuple[int, float]]
) -> str:
    before, best = facts.untrained.get(name), facts.best
    parts = [f"{before:.3f} untrained"] if before is not None else []
    if best is not None and name in best.metrics:
        parts.append(f"{best.metrics[name]:.3f} after the best epoch ({best.number + 1})")
    else:
        parts.append(f"{last:.3f} after the last epoch; the best network is from before the first")
    end = gaps[-1][1] if gaps else None
    gap = ""
    if end is not None:
        gap = f" Training: {end:.3f} after the last epoch, a gap of {units.change(end - last)}."
    return f"Held out: {', '.join(parts)}.{gap}"


def _metric_rows(facts: RunFacts, name: str) -> list[tuple[Cell, ...]]:
    rows: list[tuple[Cell, ...]] = []
    if name in facts.untrained:
        rows.append((0, _three(facts.untrained[name]), None, None))
    for epoch in facts.epochs:
        held, train = epoch.metrics.get(name), epoch.train_metrics.get(name)
        gap = None if held is None or train is None else units.change(train - held)
        rows.append((epoch.number + 1, _three(held), _three(train), gap))
    return rows


def rate_chart(facts: RunFacts) -> Chart | None:
    """Return the chart of each stage's learning rate; stages with equal rates share a line."""
    stages = list(dict.fromkeys(name for step in facts.steps for name in step.rates))
    if not stages:
        return None
    order = list(facts.bands[-1].stages) if facts.bands else stages
    stages.sort(key=lambda name: -order.index(name) if name in order else 1)
    steps = [facts.steps[i] for i in thinned(len(facts.steps), _POINTS)]
    lines: dict[tuple[float | None, ...], list[str]] = {}
    for stage in stages:
        # A stage that does not train has no rate, which leaves a gap in its line.
        values = tuple(step.rates.get(stage) or None for step in steps)
        if any(values):
            lines.setdefault(values, []).append(stage)
    plot = figure(xaxis=epoch_axis(facts.span))
    rows: list[tuple[Cell, ...]] = []
    for index, (values, names) in enumerate(lines.items()):
        name = names[0] if len(names) == 1 else f"{names[-1]} to {names[0]}"
        plot.add_scatter(
            x=[step.at for step in steps], y=list(values), name=label(name, 34), mode="lines",
            connectgaps=False, hovertemplate="%{y:.3g}",
            line={
                "color": _RATE_COLOURS[index % len(_RATE_COLOURS)], "width": 2,
                "dash": _RATE_STYLES[index % len(_RATE_STYLES)],
            },
        )  # fmt: skip
        known = [value for value in values if value]
        rows.append((", ".join(names), rate_text(max(known)), rate_text(min(known))))
    plot.update_layout(hovermode="x unified")
    if len(lines) > _LEGEND:
        plot.update_traces(showlegend=False)
    rates = [rate for step in facts.steps for rate in step.rates.values() if rate]
    low, top = min(rates, default=1.0), max(rates, default=1.0)
    plot.update_yaxes(type="log", **_rate_axis(low, top))
    draw_bands(plot, facts.bands)
    finding = (
        f"Log axis. The highest rate is {rate_text(top)}. A stage has a line only while it trains."
    )
    return Chart(
        "rates",
        "Learning rate by stage",
        finding,
        plot,
        ("stage", "highest rate", "lowest rate"),
        rows,
    )


def _rate_axis(low: float, high: float) -> dict[str, Any]:
    """Return a log axis for rates. In a narrow range, plotly would label 0.02 as a small 2."""
    if high > _DECADES * low:
        return {"exponentformat": "e", "dtick": 1}
    powers = range(math.floor(math.log10(low)) - 1, math.ceil(math.log10(high)) + 2)
    ticks = [digit * 10.0**power for power in powers for digit in (1, 2, 5)]
    around = math.log10(low / 2), math.log10(high * 2)
    return {
        "range": around, "tickmode": "array", "tickvals": ticks,
        "ticktext": [rate_text(tick) for tick in ticks],
    }  # fmt: skip


# --- time ----------------------------------------------------------------------------------------

_COLOURS = {
    timing.SETUP: GREY,
    timing.FILL: SKY,
    timing.WAIT: AMBER,
    timing.PREFIX: ORANGE,
    timing.SUFFIX: BLUE,
    timing.STEPS: BLUE,
    timing.EVALUATION: GREEN,
    timing.SAVING: PINK,
}


def time_chart(by_epoch: Mapping[int, Mapping[str, float]]) -> Chart | None:
    """Return the chart of the time spent, by epoch and kind of work."""
    sums = timing.totals(by_epoch)
    total = sum(sums.values())
    if not total:
        return None
    shown = list(by_epoch)
    plot = figure(barmode="stack", bargap=0.25, height=260)
    for kind in sums:
        plot.add_bar(
            x=[epoch + 1 for epoch in shown],
            y=[by_epoch[epoch].get(kind, 0.0) for epoch in shown],
            name=timing.KINDS[kind], hovertemplate="epoch %{x}: %{y:.1f} s",
            marker={"color": _COLOURS[kind]},
        )  # fmt: skip
    plot.update_yaxes(title_text="seconds")
    plot.update_xaxes(title_text="epoch", **({"dtick": 1} if len(shown) <= 16 else {"nticks": 12}))
    top = max(sums, key=lambda kind: sums[kind])
    name = timing.KINDS[top]
    finding = (
        f"{units.duration(total)} in total. The largest part ({units.percent(sums[top] / total)}): "
        f"{name[0].lower()}{name[1:]}."
    )
    rows: list[tuple[Cell, ...]] = [
        (timing.KINDS[kind], units.duration(s), units.percent(round(s / total, 3)))
        for kind, s in sums.items()
    ]
    columns = ("work", "time", "share")
    return Chart("time", "Time by epoch", finding, plot, columns, rows, keyed=True)


def _three(value: float | None) -> str | None:
    return None if value is None else f"{value:.3f}"
