"""The common parts of all charts: colours, the plain layout, phases in the background.

Text, grid and axis colours come from the page (``style.css``), so that charts follow its light,
dark and print modes without being drawn again. The colours here are distinct in all modes and for
any colour vision (Okabe and Ito, 2008, adjusted for equal contrast on white and near-black).
"""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import plotly.graph_objects as go

from siamkit.report.html.facts import Band

BLUE, ORANGE, GREEN, PINK, SKY, AMBER, GREY = (
    "#2f7fd1", "#d9660a", "#12946e", "#c2679f", "#56a8dc", "#c08a00", "#868e99",
)  # fmt: skip

Cell = str | int | float | None

_FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"
_SHADES = ("rgba(134,142,153,0.07)", "rgba(134,142,153,0.17)")
_TEXT = 12  # pixels
_LABEL = 22
_NARROWEST, _WIDE = 0.05, 0.25  # least share of the width for a label "2", and for "phase 2"
_MARKS = {
    "circle": "\N{BLACK CIRCLE}", "circle-open": "\N{WHITE CIRCLE}",
    "square": "\N{BLACK SQUARE}", "diamond": "\N{BLACK DIAMOND}",
    "star": "\N{BLACK STAR}", "x": "\N{HEAVY MULTIPLICATION X}",
}  # fmt: skip
_DASHES = {"dash": "6 3", "dot": "2 2", "dashdot": "6 2 2 2"}


@dataclass(frozen=True)
class Key:
    """An entry of a legend. The page draws legends, so that they wrap on narrow screens.

    Attributes:
        name: The name of the trace that the entry stands for.
        colour: The trace's colour.
        dashes: The lengths of the line's dashes and gaps, in SVG's format; empty for a solid line.
        line: Whether the trace is drawn as a line.
        area: Whether the trace is drawn as an area.
        mark: The character for the trace's marks; empty without marks.
    """

    name: str
    colour: str
    dashes: str = ""
    line: bool = False
    area: bool = False
    mark: str = ""


@dataclass(frozen=True)
class Chart:
    """A chart, with its content as text and as a table.

    Attributes:
        id: The name of the chart in the page.
        title: The title.
        finding: The message of the chart, in one or two sentences.
        figure: The plotly figure.
        columns: The heads of the table.
        rows: The rows of the table.
        keyed: Whether each row of the table stands for a trace, so that the table serves as the
            legend.
    """

    id: str
    title: str
    finding: str
    figure: go.Figure
    columns: tuple[str, ...]
    rows: list[tuple[Cell, ...]] = field(default_factory=list)
    keyed: bool = False

    @property
    def height(self) -> int:
        """The height in pixels."""
        return int(self.figure.layout.height)

    @property
    def keys(self) -> list[Key]:
        """The legend."""
        return [_key(t) for t in self.figure.data if t.name and t.showlegend is not False]


def _key(trace: Any) -> Key:
    name = html.unescape(trace.name)
    if trace.type == "bar":
        return Key(name, trace.marker.color, area=True)
    mode = trace.mode or ""
    mark = _MARKS.get(trace.marker.symbol or "circle", "") if "markers" in mode else ""
    line = "lines" in mode and trace.line.width != 0
    colour = (trace.line.color if line else trace.marker.color) or trace.fillcolor
    dashes = _DASHES.get(trace.line.dash or "", "") if line else ""
    return Key(name, colour, dashes, line, trace.fill is not None, mark)


def figure(*traces: Any, height: int = 260, **layout: Any) -> go.Figure:
    """Return a figure in the plain layout.

    Args:
        *traces: The data.
        height: The height in pixels.
        **layout: Differences from the plain layout.
    """
    plot = go.Figure(data=list(traces))
    return plain(plot, height=height, **layout)


def plain(plot: go.Figure, *, height: int, **layout: Any) -> go.Figure:
    """Apply the plain layout to a figure."""
    plot.update_layout(
        template="none",
        height=height,
        margin={"l": 48, "r": 18, "t": 24, "b": 46},
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        font={"family": _FONT, "size": _TEXT, "color": GREY},
        showlegend=False,
        hoverlabel={"bgcolor": "#1d222a", "bordercolor": "#1d222a", "font": {"color": "#f4f6f8"}},
        dragmode=False,
    )  # fmt: skip
    axis: dict[str, Any] = {
        "fixedrange": True, "zeroline": False, "showline": False,
        # Invisible ticks keep the labels of both axes apart where the axes meet.
        "ticks": "outside", "ticklen": 7, "tickcolor": "rgba(0,0,0,0)",
        "gridcolor": "rgba(134,142,153,0.25)", "automargin": True,
        "title": {"standoff": 6, "font": {"size": _TEXT}},
    }  # fmt: skip
    plot.update_xaxes(showgrid=False, **axis)
    plot.update_yaxes(**axis)
    plot.update_layout(**layout)
    return plot


def label(text: str, most: int = _LABEL) -> str:
    """Return a name for plotly to show literally; plotly interprets some HTML in labels."""
    short = text if len(text) <= most else text[: most - 1] + "\N{HORIZONTAL ELLIPSIS}"
    return html.escape(short, quote=False)


def rate_text(value: float) -> str:
    """Return a rate with three digits. More would show that schedules start below the full rate."""
    return f"{value:.3g}"


def draw_bands(plot: go.Figure, bands: Sequence[Band], **where: Any) -> None:
    """Draw the phases behind a chart over epochs, and their numbers above it.

    Args:
        plot: The chart.
        bands: The phases.
        **where: ``row`` and ``col`` of a subplot.
    """
    if len(bands) < 2:
        return
    for number, band in enumerate(bands, start=1):
        plot.add_shape(
            type="rect", layer="below", line_width=0, fillcolor=_SHADES[number % 2],
            x0=band.start, x1=band.end, yref="y domain", y0=0, y1=1,
            **where,
        )  # fmt: skip
        share = (band.end - band.start) / (bands[-1].end - bands[0].start)
        if share >= _NARROWEST:
            # Above the chart, where no line crosses it.
            plot.add_annotation(
                x=band.start, y=1, yref="y domain", xanchor="left", yanchor="bottom",
                text=f"phase {number}" if share >= _WIDE else str(number), showarrow=False,
                borderpad=1, **where,
            )  # fmt: skip


def epoch_axis(span: float) -> dict[str, Any]:
    """Return an axis of epochs: 0 is the start of training, 1 is the end of the first epoch."""
    ticks: dict[str, Any] = {"dtick": 1} if span <= 12 else {"nticks": 12}
    return {
        "title": {"text": "epoch"},
        "range": [-0.01 * max(span, 1), 1.01 * max(span, 1)],
        **ticks,
    }


def thinned(count: int, most: int) -> list[int]:
    """Return at most ``most`` of ``count`` indices, evenly spread, with the first and the last."""
    if count <= most:
        return list(range(count))
    return sorted({round(i * (count - 1) / (most - 1)) for i in range(most)})
