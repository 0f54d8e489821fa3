"""The charts of a run's events: curves, rates, the freeze plan, time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from siamkit.report import units
from siamkit.report.html import timing
from siamkit.report.html.facts import FROZEN, PARTLY, TRAINS, Band, Facts
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
    pattern,
    plain,
    thinned,
)  # fmt: skip

_POINTS = 500
_RATE_STYLES = ("solid", "dash", "dot", "dashdot")
_RATE_COLOURS = (BLUE, ORANGE, GREEN, PINK, SKY, AMBER, GREY)


def loss_chart(facts: Facts) -> Chart | None:
    """Return the training loss by step and by epoch."""
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
            name="epoch mean", mode="lines+markers", line={"color": BLUE, "width": 2.5},
            hovertemplate="epoch %{x}: %{y:.4g}<extra></extra>",
        ),
    ]  # fmt: skip
    found = figure(*traces, xaxis=epoch_axis(facts.span))
    draw_bands(found, facts.bands)
    if facts.epochs:
        first, last = facts.epochs[0].loss, facts.epochs[-1].loss
        finding = f"The mean loss of an epoch goes from {first:.3g} to {last:.3g}."
    else:
        finding = f"The loss of the first {len(facts.steps)} steps; no epoch is finished."
    rows: list[tuple[Cell, ...]] = [(e.number + 1, _three(e.loss)) for e in facts.epochs]
    return Chart("loss", "Training loss", finding, found, ("epoch", "mean loss"), rows)


def metric_chart(facts: Facts, name: str) -> Chart | None:
    """Return a metric of held-out and of training classes by epoch, with the gap between them."""
    epochs = [e for e in facts.epochs if name in e.metrics]
    if not epochs:
        return None
    before = facts.untrained.get(name)
    x = [e.number + 1 for e in epochs]
    held = [e.metrics[name] for e in epochs]
    gaps = [(e.number + 1, e.train_metrics[name]) for e in epochs if name in e.train_metrics]
    held_x, held_y = ([0, *x], [before, *held]) if before is not None else (x, held)
    found = figure(xaxis=epoch_axis(facts.span), hovermode="x unified")
    if gaps:
        found.add_scatter(
            x=[g[0] for g in gaps], y=[g[1] for g in gaps], name="training",
            mode="lines+markers", line={"color": ORANGE, "width": 2, "dash": "dash"},
            marker={"symbol": "square", "size": 6}, hovertemplate="%{y:.3f}",
        )  # fmt: skip
    found.add_scatter(
        x=held_x, y=held_y, name="held out", mode="lines+markers",
        line={"color": BLUE, "width": 2.5}, marker={"size": 7}, hovertemplate="%{y:.3f}",
    )  # fmt: skip
    if gaps and len(gaps) == len(x):
        found.add_scatter(
            x=[*x, *reversed(x)], y=[*held, *(g[1] for g in reversed(gaps))], fill="toself",
            fillcolor="rgba(217,102,10,0.12)", line={"width": 0}, mode="lines", name="gap",
            hoverinfo="skip",
        )  # fmt: skip
    if before is not None:
        found.add_hline(y=before, line={"color": GREY, "width": 1, "dash": "dot"})
    best = facts.best
    if best is not None and name in best.metrics:
        found.add_scatter(
            x=[best.number + 1], y=[best.metrics[name]], name="best", mode="markers",
            marker={"symbol": "star", "size": 15, "color": BLUE, "line": {"width": 1}},
            hoverinfo="skip",
        )  # fmt: skip
    draw_bands(found, facts.bands)
    return Chart(
        f"metric-{name.replace('@', '-')}",
        f"{name} by epoch",
        _metric_finding(facts, name, epochs[-1].metrics[name], gaps),
        found,
        ("epoch", "held-out", "training", "gap"),
        _metric_rows(facts, name),
    )


def _metric_finding(facts: Facts, name: str, last: float, gaps: Sequence[tuple[int, float]]) -> str:
    before, best = facts.untrained.get(name), facts.best
    start = f"{before:.3f} untrained, " if before is not None else ""
    top = ""
    if best is not None and name in best.metrics:
        top = f"{best.metrics[name]:.3f} after the best epoch ({best.number + 1})"
    gap = f" Training classes stand {gaps[-1][1] - last:+.3f} to them at the end." if gaps else ""
    return f"Held-out classes: {start}{top}.{gap}"


def _metric_rows(facts: Facts, name: str) -> list[tuple[Cell, ...]]:
    rows: list[tuple[Cell, ...]] = []
    if name in facts.untrained:
        rows.append((0, _three(facts.untrained[name]), None, None))
    for epoch in facts.epochs:
        held, train = epoch.metrics.get(name), epoch.train_metrics.get(name)
        gap = None if held is None or train is None else f"{train - held:+.3f}"
        rows.append((epoch.number + 1, _three(held), _three(train), gap))
    return rows


def rate_chart(facts: Facts) -> Chart | None:
    """Return the rate of each stage over time."""
    stages = list(dict.fromkeys(name for step in facts.steps for name in step.rates))
    if not stages:
        return None
    order = list(facts.bands[-1].stages) if facts.bands else stages
    stages.sort(key=lambda name: -order.index(name) if name in order else 1)
    steps = [facts.steps[i] for i in thinned(len(facts.steps), _POINTS)]
    found = figure(xaxis=epoch_axis(facts.span))
    rows: list[tuple[Cell, ...]] = []
    for index, stage in enumerate(stages):
        # A stage that does not train has no rate: the line is broken there.
        values = [step.rates.get(stage) or None for step in steps]
        found.add_scatter(
            x=[step.at for step in steps], y=values, name=label(stage), mode="lines",
            connectgaps=False, hovertemplate="%{y:.3g}",
            line={
                "color": _RATE_COLOURS[index % len(_RATE_COLOURS)], "width": 2,
                "dash": _RATE_STYLES[index % len(_RATE_STYLES)],
            },
        )  # fmt: skip
        known = [value for value in values if value]
        if known:
            rows.append((stage, units.rate(max(known)), units.rate(min(known))))
    found.update_layout(hovermode="x unified")
    found.update_yaxes(type="log", exponentformat="e", dtick=1)
    draw_bands(found, facts.bands)
    top = max((max(step.rates.values(), default=0.0) for step in facts.steps), default=0.0)
    finding = (
        f"Log axis. The highest rate is {units.rate(top)}; a stage has a line only while it trains."
    )
    return Chart(
        "rates", "Rate by stage", finding, found, ("stage", "highest rate", "lowest rate"), rows
    )


# --- the freeze plan -----------------------------------------------------------------------------


def prefix_of(band: Band) -> set[str]:
    """Return the stages that lie whole in the frozen prefix of a phase. Pure.

    ``features`` is the whole backbone, all but the head; a boundary within a stage leaves that
    stage out.
    """
    names = list(band.stages)
    boundary = band.engine.get("boundary")
    if boundary == "features":
        return {name for name in names if name != "head"}
    return set(names[: names.index(boundary) + 1]) if boundary in names else set()


def plan_chart(facts: Facts) -> Chart | None:
    """Return the freeze plan as a picture: stages over epochs, and the share that trains."""
    bands = facts.bands
    if not bands:
        return None
    stages = list(bands[-1].stages)
    ticks = [label(name) for name in stages]
    found = make_subplots(
        rows=2, cols=1, shared_xaxes=True, row_heights=[64, 24 * len(stages)],
        vertical_spacing=min(0.1, 16 / (64 + 24 * len(stages))),
    )  # fmt: skip
    found.add_scatter(
        x=[x for band in bands for x in (band.start, band.end)],
        y=[100 * band.share for band in bands for _ in range(2)],
        mode="lines", line={"color": BLUE, "width": 2}, fill="tozeroy",
        fillcolor="rgba(47,127,209,0.18)", showlegend=False, name="share",
        hovertemplate="%{y:.3g} % train<extra></extra>", row=1, col=1,
    )  # fmt: skip
    looks: dict[str, dict[str, Any]] = {
        TRAINS: {"color": BLUE},
        PARTLY: {
            "color": SKY,
            "pattern": pattern("/"),
        },
        FROZEN: {"color": "rgba(134,142,153,0.28)"},
    }
    for state, look in looks.items():
        cells = [
            (number, band, stage, name)
            for band in bands
            for number, (name, stage) in enumerate(band.stages.items())
            if stage.state == state and number < len(stages)
        ]
        if cells:
            found.add_bar(
                orientation="h", name=state, marker=look,
                base=[band.start for _, band, _, _ in cells],
                x=[band.end - band.start for _, band, _, _ in cells],
                y=[number for number, _, _, _ in cells],
                text=[_cell_text(band, stage, name) for _, band, stage, name in cells],
                textposition="inside", insidetextanchor="middle", constraintext="inside",
                hovertext=[_cell_hover(band, stage, name) for _, band, stage, name in cells],
                hoverinfo="text", row=2, col=1,
            )  # fmt: skip
    plain(found, height=64 + 24 * len(stages) + 100, barmode="overlay", bargap=0.18)
    found.update_xaxes(**{**epoch_axis(facts.span), "title": None}, row=1, col=1)
    found.update_xaxes(**epoch_axis(facts.span), row=2, col=1)
    found.update_traces(textfont_color="#fff", selector={"type": "bar"})
    # The page's style knows it by this colour: white would not do on the shade of what is frozen.
    found.update_traces(textfont_color=GREY, selector={"name": FROZEN})
    found.update_yaxes(
        tickmode="array", tickvals=list(range(len(stages))), ticktext=ticks, showgrid=False,
        range=[-0.6, len(stages) - 0.4], row=2, col=1,
    )  # fmt: skip
    found.update_yaxes(title_text="train, %", rangemode="tozero", row=1, col=1)
    return Chart(
        "plan", "What trained when", _plan_finding(bands), found,
        ("phase", "epochs", "trains", "parameters", "share", "frozen prefix", "computed"),
        [_band_row(number, band) for number, band in enumerate(bands, start=1)],
    )  # fmt: skip


def _plan_finding(bands: Sequence[Band]) -> str:
    parts = [
        f"phase {number} ({epochs(band)}): {band.what}, "
        f"{units.percent(band.share)} of the parameters"
        for number, band in enumerate(bands[:6], start=1)
    ]
    more = f"; and {len(bands) - 6} phases more" if len(bands) > 6 else ""
    return (
        f"From the image (bottom) to the embedding (top). What trains in {'; '.join(parts)}{more}."
    )


def _cell_text(band: Band, stage: Any, name: str) -> str:
    if stage.trainable:
        return f"rate {units.rate(stage.lr)}"
    mode = band.engine.get("mode")
    return {"cached": "computed once", "live": "prefix"}.get(str(mode), "") if (
        name in prefix_of(band)
    ) else ""  # fmt: skip


def _cell_hover(band: Band, stage: Any, name: str) -> str:
    rate = f", rate {units.rate(stage.lr)}" if stage.trainable else ""
    norm = f", norm {stage.norm}" if stage.norm and stage.norm != "-" else ""
    return (
        f"{label(name, 60)}, {epochs(band)}<br>{stage.state}: {units.count(stage.trainable)} of "
        f"{units.count(stage.parameters)} parameters{rate}{label(norm)}"
    )


def epochs(band: Band) -> str:
    """Return the epochs of a phase in words, counted from 1."""
    first, last = band.start + 1, band.end
    return f"epoch {first}" if first == last else f"epochs {first} to {last}"


def _band_row(number: int, band: Band) -> tuple[Cell, ...]:
    engine = band.engine
    kernel = f" with {engine['kernel']}" if engine.get("kernel") else ""
    how = {
        "cached": f"once{kernel}, then read from the cache",
        "live": f"for every batch{kernel}",
        "whole": "whole network for every batch",
    }.get(str(engine.get("mode")), "unknown")
    return (
        number, f"{band.start + 1} to {band.end}", band.what,
        f"{units.count(band.trainable)} of {units.count(band.parameters)}",
        units.percent(band.share), engine.get("boundary") or "none", how,
    )  # fmt: skip


# --- time ----------------------------------------------------------------------------------------

_LOOKS: dict[str, tuple[str, str]] = {
    timing.SETUP: (GREY, ""),
    timing.FILL: (SKY, "/"),
    timing.WAIT: (AMBER, "."),
    timing.PREFIX: (SKY, ""),
    timing.SUFFIX: (BLUE, ""),
    timing.STEPS: (BLUE, "x"),
    timing.EVALUATION: (GREEN, "\\"),
    timing.SAVING: (PINK, "-"),
}


def time_chart(by_epoch: Mapping[int, Mapping[str, float]]) -> Chart | None:
    """Return where the time went, by epoch and kind of work."""
    sums = timing.totals(by_epoch)
    total = sum(sums.values())
    if not total:
        return None
    shown = list(by_epoch)
    found = figure(barmode="stack", bargap=0.25, height=300)
    for kind in sums:
        colour, shape = _LOOKS[kind]
        found.add_bar(
            x=[epoch + 1 for epoch in shown],
            y=[by_epoch[epoch].get(kind, 0.0) for epoch in shown],
            name=timing.KINDS[kind], hovertemplate="epoch %{x}: %{y:.1f} s",
            marker={
                "color": colour, "line": {"width": 0},
                "pattern": pattern(shape),
            },
        )  # fmt: skip
    found.update_yaxes(title_text="seconds")
    found.update_xaxes(title_text="epoch", **({"dtick": 1} if len(shown) <= 16 else {"nticks": 12}))
    found.update_layout(legend={"y": -0.24, "yanchor": "top", "traceorder": "normal"})
    top = max(sums, key=lambda kind: sums[kind])
    name = timing.KINDS[top]
    finding = (
        f"{units.duration(total)} in all; most of it, {units.percent(sums[top] / total)}, is: "
        f"{name[0].lower()}{name[1:]}."
    )
    rows: list[tuple[Cell, ...]] = [
        (timing.KINDS[kind], units.duration(s), units.percent(s / total))
        for kind, s in sums.items()
    ]
    return Chart("time", "Where the time went", finding, found, ("work", "time", "share"), rows)


def _three(value: float | None) -> str | None:
    return None if value is None else f"{value:.3f}"
