"""The looks of the charts: colours, sizes, places, axes and words."""

from __future__ import annotations

import json

import numpy as np
import pytest

from siamkit.evaluation.verification import Roc
from siamkit.report.html.facts import facts_of
from siamkit.report.html.figures import Chart
from siamkit.report.html.plan_chart import plan_chart
from siamkit.report.html.run_charts import rate_chart
from siamkit.report.html.score_charts import _spread

from .charts import FILE, charts, described, events

EXPECTED = json.loads(FILE.read_text(encoding="utf-8"))


@pytest.mark.parametrize("chart", charts(), ids=lambda chart: chart.id)
def test_a_chart_looks_as_it_did(chart: Chart):
    assert json.loads(json.dumps(described(chart))) == EXPECTED[chart.id]


def test_no_chart_is_missing():
    assert [chart.id for chart in charts()] == list(EXPECTED)


def curve(count: int) -> Roc:
    """A curve of ``count`` points that is steep at its start."""
    far = np.linspace(0, 1, count) ** 3
    return Roc(far, np.sqrt(far), np.linspace(1, -1, count))


def test_a_short_curve_is_drawn_whole():
    assert _spread(curve(600)).tolist() == list(range(600))


def test_a_long_curve_is_drawn_smoothly_on_linear_and_on_log_axes():
    whole = curve(5000)
    kept = _spread(whole)
    assert (kept[0], kept[-1]) == (0, 4999)
    assert np.all(np.diff(kept) > 0)
    assert len(kept) <= 4 * 300 + 2 < len(whole.far)
    far, tar = whole.far[kept], whole.tar[kept]
    step = 1 / 299
    assert np.diff(far).max() <= step + np.diff(whole.far).max()
    assert np.diff(tar).max() <= step + np.diff(whole.tar).max()
    # Within each decade of either rate, there are all points, or enough of them.
    for some, every in ((far, whole.far), (1 - tar, 1 - whole.tar)):
        for low in (1e-9, 1e-8, 1e-7, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1):
            there = np.count_nonzero((low <= every) & (every < 10 * low))
            drawn = np.count_nonzero((low <= some) & (some < 10 * low))
            assert drawn >= min(there, 15) - 1, low


def test_many_stages_with_rates_have_no_legend():
    for count in (8, 9):
        log = events()
        for event in log:
            if "rates" in event:
                event["rates"] = {f"stage{i}": 0.01 / (i + 1) for i in range(count)}
        chart = rate_chart(facts_of(log))
        assert chart is not None and len(chart.figure.data) == count
        assert len(chart.keys) == (count if count <= 8 else 0)


def test_a_stage_that_the_log_tells_later_is_in_the_plan_from_then_on():
    log = events()
    first = next(event for event in log if event["event"] == "phase_start")
    first["changes"] = [c for c in first["changes"] if c["stage"] != "layer2"]
    chart = plan_chart(facts_of(log))
    assert chart is not None
    [bars] = [trace for trace in chart.figure.data if trace.name == "partly"]
    names = list(chart.figure.layout.yaxis2.ticktext)
    assert [names[place] for place in bars.y] == ["layer2"] and list(bars.base) == [1]
