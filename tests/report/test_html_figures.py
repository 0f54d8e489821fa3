"""The common parts of charts: names, rates, axes, phases and legends."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import plotly.graph_objects as go
import pytest

from siamkit.report.html.figures import (
    BLUE,
    ORANGE,
    Key,
    _key,
    draw_bands,
    epoch_axis,
    figure,
    label,
    rate_text,
    thinned,
)


@pytest.mark.parametrize(
    ("text", "most", "shown"),
    [
        ("abcd", 5, "abcd"), ("abcde", 5, "abcde"), ("abcdef", 5, "abcd\u2026"),
        ("a" * 22, None, "a" * 22), ("a" * 23, None, "a" * 21 + "\u2026"),
        ("<b>&", None, "&lt;b&gt;&amp;"), ("\"it's\"", None, "\"it's\""),
    ],
)  # fmt: skip
def test_a_long_name_is_cut_and_no_markup(text: str, most: int | None, shown: str) -> None:
    assert (label(text) if most is None else label(text, most)) == shown


def test_rates_have_three_digits() -> None:
    assert [rate_text(value) for value in (0.0123456, 1e-7, 0.5)] == ["0.0123", "1e-07", "0.5"]


@pytest.mark.parametrize(
    ("count", "most", "expected"),
    [
        (3, 4, [0, 1, 2]), (4, 4, [0, 1, 2, 3]), (5, 4, [0, 1, 3, 4]), (9, 3, [0, 4, 8]),
        (0, 4, []), (101, 11, list(range(0, 101, 10))),
    ],
)  # fmt: skip
def test_thinning_keeps_the_ends(count: int, most: int, expected: list[int]) -> None:
    assert thinned(count, most) == expected


@pytest.mark.parametrize(
    ("span", "ticks", "length"),
    [(12, {"dtick": 1}, 12), (12.5, {"nticks": 12}, 12.5), (1, {"dtick": 1}, 1),
     (0.5, {"dtick": 1}, 1)],
)  # fmt: skip
def test_an_axis_of_epochs_has_room_at_its_ends(span: float, ticks: Any, length: float) -> None:
    axis = epoch_axis(span)
    assert axis == {"title": {"text": "epoch"}, "range": pytest.approx([-0.01 * length,
                    1.01 * length]), **ticks}  # fmt: skip


def drawn(*ends: float) -> Any:
    plot = figure()
    starts = (2.0, *ends)
    bands: Any = [SimpleNamespace(start=a, end=b) for a, b in zip(starts, ends, strict=False)]
    draw_bands(plot, bands)
    return plot.layout


def test_one_phase_is_not_drawn_and_two_are() -> None:
    assert not drawn(6.0).shapes and not drawn(6.0).annotations
    layout = drawn(5.0, 12.0)
    assert [(s.x0, s.x1, s.y0, s.y1) for s in layout.shapes] == [(2, 5, 0, 1), (5, 12, 0, 1)]
    assert [(a.text, a.x, a.y) for a in layout.annotations] == [
        ("phase 1", 2, 1),
        ("phase 2", 5, 1),
    ]
    first, second = (shape.fillcolor for shape in layout.shapes)
    assert first != second and drawn(5.0, 7.0, 12.0).shapes[2].fillcolor == first


def test_a_narrow_phase_has_a_short_label_or_none() -> None:
    def texts(share: float) -> list[str]:
        return [a.text for a in drawn(2 + 100 * share, 102.0).annotations]

    assert texts(0.25) == ["phase 1", "phase 2"] and texts(0.24) == ["1", "phase 2"]
    assert texts(0.05) == ["1", "phase 2"] and texts(0.04) == ["phase 2"]


@pytest.mark.parametrize(
    ("trace", "key"),
    [
        (go.Bar(name="a &amp; b", marker_color=BLUE), Key("a & b", BLUE, area=True)),
        (go.Scatter(name="a", mode="lines", line={"color": BLUE, "dash": "dash"}),
         Key("a", BLUE, "6 3", line=True)),
        (go.Scatter(name="a", mode="lines+markers", line_color=BLUE, marker_symbol="x"),
         Key("a", BLUE, "", line=True, mark="\N{HEAVY MULTIPLICATION X}")),
        (go.Scatter(name="a", mode="markers", marker_color=ORANGE, line={"dash": "dot"}),
         Key("a", ORANGE, "", mark="\N{BLACK CIRCLE}")),
        (go.Scatter(name="a", mode="lines", line_width=0, fill="tozeroy", fillcolor=BLUE),
         Key("a", BLUE, "", area=True)),
        (go.Scatter(name="a", mode="markers", marker={"color": BLUE, "symbol": "hexagon"}),
         Key("a", BLUE)),
    ],
)  # fmt: skip
def test_a_key_of_the_legend_looks_like_its_trace(trace: Any, key: Key) -> None:
    assert _key(trace) == key
