"""The charts of scores, in the cases that ordinary scores do not have."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from siamkit.evaluation.embedding_map import Map
from siamkit.report.html.heldout import Decision, held_out_facts
from siamkit.report.html.score_charts import det_chart, map_chart, roc_chart, score_chart

from .charts import held_out


def verified(**metrics: Any) -> Any:
    found = held_out_facts(held_out(), None).verified
    assert found is not None
    return replace(found, metrics=replace(found.metrics, **metrics))


def decision(threshold: float = 0.5, far: float = 0.125, frr: float = 0.25) -> Decision:
    return Decision(threshold, "", None, far, frr)


def of(chart: Any, name: str) -> Any:
    [trace] = [trace for trace in chart.figure.data if trace.name == name]
    return trace


def test_a_rate_of_zero_has_no_place_on_a_log_axis() -> None:
    drawn = of(det_chart(verified(), decision()), "this network")
    assert min(drawn.x) > 0 and min(drawn.y) > 0
    for far, frr, place in ((0.5, 0.25, (0.5, 0.25)), (0.0, 0.5, (None, 0.5)),
                            (0.5, 0.0, (0.5, None))):  # fmt: skip
        point = of(det_chart(verified(), decision(far=far, frr=frr)), "threshold")
        assert (point.x[0], point.y[0]) == place
    assert of(roc_chart(verified(), decision()), "threshold").y[0] == 0.75


@pytest.mark.parametrize(
    ("different", "same", "lows"),
    [(10, 100, (-1, -2)), (99, 101, (-2, -3)), (10**6, 10**4, (-4, -4)), (1, 10, (0, -1))],
)
def test_log_axes_end_at_one_pair_or_a_ten_thousandth(
    different: int, same: int, lows: tuple[int, int]
) -> None:
    layout = det_chart(verified(different=different, same=same), decision()).figure.layout
    assert (layout.xaxis.range, layout.yaxis.range) == ((lows[0], 0.02), (lows[1], 0.02))
    ticks = [10.0**power for power in range(min(lows), 1)]
    assert list(layout.xaxis.tickvals) == list(layout.yaxis.tickvals) == ticks
    assert layout.xaxis.ticktext[-2:] == ("10 %", "100 %")


@pytest.mark.parametrize(("place", "anchor"), [(0.25, "left"), (0.75, "right"), (0.5, "right")])
def test_the_label_of_the_threshold_extends_towards_the_middle(place: float, anchor: str) -> None:
    scores = np.array([-0.5, -0.25, 0.25, 0.5], np.float32)
    four = replace(verified(), scores=scores, pairs=replace(verified().pairs, same=scores > 0))
    chart = score_chart(four, decision(place - 0.5))
    [label] = chart.figure.layout.annotations
    assert (label.xanchor, label.text) == (anchor, f"threshold {place - 0.5:.3f}")
    assert chart.finding == (
        f"The threshold of {place - 0.5:.3f} accepts 12.5 % of the different pairs and rejects "
        "25 % of the same pairs."
    )


def test_equal_scores_have_a_chart() -> None:
    pairs = replace(verified().pairs, same=np.array([True, False, False]))
    equal = replace(verified(), scores=np.full(3, 0.5, np.float32), pairs=pairs)
    chart = score_chart(equal, decision())
    assert chart.rows == [("0.500 to 0.500", 2, 1)]
    for name in ("same pairs", "different pairs"):
        assert max(of(chart, name).y) == 100


def test_the_map_counts_the_images_whose_nearest_is_of_another_class() -> None:
    facts = held_out_facts(held_out(), None)
    assert facts.near is not None
    right = np.ones(15, np.float32)
    places = Map(np.arange(15), np.arange(30).reshape(15, 2) / 32)

    def drawn(**near: Any) -> Any:
        assert facts.near is not None
        return map_chart(replace(facts, near=replace(facts.near, **near)), places)

    right[[1, 2, 3]] = 0, 0.5, 0.25
    chart = drawn(right=right, findable=np.ones(15, bool))
    assert list(of(chart, "nearest image: another class").customdata) == [1, 3]
    assert chart.finding.startswith(
        "15 images, placed by t-SNE; the nearest image of 2.2 of them (crosses) is of another class"
    )
    crosses = of(chart, "nearest image: another class")
    assert (list(crosses.x), list(crosses.y)) == ([0.0625, 0.1875], [0.09375, 0.2188])
    right[[2, 3]] = 1, 0
    findable = np.ones(15, bool)
    assert "the nearest image of 2 of them" in drawn(right=right, findable=findable).finding
    findable[1] = False
    one = drawn(right=right, findable=findable)
    assert "the nearest image of 1 of 14 queries (crosses)" in one.finding
    assert list(of(one, "nearest image: another class").customdata) == [3]
    same, other = of(one, "nearest image: same class"), of(one, "no query, or alone in its class")
    assert (len(same.customdata), list(other.customdata)) == (13, [1])
    unknown = drawn(right=right, findable=np.zeros(15, bool))
    assert "crosses" not in unknown.finding and len(of(unknown, "image").customdata) == 15
    assert not of(unknown, "nearest image: another class").showlegend


def test_a_curve_without_a_place_on_log_axes_is_said_to_have_none() -> None:
    some = verified()
    curve = replace(some.curve, far=np.array([0.0, 0, 1]), tar=np.array([0.0, 1, 1]),
                    thresholds=np.array([np.inf, 0.9, -0.9]))  # fmt: skip
    chart = det_chart(replace(some, curve=curve), decision(far=0.0, frr=0.0))
    assert len(of(chart, "this network").x) == 0
    assert chart.finding.endswith("so there is no curve to draw.")
    assert "The equal error rate" in det_chart(some, decision()).finding
