"""The looks of the charts: colours, sizes, places, axes and words."""

from __future__ import annotations

import json

import numpy as np
import pytest

from siamkit.evaluation.verification import Roc
from siamkit.report.html import timing
from siamkit.report.html.facts import RunFacts, facts_of
from siamkit.report.html.figures import Chart, epoch_axis
from siamkit.report.html.plan_chart import plan_chart
from siamkit.report.html.run_charts import loss_chart, metric_chart, rate_chart, time_chart
from siamkit.report.html.score_charts import _spread

from .charts import FILE, charts, described, events

EXPECTED = json.loads(FILE.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def drawn() -> dict[str, Chart]:
    return {chart.id: chart for chart in charts()}


@pytest.mark.parametrize("name", EXPECTED)
def test_a_chart_looks_as_it_did(drawn: dict[str, Chart], name: str):
    assert json.loads(json.dumps(described(drawn[name]))) == EXPECTED[name]


def test_no_chart_is_missing(drawn: dict[str, Chart]):
    assert list(drawn) == list(EXPECTED)


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


@pytest.mark.parametrize(("count", "every"), [(54, 1), (55, 2), (108, 2), (109, 3)])
def test_the_names_of_many_stages_fit_on_a_page(count: int, every: int):
    log = events()
    for event in log:
        if event["event"] == "phase_start":
            event["changes"] = [
                {"stage": f"s{i}", "parameters": 10, "norm": None, "lr": 1e-3, "was": None,
                 "trainable": 10}
                for i in range(count)
            ]  # fmt: skip
    chart = plan_chart(facts_of(log))
    assert chart is not None
    names = list(chart.figure.layout.yaxis2.ticktext)
    assert names == [f"s{i}" for i in range(0, count, every)]
    assert list(chart.figure.layout.yaxis2.tickvals) == list(range(0, count, every))


def long_run(epochs: int) -> RunFacts:
    """Return the facts of a run of many epochs, of two steps each."""
    start, *rest = events()
    log = [start, *(event for event in rest if event["event"] in ("phase_start", "engine"))]
    step, end = (next(e for e in rest if e["event"] == name) for name in ("step", "epoch_end"))
    for epoch in range(1, epochs + 1):
        for part in (1, 2):
            number = 2 * (epoch - 1) + part
            log.append({**step, "epoch": epoch, "step": number, "epoch_step": part,
                        "steps": 2 * epochs})  # fmt: skip
        log.append({**end, "epoch": epoch, "epochs": epochs})
    return facts_of(log)


def test_a_long_run_is_thinned_and_has_no_marks():
    for epochs, points in ((250, 500), (251, 500), (40, 80)):
        chart = loss_chart(long_run(epochs))
        assert chart is not None
        assert len(chart.figure.data[0].x) == points
    for epochs, mode in ((40, "lines+markers"), (41, "lines")):
        loss, metric = loss_chart(long_run(epochs)), metric_chart(long_run(epochs), "recall@1")
        assert loss is not None and metric is not None
        assert loss.figure.data[1].mode == metric.figure.data[0].mode == mode


@pytest.mark.parametrize(("epochs", "spaced"), [(12, True), (13, False)])
def test_an_axis_of_few_epochs_has_a_tick_for_each(epochs: int, spaced: bool):
    axis = epoch_axis(epochs)
    assert (axis.get("dtick") == 1) == spaced and (axis.get("nticks") == 12) != spaced
    assert axis["range"] == pytest.approx([-0.01 * epochs, 1.01 * epochs])
    assert epoch_axis(0)["range"] == pytest.approx([-0.01, 1.01])


@pytest.mark.parametrize(("epochs", "spaced"), [(16, True), (17, False)])
def test_bars_of_few_epochs_have_a_tick_for_each(epochs: int, spaced: bool):
    chart = time_chart({epoch: {timing.SETUP: 1.0} for epoch in range(epochs)})
    assert chart is not None
    assert (chart.figure.layout.xaxis.dtick == 1) == spaced
