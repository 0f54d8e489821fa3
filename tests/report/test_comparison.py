"""The printed form and the page of a comparison."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from siamkit.report.comparison import comparison, facts, protocol
from siamkit.report.html.comparison import (
    class_chart,
    cost_chart,
    difference_chart,
    frontier,
    phases,
    write_comparison_page,
)


def row(name: str, value: float, **others: Any) -> dict[str, Any]:
    return {
        "name": name, "values": {}, "trains": True, "runs": 9, "value": value,
        "metrics": {"recall@1": value}, "interval": [value - 0.05, value + 0.05],
        "to_best": {"value": value - 0.8, "low": value - 0.83, "high": value - 0.77, "runs": 9,
                    "clear": True},
        "seconds": 12.0, "epochs": 10, "best_epochs": [7, 9], "images": 640,
        "phases": [{"first_epoch": 1, "trainable": 25, "parameters": 100,
                    "stages": ["head", "layer4"]}],
        "tuned": [{}], "stopped": None, "notices": [], **others,
    }  # fmt: skip


@pytest.fixture
def values() -> dict[str, Any]:
    return {
        "metric": "recall@1", "equal": "images", "how": "class-disjoint", "folds": 3,
        "held_out": "held-out classes",
        "seeds": [0, 1, 2],
        "rounds": 9, "of": 9, "tuned": {"optimizer.lr": [0.001, 0.004]}, "budget": None,
        "over_budget": False,
        "arms": [
            row("full", 0.8, to_best=None),
            row("<b>odd</b>", 0.7, seconds=30.0),
            row("poor", 0.2, runs=4, stopped={"rounds": 4, "why": "hopeless"}),
            row("closed form", 0.75, trains=False, epochs=0, best_epochs=[0], seconds=1.0),
        ],
        "failed": [{"name": "bad", "round": 2, "why": "the loss is NaN"}], "best": "full",
        "verdict": ["'full' is the best."], "features_seconds": 30.0, "seconds": 400.0,
        "classes": [{"class": "cat", "queries": 9, "means": {"full": 1.0, "<b>odd</b>": 0.4}}],
        "notices": ["about the data"], "report": "/c/comparison.html", "config": "/c/best.yaml",
    }  # fmt: skip


def printed(values: dict[str, Any]) -> str:
    stream = io.StringIO()
    Console(file=stream, width=200, markup=False).print(comparison(values))
    return stream.getvalue()


def test_the_table_shows_what_was_measured(values: dict[str, Any]) -> None:
    lines = printed(values).splitlines()
    (full,) = (line for line in lines if line.startswith("full"))
    assert full.split() == ["full", "9", "0.800", "0.750", "to", "0.850", "12", "s",
                            "7", "to", "9", "of", "10"]  # fmt: skip
    (odd,) = (line for line in lines if line.startswith("<b>odd"))
    assert "-0.100 ± 0.030" in odd
    (poor,) = (line for line in lines if line.startswith("poor"))
    assert "4 (clearly worse)" in poor
    assert "note: about the data" in lines


def test_the_protocol_and_the_facts_are_sentences(values: dict[str, Any]) -> None:
    assert protocol(values) == (
        "recall@1 on held-out classes, 9 of 9 runs per arm (3 folds x 3 seeds); in each run, all "
        "arms have the same seed and the same images, and train for equally many epochs; "
        "optimizer.lr is chosen among 0.001, 0.004 on validation images"
    )
    values["arms"][1]["epochs"] = 20
    assert "equally many" not in protocol(values)
    assert "take about equally long" in protocol({**values, "equal": "time"})
    texts = facts({**values, "over_budget": True, "budget": 90.0, "rounds": 1})
    assert texts[0].startswith("All runs took 6 min 40 s, of which 30 s were for features")
    assert "The budget of 1 min 30 s ended the comparison after 1 run per arm." in texts
    assert "'bad' failed in run 2: the loss is NaN" in texts


@given(st.lists(st.tuples(st.floats(0, 100), st.floats(0, 1)), min_size=1, max_size=30))
def test_the_frontier_is_what_nothing_beats(points: list[tuple[float, float]]) -> None:
    kept = frontier(points)
    assert kept
    for index in kept:
        cost, value = points[index]
        assert not any(c <= cost and v > value for c, v in points)
    values = [points[i][1] for i in kept]
    assert values == sorted(values)
    best = max(value for _, value in points)
    assert points[kept[-1]][1] == best


def test_the_charts_hold_the_figures(values: dict[str, Any]) -> None:
    cost = cost_chart(values)
    assert "closed form, full" in cost.finding
    assert cost.rows[0] == ("full", "0.800", "12 s")
    apart = difference_chart(values)
    assert [r[0] for r in apart.rows] == ["<b>odd</b>", "poor", "closed form"]
    assert list(apart.figure.data[0].x) == pytest.approx([-0.1, -0.6, -0.05])
    assert class_chart(values).rows == [("cat", 9, "1.00", "0.40")]
    assert phases(values)[0] == ("full", "from epoch 1", "25 (25 %)", "head, layer4")
    assert all(r[0] != "closed form" for r in phases(values))


def test_the_page_escapes_every_name(values: dict[str, Any], tmp_path: Path) -> None:
    page = write_comparison_page(values, tmp_path / "c.html").read_text()
    assert "<b>odd</b>" not in page
    assert "&lt;b&gt;odd&lt;/b&gt;" in page
    assert "&#39;full&#39; is the best." in page
    assert "What each recipe trains" in page


def test_a_page_of_one_run_has_no_intervals(values: dict[str, Any], tmp_path: Path) -> None:
    for arm in values["arms"]:
        arm["interval"] = None
        if arm["to_best"]:
            arm["to_best"] |= {"low": None, "high": None, "clear": False}
    values["classes"] = []
    page = write_comparison_page(values, tmp_path / "c.html").read_text()
    assert "Accuracy against cost" in page
    assert "±" not in printed(values)


def test_notices_that_only_some_arms_give_are_shown(values: dict[str, Any]) -> None:
    for arm in values["arms"]:
        arm["notices"] = ["all say this"]
    values["arms"][1]["notices"] = ["all say this", "never unfreezes"]
    text = printed(values)
    assert "note: <b>odd</b>: never unfreezes" in text
    assert "all say this" not in text
