"""The printed form and the page of a comparison."""

from __future__ import annotations

import io
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from siamkit.report.comparison import (
    cells_of,
    comparison,
    facts,
    protocol,
    recipe_heads,
    recipe_line,
    recipe_rows,
    told,
    told_recipe,
)
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


def test_the_notices_of_arms_are_shown_and_what_all_say_once(values: dict[str, Any]) -> None:
    """All may say that the backbone never trains, which decides what the comparison compares."""
    for arm in values["arms"]:
        arm["notices"] = ["all say this"]
    values["arms"][1]["notices"] = ["all say this", "never unfreezes"]
    text = printed(values)
    assert "note: <b>odd</b>: never unfreezes" in text
    assert text.count("all say this") == 1
    assert "note: all arms: all say this" in text


def test_a_notice_of_the_only_trained_arm_is_shown(values: dict[str, Any]) -> None:
    values["arms"] = [values["arms"][0], values["arms"][3]]
    values["arms"][0]["notices"] = ["never unfreezes"]
    assert "note: full: never unfreezes" in printed(values)


@pytest.mark.parametrize(
    ("changes", "column", "text"),
    [
        ({"best_epochs": [7, 7]}, 6, "7 of 10"),
        ({"best_epochs": [9, 3, 7], "epochs": 12.5}, 6, "3 to 9 of 12.5"),
        ({"epochs": 0, "best_epochs": [0]}, 6, ""),
        ({"to_best": {"value": -0.1, "low": None, "high": None}}, 4, "-0.100"),
        ({"to_best": {"value": 0.02, "low": -0.01, "high": 0.03}}, 4, "+0.020 ± 0.020"),
        ({"to_best": None}, 4, ""),
        ({"interval": None}, 3, ""),
        ({"stopped": {"why": "budget"}}, 1, "9 (budget too short)"),
        ({"stopped": {"why": "failed"}}, 1, "9 (failed)"),
    ],
)
def test_a_cell_says_what_there_is(changes: dict[str, Any], column: int, text: str) -> None:
    assert cells_of(row("full", 0.8, **changes))[column] == text


def step(**result: Any) -> SimpleNamespace:
    done = SimpleNamespace(**{"failed": None, "seconds": 12.0, "filling": 3.0, **result})
    return SimpleNamespace(
        round=2, rounds=9, arm="full", ahead=None, means={"recall@1": 0.5, "map@r": 0.25},
        result=done if result else None, waiting=False,
    )  # fmt: skip


def test_a_run_of_a_comparison_is_told_before_and_after() -> None:
    before = step()
    assert told(before) == "run 2 of 9: full ..."
    before.ahead = 90.0
    assert told(before) == "run 2 of 9: full ..., about 1 min 30 s left"
    assert told(step(seconds=12.0)) == "run 2 of 9: full: recall@1 0.500, map@r 0.250 (15 s)"
    before.waiting = True
    assert told(before) == "run 2 of 9: full: waits for another process, which trains it ..."
    assert told(step(failed="the loss is NaN")) == (
        "run 2 of 9: full failed and is left out: the loss is NaN"
    )


@pytest.mark.parametrize(
    ("arms", "expected", "text"),
    [
        (None, 0.0, "recipe: measures how long a step takes; the budget is 1 min 30 s ..."),
        (0, 90.0, "recipe: trains 'full' without trials, because the budget is too short to "
                  "compare two; all of it takes about 1 min 30 s"),
        (2, 90.0, "recipe: compares 2 recipes on the training classes, then trains with the best "
                  "one; all of it takes about 1 min 30 s"),
        (3, 91.0, "recipe: compares 3 recipes on the training classes, then trains with the best "
                  "one; all of it takes about 1 min 31 s, more than the budget"),
    ],
)  # fmt: skip
def test_the_choice_of_a_recipe_is_told_before_it_begins(
    arms: int | None, expected: float, text: str
) -> None:
    outlook = SimpleNamespace(budget=90.0, arms=arms, expected=expected, of=4, trained="full")
    assert told_recipe(outlook) == text


def test_a_choice_without_trials_says_why() -> None:
    outlook = SimpleNamespace(budget=90.0, arms=0, expected=50.0, of=1, trained="full")
    assert told_recipe(outlook) == (
        "recipe: trains 'full' without trials, because there is no other; all of it takes about "
        "50 s"
    )
    outlook.trained = None
    assert told_recipe(outlook) == (
        "recipe: the budget is too short for a training, so the head in closed form is kept; all "
        "of it takes about 50 s"
    )


def test_a_recipe_that_was_chosen_stands_with_those_that_were_tried() -> None:
    found = {
        "best": "full", "metric": "map@r", "start": None,
        "arms": [
            row("full", 0.8, runs=1, epochs=2.5, open=True),
            row("other", 0.7, interval=None, open=True),
        ],
    }  # fmt: skip
    line = "full: the best of 2 recipes on the training classes (map@r 0.800 in 1 run)"
    assert recipe_line(found) == line
    # What may not be chosen does not count, but it is told if it is better.
    still, worse = row("closed form", 0.85, open=False), row("untrained", 0.75, open=False)
    assert recipe_line({**found, "arms": [still, *found["arms"], worse]}) == (
        f"{line}; closed form was not to choose, and has 0.850"
    )
    still["open"] = True
    # A recipe that was stopped can have a higher mean, of fewer runs.
    assert recipe_line({**found, "arms": [row("stopped", 0.9, open=True), *found["arms"]]}) == (
        line.replace("2 recipes", "3 recipes")
    )
    assert recipe_line({**found, "start": "closed form", "arms": [still, *found["arms"]]}) == (
        "full: trained from the closed form, which was better in the trials (map@r 0.850, trained "
        "0.800) and stays if the training is not"
    )
    assert recipe_line({**found, "best": "new", "epochs": 4}) == "new: trained without trials"
    assert recipe_line({**found, "best": "closed form"}) == "closed form: not trained"
    assert recipe_heads(found)[2] == "map@r"
    assert recipe_rows(found) == [
        ("full", "1", "0.800", "0.750 to 0.850", "2.5", "12 s"),
        ("other", "9", "0.700", "", "10", "12 s"),
    ]
