"""The chart of the freeze plan: stages over epochs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from plotly.subplots import make_subplots

from siamkit.report import units
from siamkit.report.html.facts import FROZEN, PARTLY, TRAINS, Band, RunFacts, StageState
from siamkit.report.html.figures import (
    BLUE,
    GREY,
    SKY,
    Cell,
    Chart,
    draw_bands,
    epoch_axis,
    label,
    plain,
    rate_text,
)
from siamkit.words import plural, short_count

_LISTED = 4
_DEEP_BLUE = "#2870bb"  # white text is readable on it
_NAMES = 54  # the most stage names that fit on a printed page
_READABLE = 11  # pixels: text that would be smaller is shown in the table only
_PREFIX = {"cached": "computed once", "live": "computed per batch"}


def prefix_of(band: Band) -> set[str]:
    """Return the stages that lie completely in the frozen prefix of a phase.

    The boundary ``features`` stands for the whole backbone, without the head. A stage with the
    boundary inside it is left out.
    """
    names = list(band.stages)
    boundary = band.engine.get("boundary")
    if boundary == "features":
        return {name for name in names if name != "head"}
    return set(names[: names.index(boundary) + 1]) if boundary in names else set()


def plan_chart(facts: RunFacts) -> Chart | None:
    """Return the chart of the freeze plan: stages over epochs, and the trainable share."""
    bands = facts.bands
    if not bands:
        return None
    stages = list(bands[-1].stages)
    ticks = [label(name) for name in stages]
    pixels = min(27 * len(stages), max(900, 12 * len(stages)))
    every = math.ceil(len(stages) / _NAMES)
    plot = make_subplots(
        rows=2, cols=1, shared_xaxes=True, row_heights=[64, pixels],
        vertical_spacing=min(0.1, 16 / (64 + pixels)),
    )  # fmt: skip
    plot.add_scatter(
        x=[x for band in bands for x in (band.start, band.end)],
        y=[100 * band.share for band in bands for _ in range(2)],
        mode="lines", line={"color": BLUE, "width": 2}, fill="tozeroy",
        fillcolor="rgba(47,127,209,0.18)", showlegend=False, name="share",
        hovertemplate="%{y:.3g} % train<extra></extra>", row=1, col=1,
    )  # fmt: skip
    looks: dict[str, dict[str, Any]] = {
        TRAINS: {"color": _DEEP_BLUE},
        PARTLY: {"color": SKY},
        FROZEN: {"color": "rgba(134,142,153,0.28)"},
    }
    spans = _spans(facts)
    for state, look in looks.items():
        cells = [span for span in spans if span.stage.state == state]
        if cells:
            plot.add_bar(
                orientation="h", name=state, marker=look, width=0.86,
                base=[cell.start for cell in cells],
                x=[cell.end - cell.start for cell in cells],
                y=[stages.index(cell.name) for cell in cells],
                text=[cell.text for cell in cells],
                textposition="inside", insidetextanchor="middle",
                textangle=0, hovertext=[_hover(cell) for cell in cells], hoverinfo="text",
                row=2, col=1,
            )  # fmt: skip
    plain(plot, height=64 + pixels + 90, barmode="overlay")
    plot.update_layout(uniformtext={"mode": "hide", "minsize": _READABLE})
    plot.update_xaxes(**_epochs_between(facts.span))
    plot.update_xaxes(title=None, row=1, col=1)
    draw_bands(plot, bands, row=1, col=1)
    plot.update_traces(textfont_color="#fff", selector={"type": "bar"})
    # Grey, since white is unreadable on frozen bars; the style sheet finds the text by its colour.
    plot.update_traces(textfont_color=GREY, selector={"name": FROZEN})
    plot.update_traces(textfont_color="#0b2233", selector={"name": PARTLY})
    plot.update_yaxes(
        tickmode="array", tickvals=list(range(0, len(stages), every)), ticktext=ticks[::every],
        showgrid=False,
        range=[-0.6, len(stages) - 0.4], row=2, col=1,
    )  # fmt: skip
    plot.update_yaxes(title_text="train, %", range=[0, 105], dtick=50, row=1, col=1)
    return Chart(
        "plan", "Freeze plan", _plan_finding(bands), plot,
        ("phase", "epochs", "trains", "parameters", "share", "frozen up to", "how it is computed"),
        [_band_row(number, band) for number, band in enumerate(bands, start=1)],
    )  # fmt: skip


def _epochs_between(span: float) -> dict[str, Any]:
    """Return an axis that counts epochs from 1 and puts each number at the middle of its epoch."""
    count = max(math.ceil(span), 1)
    every = math.ceil(count / 12)
    numbers = range(every, count + 1, every)
    return {
        **epoch_axis(span), "dtick": None, "tickmode": "array",
        "tickvals": [n - 0.5 for n in numbers], "ticktext": [str(n) for n in numbers],
    }  # fmt: skip


def _plan_finding(bands: Sequence[Band]) -> str:
    parts = [
        f"phase {number} ({_epochs(band.start, band.end)}): {band.trained_text}, "
        f"{units.percent(band.share)} of the parameters"
        for number, band in enumerate(bands[:_LISTED], start=1)
    ]
    more = (
        f"; {plural(len(bands) - _LISTED, 'more phase')} in the table"
        if len(bands) > _LISTED
        else ""
    )
    return (
        f"The stages run from the image (bottom) to the embedding (top). "
        f"Trained: {'; '.join(parts)}{more}."
    )


@dataclass(frozen=True)
class _Span:
    """Consecutive epochs in which the state of a stage does not change."""

    name: str
    stage: StageState
    text: str
    start: int
    end: int
    rates: tuple[float, ...] = ()


def _spans(facts: RunFacts) -> list[_Span]:
    """Return the spans of all stages. Successive phases with the same state share one span."""
    bands = facts.bands
    spans: list[_Span] = []
    for name in bands[-1].stages:
        mine: list[_Span] = []
        for band in bands:
            if name not in band.stages:
                continue
            span = _Span(name, band.stages[name], _prefix(band, name), band.start, band.end)
            last = mine[-1] if mine else None
            if last and (last.stage, last.text, last.end) == (span.stage, span.text, span.start):
                span = replace(mine.pop(), end=span.end)
            mine.append(span)
        spans += [_with_rates(span, facts) for span in mine]
    return spans


def _prefix(band: Band, name: str) -> str:
    if band.stages[name].trainable or name not in prefix_of(band):
        return ""
    return _PREFIX.get(str(band.engine.get("mode")), "")


def _with_rates(span: _Span, facts: RunFacts) -> _Span:
    """Return a span with its rates: the schedule changes a stage's rate within a phase."""
    if not span.stage.trainable:
        return span
    steps = [step for step in facts.steps if span.start < step.at <= span.end]
    rates = tuple(step.rates[span.name] for step in steps if step.rates.get(span.name))
    if not rates:
        return span
    highest = rate_text(max(rates))
    text = f"rate {highest}" if min(rates) == max(rates) else f"rate up to {highest}"
    return replace(span, text=text, rates=rates)


