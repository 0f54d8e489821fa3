"""The texts of the freeze plan: of bars, phases and epochs."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from siamkit.report.html.facts import Band, RunFacts, StageState, facts_of
from siamkit.report.html.plan_chart import (
    _band_row,
    _epochs,
    _epochs_between,
    _hover,
    _plan_finding,
    _prefix,
    _Span,
    _spans,
    plan_chart,
    prefix_of,
)

from .charts import events

FROZEN = StageState(1000, 0, 0.0, "affine")
WHOLE = StageState(2000, 2000, 1e-3, None)


def band(start: int, end: int, **engine: Any) -> Band:
    stages = {"stem": FROZEN, "layer1": FROZEN, "head": WHOLE}
    return Band(start, end, 2000, 4000, stages, engine)


@pytest.mark.parametrize(
    ("boundary", "names"),
    [("features", {"stem", "layer1"}), ("stem", {"stem"}), ("layer1", {"stem", "layer1"}),
     ("layer1.0", set()), (None, set())],
)  # fmt: skip
def test_the_prefix_has_the_stages_up_to_the_boundary(boundary: Any, names: set[str]) -> None:
    assert prefix_of(band(0, 1, boundary=boundary)) == names


def test_a_frozen_stage_of_the_prefix_says_how_it_is_computed() -> None:
    cached = band(0, 1, boundary="stem", mode="cached")
    assert [_prefix(cached, name) for name in cached.stages] == ["computed once", "", ""]
    live = band(0, 1, boundary="features", mode="live")
    assert [_prefix(live, name) for name in live.stages] == [*["computed per batch"] * 2, ""]
    assert _prefix(band(0, 1, boundary="stem", mode="whole"), "stem") == ""
    trains = replace(cached, stages={**cached.stages, "stem": WHOLE})
    assert _prefix(trains, "stem") == ""


@pytest.mark.parametrize(
    ("start", "end", "text"),
    [(0, 1, "epoch 1"), (0, 3, "epochs 1 to 3"), (4, 5, "epoch 5"), (4, 6, "epochs 5 to 6")],
)
def test_epochs_are_counted_from_one(start: int, end: int, text: str) -> None:
    assert _epochs(start, end) == text


@pytest.mark.parametrize(
    ("span", "numbers"),
    [(0, [1]), (0.5, [1]), (3, [1, 2, 3]), (12, list(range(1, 13))), (12.5, [2, 4, 6, 8, 10, 12]),
     (25, [3, 6, 9, 12, 15, 18, 21, 24])],
)  # fmt: skip
def test_the_number_of_an_epoch_stands_at_its_middle(span: float, numbers: list[int]) -> None:
    axis = _epochs_between(span)
    assert axis["ticktext"] == [str(n) for n in numbers]
    assert axis["tickvals"] == [n - 0.5 for n in numbers]


@pytest.mark.parametrize(
    ("stage", "rates", "text"),
    [
        (FROZEN, (), "stem, epochs 2 to 3<br>frozen: 0 of 1.00 k parameters, norm affine"),
        (WHOLE, (0.1,), "stem, epochs 2 to 3<br>trains: 2.00 k of 2.00 k parameters, rate 0.1"),
        (replace(WHOLE, norm="-"), (0.1, 0.4),
         "stem, epochs 2 to 3<br>trains: 2.00 k of 2.00 k parameters, rate 0.1 to 0.4"),
    ],
)  # fmt: skip
def test_a_bar_tells_its_state_and_rates(stage: StageState, rates: Any, text: str) -> None:
    assert _hover(_Span("stem", stage, "", 1, 3, rates)) == text


@pytest.mark.parametrize(
    ("engine", "how"),
    [
        ({"mode": "cached", "kernel": "onnx"},
         "once with the onnx kernel, then read from the cache"),
        ({"mode": "cached", "kernel": None}, "once, then read from the cache"),
        ({"mode": "live", "kernel": "onnx"}, "for every batch with the onnx kernel"),
        ({"mode": "whole"}, "the whole network for every batch"),
        ({}, "unknown"),
    ],
)  # fmt: skip
def test_a_row_of_the_table_says_how_a_phase_is_computed(engine: Any, how: str) -> None:
    row = _band_row(2, band(0, 3, boundary="stem", **engine))
    assert row == (2, "1 to 3", "head", "2.00 k of 4.00 k", "50 %", "stem", how)
    assert _band_row(1, band(2, 3))[1:2] + _band_row(1, band(2, 3))[5:6] == ("3", "none")


@pytest.mark.parametrize(
    ("count", "more"),
    [(1, None), (4, None), (5, "1 more phase in the table"), (6, "2 more phases in the table")],
)
def test_the_first_four_phases_are_told(count: int, more: str | None) -> None:
    text = _plan_finding([band(n, n + 1) for n in range(count)])
    told = "; ".join(
        f"phase {n} (epoch {n}): head, 50 % of the parameters" for n in range(1, min(count, 4) + 1)
    )
    assert text.endswith(f"Trained: {told}{f'; {more}' if more else ''}.")


def spans(**change: Any) -> list[tuple[str, str, int, int]]:
    log = [{**e, **change} if e["event"] == "step" else e for e in events()]
    return [(s.name, s.text, s.start, s.end) for s in _spans(facts_of(log))]


def test_phases_of_the_same_state_share_a_bar() -> None:
    frozen = [("computed once", 0, 1), ("computed per batch", 1, 3), ("", 3, 5)]
    layer2 = [("computed once", 0, 1), ("", 1, 3), ("", 3, 5)]
    bars = {"stem": frozen, "layer1": frozen, "layer2": layer2, "head": [("rate 0.01", 0, 5)]}
    found = spans(rates={"head": 0.01, "layer2": 0.0})
    assert found == [(name, *bar) for name, each in bars.items() for bar in each]


def test_the_rates_of_a_bar_are_those_of_its_own_steps() -> None:
    found = [span for span in spans() if span[0] in ("layer2", "head")]
    assert found == [
        ("layer2", "computed once", 0, 1),
        ("layer2", "rate up to 0.000667", 1, 3),
        ("layer2", "rate up to 0.000286", 3, 5),
        ("head", "rate up to 0.02", 0, 5),
    ]


def test_a_run_without_phases_has_no_plan() -> None:
    assert plan_chart(facts_of([])) is None


def facts_with(count: int) -> RunFacts:
    facts = facts_of(events())
    stages = {f"s{i}": FROZEN for i in range(count)}
    return replace(facts, bands=(Band(0, 5, 0, 1, stages),))


@pytest.mark.parametrize(("count", "pixels"), [(1, 27), (33, 891), (34, 900), (75, 900), (76, 912)])
def test_the_plan_grows_with_the_stages_up_to_a_page(count: int, pixels: int) -> None:
    chart = plan_chart(facts_with(count))
    assert chart is not None and chart.height == 64 + pixels + 90
    low, high = chart.figure.layout.yaxis2.range
    assert (low, high) == (-0.6, count - 0.4)
