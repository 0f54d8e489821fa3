"""The sentences of the page about its images and pairs."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from siamkit.data.images import ImageSet, Tuples
from siamkit.evaluation.embedding_map import Map
from siamkit.report.html.context import (
    _described,
    _intervals_note,
    _pairs_note,
    _pictures,
    _retrieval_note,
    _run,
    _seen_note,
    _threshold_rows,
    _verification,
    charts_of,
)
from siamkit.report.html.facts import facts_of
from siamkit.report.html.heldout import Decision, held_out_facts
from siamkit.runs.held_out import HeldOut
from siamkit.runs.seen import Seen, Use

from .charts import events, held_out


def test_the_page_says_what_its_images_chose_and_what_cannot_be_checked():
    assert _seen_note(None) == _seen_note(Seen(3)) == ""
    used = Use(found=(0, 1, 2))
    optimistic = "so the figures are optimistic for other images."
    assert _seen_note(Seen(3, epoch=used)) == (
        f" These images chose the best epoch, {optimistic} A test split gives unbiased figures."
    )
    threshold = _seen_note(Seen(3, threshold=Use(found=(0, 1))))
    assert threshold.startswith(" 2 of the 3 images chose the threshold")
    assert threshold.endswith(optimistic), "no test split would help"
    unknown = _seen_note(Seen(3, epoch=used, threshold=Use(unknown="it is gone")))
    assert unknown.endswith(
        " A test split gives unbiased figures. Whether others of these images chose the threshold "
        "cannot be checked: it is gone."
    )


def pairs(known: bool, every: bool) -> str:
    verified = SimpleNamespace(
        metrics=SimpleNamespace(same=1200, different=34_000), pairs=SimpleNamespace(all=every)
    )
    tuples = object() if known else None
    return _pairs_note(
        verified, SimpleNamespace(held=SimpleNamespace(images=SimpleNamespace(tuples=tuples)))
    )


@pytest.mark.parametrize(
    ("known", "every", "which"),
    [
        (False, True, "all 35,200 pairs of these images"),
        (False, False, "a random sample of 35,200 pairs"),
        (True, True, "the 35,200 pairs that the data lists"),
    ],
)
def test_the_pairs_are_counted(known: bool, every: bool, which: str):
    assert pairs(known, every) == f"The metrics use {which}: 1,200 same, 34,000 different."


class Images:
    """Three images."""

    def __len__(self) -> int:
        return 3

    def __str__(self) -> str:
        return "3 images of 2 classes"


def test_a_part_of_the_images_is_described_by_the_number_of_all():
    held: Any = SimpleNamespace(held=SimpleNamespace(images=Images()), total=3)
    assert _described(held) == "3 images of 2 classes"
    held.total = 9
    assert _described(held) == "9 images"


def test_rates_that_were_foreseen_are_a_column_only_with_a_calibration():
    rows = _threshold_rows(Decision(0.5, "own", None, 0.1, 0.2))
    assert rows and {len(row) for row in rows} == {2}


def test_the_intervals_of_rates_are_not_said_to_be_of_the_bootstrap():
    facts: Any = SimpleNamespace(held=SimpleNamespace(images=SimpleNamespace(tuples=None)))
    scored: Any = SimpleNamespace(intervals={"auc": (0.1, 0.2)})
    fitted = Decision(0.5, "own", SimpleNamespace(), 0.1, 0.2)  # type: ignore[arg-type]
    assert _intervals_note(scored, fitted, facts) == (
        " The intervals of the metrics come from a bootstrap over classes. Those of the rates were "
        "predicted when the threshold was fitted."
    )


def gathered(events: list[dict[str, Any]], held: Any, places: Map | None) -> Any:
    """What a page shows of a run with these events and held-out images."""
    return SimpleNamespace(
        facts=facts_of(events), spent={}, held=held, map=places, why="the run was interrupted",
        int8="", seen=None,
    )  # fmt: skip


def listed(held: HeldOut) -> HeldOut:
    """The same images, of which the data lists pairs."""
    rows = ((0, 1), (3, 4), (6, 7), (9, 10), (0, 3), (6, 9))
    pairs = Tuples(rows, (True,) * 4 + (False,) * 2)
    return replace(held, images=ImageSet(held.images.samples, held.images.classes, pairs))


SCORES = {"scores", "det", "roc"}


def test_the_page_has_the_charts_that_have_data() -> None:
    facts, places = held_out_facts(held_out(), None), Map(np.arange(15), np.zeros((15, 2)))
    run = {"loss", "metric-recall-1", "plan", "rates"}
    search = {"rates": [1e-5, 1e-3], "loss": [1.0, 0.5], "losses": [], "lr": 1e-4, "low": 1e-5,
              "high": 1e-3, "reason": "steepest"}  # fmt: skip
    searched = [{**event, "lr_find": search} if event["event"] == "run_start" else event
                for event in events()]  # fmt: skip
    assert set(charts_of(gathered(events(), None, None))) == run
    assert set(charts_of(gathered(searched, facts, None))) == {*run, *SCORES, "lr-find"}
    alone = replace(facts, verified=None, decision=None)
    assert set(charts_of(gathered(events(), alone, places))) == {*run, "map"}


def test_a_section_without_content_says_why() -> None:
    nothing = "the run was interrupted"
    few = "There are too few held-out images for this section."
    unknown = (
        "The data lists some pairs of images that belong together, but not all of them, so siamkit "
        "cannot decide which neighbours are correct."
    )
    none = "No query has an image of another class as the nearest one."
    facts = held_out_facts(held_out(), None)
    for held, reasons in [
        (None, (nothing, nothing, nothing)),
        (replace(facts, near=None), (few, few, few)),
        (facts, (few, few, none)),
        (held_out_facts(listed(held_out()), None), (unknown, few, unknown)),
    ]:
        found = _pictures(gathered(events(), held, None), {})
        keys = ("why_no_images", "why_no_map", "why_none_confused")
        assert tuple(found[key] for key in keys) == reasons


def test_pairs_are_said_to_be_of_different_classes_only_where_there_are_classes() -> None:
    once = " Each class, or pair of classes, is shown at most once."
    for held, said in ((held_out(), True), (listed(held_out()), False)):
        note = _pictures(gathered(events(), held_out_facts(held, None), None), {})["hardest_note"]
        assert note.startswith("These are the different pairs") and note.endswith(once) == said


def test_the_verification_says_what_it_shows_or_why_it_shows_nothing() -> None:
    facts = held_out_facts(held_out(), None)
    assert _verification(gathered(events(), None, None), {}) == {
        "held_note": "", "scores": None, "det": None, "roc": None,
        "why_no_pairs": "the run was interrupted",
    }  # fmt: skip
    note = (
        "This section and the following ones show the validation set, 15 images of 5 classes, "
        "embedded by the network of the best epoch (1)."
    )
    shown = _verification(gathered(events(), facts, None), {})
    assert shown["held_note"] == note and not shown["foreseen"]
    assert shown["threshold_note"].endswith(" come from a bootstrap over classes.")
    pairs = held_out_facts(listed(held_out()), None)
    shown = _verification(gathered(events(), pairs, None), {})
    assert shown["threshold_note"].endswith(" come from a bootstrap over identities.")
    assert facts.verified is not None
    few = replace(facts, verified=replace(facts.verified, intervals={}))
    assert "bootstrap" not in _verification(gathered(events(), few, None), {})["threshold_note"]
    told = _verification(gathered(events(), replace(facts, notices=("One.", "Two.")), None), {})
    assert told["held_note"] == f"{note} One. Two."
    alone = replace(facts, verified=None, decision=None)
    why = _verification(gathered(events(), alone, None), {})
    assert "threshold" not in why and why["why_no_pairs"].startswith("Verification needs same and")


def test_a_waiting_time_that_was_estimated_is_told_where_the_frozen_part_ran_live() -> None:
    live = events()
    for event in live:
        if event["event"] == "engine":
            event["mode"] = "live"
    whole = [event for event in events() if event["event"] != "engine"]
    estimated = "estimated from a time per image"
    assert estimated in _run(gathered(live, None, None), {})["time_note"]
    assert estimated in _run(gathered(events(), None, None), {})["time_note"], "one phase did"
    found = _run(gathered(whole, None, None), {})
    assert estimated not in found["time_note"] and found["int8"] == ""
    assert [number for number, _ in found["phases"]] == [1, 2, 3]
    charts: Any = {name: name for name in ("lr-find", "loss", "map", "metric-b", "metric-a")}
    learning = _run(gathered(whole, None, None), charts)["learning"]
    assert learning == ["metric-b", "metric-a", "loss", "lr-find"]
    quantized = gathered(whole, None, None)
    quantized.int8 = "the frozen part runs in int8"
    assert _run(quantized, {})["int8"] == "The frozen part runs in int8"


@pytest.mark.parametrize(
    ("right", "told"),
    [
        ([0.0, 1.0, 1.0], None),
        ([0.0, 0.5, 1.0], " 1 query has nearest images of several classes, all equally near."),
        ([0.25, 0.5, 0.5], " 2 queries have nearest images of several classes, all equally near."),
    ],
)
def test_queries_with_equally_near_images_are_counted(right: list[float], told: str | None) -> None:
    """The last query has no other image of its class, so it does not count."""
    near: Any = SimpleNamespace(right=np.array(right), findable=np.array([True, True, False]))
    metrics: Any = SimpleNamespace(recall={1: 0.75}, map_at_r=0.625, queries=2, gallery=9)
    note = _retrieval_note(metrics, near)
    assert note.startswith(
        "75 % of 2 queries among 9 images have an image of their own class as the nearest one "
        "(recall@1 0.750, MAP@R 0.625)."
    )
    assert told in note if told else "equally near" not in note
    assert _retrieval_note(None, near) == "No image has another image of its class to retrieve."


def test_the_classes_of_the_map_are_in_the_order_of_their_names() -> None:
    held = held_out()
    images = ImageSet(held.images.samples, tuple("dbeca"))
    facts = held_out_facts(replace(held, images=images), None)
    places = Map(np.arange(12), np.zeros((12, 2)))
    found = _pictures(gathered(events(), facts, places), {})
    assert found["map_classes"] == [(1, "b"), (3, "c"), (0, "d"), (2, "e")]
    assert found["map_note"] == " The map shows 12 of 15 images, a random sample (fixed seed)."