def _hover(span: _Span) -> str:
    stage = span.stage
    rate = ""
    if span.rates:
        low, high = rate_text(min(span.rates)), rate_text(max(span.rates))
        rate = f", rate {low}" if low == high else f", rate {low} to {high}"
    norm = f", norm {stage.norm}" if stage.norm and stage.norm != "-" else ""
    return (
        f"{label(span.name, 60)}, {_epochs(span.start, span.end)}<br>{stage.state}: "
        f"{short_count(stage.trainable)} of {short_count(stage.parameters)} parameters{rate}"
        f"{label(norm)}"
    )


def _epochs(start: int, end: int) -> str:
    """Return ``epochs 1 to 3``, counted from 1, for the epochs ``[0, 3)``, counted from 0."""
    return f"epoch{'s' * (end - start > 1)} {_between(start, end)}"


def _between(start: int, end: int) -> str:
    return str(end) if end - start == 1 else f"{start + 1} to {end}"


def _band_row(number: int, band: Band) -> tuple[Cell, ...]:
    engine = band.engine
    kernel = f" with the {engine['kernel']} kernel" if engine.get("kernel") else ""
    how = {
        "cached": f"once{kernel}, then read from the cache",
        "live": f"for every batch{kernel}",
        "whole": "the whole network for every batch",
    }.get(str(engine.get("mode")), "unknown")
    return (
        number, _between(band.start, band.end), band.trained_text,
        f"{short_count(band.trainable)} of {short_count(band.parameters)}",
        units.percent(band.share), engine.get("boundary") or "none", how,
    )  # fmt: skip
