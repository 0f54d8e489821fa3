"""The charts of a run's course, in the cases that an ordinary run does not have."""

from __future__ import annotations

import math
from typing import Any

import pytest

from siamkit.report.html.facts import RunFacts, facts_of
from siamkit.report.html.run_charts import (
    _range,
    _rate_axis,
    loss_chart,
    metric_chart,
    rate_chart,
    time_chart,
)

from .charts import events


def facts(drop: tuple[str, ...] = (), **changes: Any) -> RunFacts:
    """The run of the charts without some events, or with other values in those of an epoch."""
    log = [event for event in events() if event["event"] not in drop]
    return facts_of([{**e, **changes} if e["event"] == "epoch_end" else e for e in log])


def names(chart: Any) -> list[str]:
    return [trace.name for trace in chart.figure.data]


@pytest.mark.parametrize(
    ("values", "ends"),
    [
        ([0.0, 1.0], (-0.08, 1.08)),
        ([0.5], (0.475, 0.525)),
        ([0.5, 0.51], (0.48, 0.53)),  # 0.05 in all
        ([0.5, math.nan, 0.7, math.inf], (0.484, 0.716)),
        ([math.nan], None),
        ([], None),
    ],
)
def test_the_axis_of_a_metric_has_a_margin_and_is_not_too_short(values: Any, ends: Any) -> None:
    assert _range(values) == (None if ends is None else pytest.approx(ends))


def test_a_narrow_range_of_rates_has_ticks_at_round_numbers() -> None:
    assert _rate_axis(1e-4, 2.001e-3) == {"exponentformat": "e", "dtick": 1}
    axis = _rate_axis(1e-4, 2e-3)
    assert axis["range"] == pytest.approx((math.log10(5e-5), math.log10(4e-3)))
    assert axis["tickvals"] == pytest.approx([d * 10.0**p for p in range(-5, 0) for d in (1, 2, 5)])
    assert axis["ticktext"][3:6] == ["0.0001", "0.0002", "0.0005"]


def test_a_loss_without_a_complete_epoch_counts_the_steps() -> None:
    chart = loss_chart(facts(("epoch_end",)))
    assert chart is not None and chart.rows == []
    assert chart.finding == "The loss of the first 10 steps; no epoch is complete."
    assert loss_chart(facts(("step",))) is None


def test_the_mean_loss_goes_from_the_first_epoch_to_the_last() -> None:
    chart = loss_chart(facts())
    assert chart is not None
    assert chart.finding == "The mean loss per epoch goes from 0.9 to 0.18."
    assert [epoch for epoch, _ in chart.rows] == [1, 2, 3, 4, 5]


def test_a_metric_without_all_values_of_the_training_has_no_gap() -> None:
    whole = metric_chart(facts(), "recall@1")
    assert names(whole) == ["held out", "training", "gap", "best"]
    log = events()
    del next(event for event in log if event["event"] == "epoch_end")["train_metrics"]["recall@1"]
    part = metric_chart(facts_of(log), "recall@1")
    assert names(part) == ["held out", "training", "best"]
    assert part is not None and list(part.figure.data[1].x) == [2, 3, 4, 5]
    assert part.rows[1] == (1, "0.600", None, None) and part.rows[2][3] is not None
    none = metric_chart(facts(train_metrics={}), "recall@1")
    assert names(none) == ["held out", "best"] and none is not None
    assert "Training" not in none.finding
    assert metric_chart(facts(), "map@r") is None


def test_a_metric_is_drawn_from_the_untrained_network_on() -> None:
    chart = metric_chart(facts(), "recall@1")
    assert chart is not None and list(chart.figure.data[0].x) == [0, 1, 2, 3, 4, 5]
    assert chart.rows[0] == (0, "0.500", None, None) and len(chart.rows) == 6
    assert chart.finding == (
        "Held out: 0.500 untrained, 0.800 after the best epoch (3). Training: 0.850 after the last "
        "epoch, a gap of +0.050."
    )
    later = metric_chart(facts(("untrained",)), "recall@1")
    assert later is not None and list(later.figure.data[0].x) == [1, 2, 3, 4, 5]
    assert len(later.figure.layout.shapes) == 3, "the phases"
    assert len(chart.figure.layout.shapes) == 4, "a line at the untrained value"
    assert len(later.rows) == 5 and "untrained" not in later.finding


def test_a_run_whose_best_network_is_the_untrained_one_says_so() -> None:
    chart = metric_chart(facts(best=False), "recall@1")
    assert names(chart) == ["held out", "training", "gap"] and chart is not None
    assert "0.800 after the last epoch; the best network is from before the first" in chart.finding


def test_stages_of_equal_rates_share_a_line() -> None:
    log = events()
    for event in log:
        if event["event"] == "step":
            event["rates"] = {"stem": 0.0, "layer1": 1e-3, "layer2": 1e-3, "head": 0.02}
    chart = rate_chart(facts_of(log))
    assert chart is not None
    assert chart.rows == [("head", "0.02", "0.02"), ("layer2, layer1", "0.001", "0.001")]
    assert names(chart) == ["head", "layer1 to layer2"]
    assert chart.finding.startswith("Log axis. The highest rate is 0.02.")
    assert rate_chart(facts(("step",))) is None


def test_a_stage_that_does_not_train_at_first_has_a_gap_in_its_line() -> None:
    chart = rate_chart(facts())
    assert chart is not None
    [line] = [trace for trace in chart.figure.data if trace.name == "layer1"]
    assert list(line.y[:6]) == [None] * 6 and all(line.y[6:])


def test_the_largest_part_of_the_time_is_named() -> None:
    chart = time_chart({0: {"setup": 3.0, "fill": 0.0}, 1: {"steps": 9.0}})
    assert chart is not None and len(chart.figure.data) == 2
    assert chart.finding == (
        "12 s in total. The largest part (75 %): training steps (no details logged)."
    )
    assert [list(bars.y) for bars in chart.figure.data] == [[3.0, 0.0], [0.0, 9.0]]
    assert [list(bars.x) for bars in chart.figure.data] == [[1, 2], [1, 2]]
    assert [row[1:] for row in chart.rows] == [("3.0 s", "25 %"), ("9.0 s", "75 %")]
    assert time_chart({}) is None and time_chart({0: {"setup": 0.0}}) is None
