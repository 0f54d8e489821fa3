"""The context of the page: the values and texts of each section."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from siamkit.evaluation.neighbourhood import Neighbourhood
from siamkit.evaluation.retrieval import Retrieval
from siamkit.evaluation.verified import Verified
from siamkit.report import units
from siamkit.report.comparison import recipe_heads, recipe_rows
from siamkit.report.html import model, run_charts, score_charts
from siamkit.report.html.figures import Chart
from siamkit.report.html.gather import Gathered
from siamkit.report.html.head import PARTS, head, seen_text
from siamkit.report.html.heldout import Decision, HeldOutFacts
from siamkit.report.html.lr_find import rate_search_chart
from siamkit.report.html.plan_chart import plan_chart
from siamkit.runs.seen import Seen, chosen_texts, unknown_texts
from siamkit.version import VERSION, versions
from siamkit.words import plural

Context = dict[str, Any]
SECTIONS = {
    "learning": "Learning",
    "freezing": "Freezing",
    "time": "Time",
    "verification": "Verification",
    "retrieval": "Retrieval",
    "confused": "Confused classes",
    "hardest": "Hardest pairs",
    "map": "Map",
    "configuration": "Configuration",
}
"""The headings of the page by their anchor, in order; the menu lists the same."""


def charts_of(gathered: Gathered) -> dict[str, Chart]:
    """Return the charts that have data, by id."""
    facts = gathered.facts
    names = dict.fromkeys(n for e in facts.epochs for n in e.metrics)
    charts = [
        run_charts.loss_chart(facts),
        *(run_charts.metric_chart(facts, name) for name in names),
        plan_chart(facts),
        run_charts.rate_chart(facts),
        rate_search_chart(facts.start["lr_find"]) if facts.start.get("lr_find") else None,
        run_charts.time_chart(gathered.spent),
    ]
    if gathered.held is not None and gathered.held.verified is not None:
        verified, decision = gathered.held.verified, gathered.held.decision
        assert decision is not None
        charts += [
            score_charts.score_chart(verified, decision),
            score_charts.det_chart(verified, decision),
            score_charts.roc_chart(verified, decision),
        ]
    if gathered.map is not None:
        assert gathered.held is not None
        charts.append(score_charts.map_chart(gathered.held, gathered.map))
    return {chart.id: chart for chart in charts if chart is not None}


def context_of(
    gathered: Gathered, charts: Mapping[str, Chart], thumbs: Mapping[int, str | None], now: datetime
) -> Context:
    """Return the values that the templates show.

    Args:
        gathered: The contents of the report.
        charts: The charts by id.
        thumbs: The thumbnails by number; None for a file that cannot be read.
        now: The time at which the report is written.
    """
    notices = list(gathered.notices)
    if lost := sum(text is None for text in thumbs.values()):
        notices.append(
            f"{lost} of the {plural(len(thumbs), 'image')} shown cannot be read: the files were "
            "moved, removed or damaged since the run"
        )
    return {
        **head(gathered),
        **_run(gathered, charts),
        **_verification(gathered, charts),
        **_pictures(gathered, charts),
        **_appendix(gathered),
        "sections": SECTIONS,
        "run": str(gathered.run.path),
        "notices": notices,
        "thumbs": dict(thumbs),
        "siamkit": VERSION,
        "written": f"{now:%Y-%m-%d %H:%M} UTC",
    }


# --- the run -------------------------------------------------------------------------------------


def _run(gathered: Gathered, charts: Mapping[str, Chart]) -> Context:
    shown = [*(n for n in charts if n.startswith("metric-")), "loss", "rates", "lr-find"]
    learning = [charts[name] for name in shown if name in charts]
    live = any(band.engine.get("mode") == "live" for band in gathered.facts.bands)
    note = (
        "Times are taken from the event log. Work before the first step counts towards the first "
        "epoch. The final embedding of the held-out images counts towards the last epoch."
    )
    if live:
        note += (
            " In a phase whose frozen part runs for every batch, this part's share of the waiting "
            "time is estimated from a time per image that was measured when the phase began."
        )
    recipe = gathered.facts.start.get("recipe")
    return {
        "learning": learning,
        "recipes": [] if recipe is None else recipe_rows(recipe),
        "recipe_heads": () if recipe is None else recipe_heads(recipe),
        "plan": charts.get("plan"),
        "int8": gathered.int8[:1].upper() + gathered.int8[1:],
        "time": charts.get("time"),
        "time_note": note,
        "phases": [
            (number, b.trained_text) for number, b in enumerate(gathered.facts.bands, start=1)
        ],
    }


# --- held-out images -----------------------------------------------------------------------------


def _verification(gathered: Gathered, charts: Mapping[str, Chart]) -> Context:
    held = gathered.held
    context: Context = {
        "held_note": "",
        "scores": charts.get("scores"),
        "det": charts.get("det"),
        "roc": charts.get("roc"),
        "why_no_pairs": gathered.why,
    }
    if held is None:
        return context
    part = PARTS[held.held.part]
    context["held_note"] = (
        f"This section and the following ones show the {part} set, {_described(held)}, embedded "
        f"by the network of the best epoch ({held.held.epoch + 1})."
    )
    if held.notices:
        context["held_note"] += f" {' '.join(held.notices)}"
    context["held_note"] += _seen_note(gathered.seen)
    if held.verified is None:
        context["why_no_pairs"] = (
            "Verification needs same and different pairs: at least two classes, and two images of "
            "one of them."
        )
        return context
    verified, decision = held.verified, held.decision
    assert decision is not None
    context.update(
        verification=model.verification_rows(verified),
        threshold=decision.threshold,
        threshold_rows=_threshold_rows(decision),
        foreseen=decision.calibration is not None,
        threshold_note=(
            f"The threshold is {decision.source}. {_pairs_note(verified, held)}"
            f"{_intervals_note(verified, decision, held)}"
        ),
    )
    return context


def _seen_note(seen: Seen | None) -> str:
    """Return sentences about what the run used the page's images for, to append to a text."""
    if seen is None:
        return ""
    note = "".join(
        f" {text[:1].upper()}{text[1:]}, so the figures are optimistic for other images."
        for text in chosen_texts(seen)
    )
    if seen.epoch.found:
        note += " A test split gives unbiased figures."
    return note + "".join(f" {text[:1].upper()}{text[1:]}." for text in unknown_texts(seen))


def _pairs_note(verified: Verified, held: HeldOutFacts) -> str:
    same, different = verified.metrics.same, verified.metrics.different
    drawn = "all {} pairs of these images" if verified.pairs.all else "a random sample of {} pairs"
    if held.held.images.tuples is not None:
        drawn = "the {} pairs that the data lists"
    return (
        f"The metrics use {drawn.format(f'{same + different:,}')}: {same:,} same, {different:,} "
        "different."
    )


def _intervals_note(verified: Verified, decision: Decision, held: HeldOutFacts) -> str:
    """Return sentences about the origin of the intervals that the section shows."""
    units = "classes" if held.held.images.tuples is None else "identities"
    note = f" The intervals of the metrics come from a bootstrap over {units}."
    foreseen = " Those of the rates were predicted when the threshold was fitted."
    return (note if verified.intervals else "") + (foreseen if decision.calibration else "")


def _described(held: HeldOutFacts) -> str:
    images = held.held.images
    if held.total == len(images):
        return str(images)
    return plural(held.total, "image")


def _threshold_rows(decision: Decision) -> list[tuple[str, ...]]:
    foreseen = decision.calibration is not None
    return [row if foreseen else row[:2] for row in model.threshold_rows(decision)]


def _pictures(gathered: Gathered, charts: Mapping[str, Chart]) -> Context:
    held, places = gathered.held, gathered.map
    context: Context = {
        "right": [], "wrong": [], "confused": [], "accepts": [], "rejects": [],
        "items": [], "map_classes": [], "map": charts.get("map"),
        "map_note": "", "retrieval_note": "", "hardest_note": "",
        "seen": "", "why_no_images": gathered.why, "why_no_map": gathered.why,
        "why_none_confused": gathered.why,
    }  # fmt: skip
    if held is None:
        return context
    few = "There are too few held-out images for this section."
    context.update(why_no_images=few, why_no_map=few, why_none_confused=few)
    if held.near is None:
        return context
    if held.held.images.tuples is None:
        context["why_none_confused"] = "No query has an image of another class as the nearest one."
    else:
        context["why_no_images"] = context["why_none_confused"] = (
            "The data lists some pairs of images that belong together, but not all of them, so "
            "siamkit cannot decide which neighbours are correct."
        )
    context.update(
        right=model.gallery(held, held.right),
        wrong=model.gallery(held, held.wrong),
        confused=model.confused_classes(held),
        retrieval_note=_retrieval_note(held.retrieval, held.near),
        seen=seen_text(held.held.preprocessing),
    )
    if held.verified is not None:
        note = (
            "These are the different pairs with the highest similarity and the same pairs with the "
            "lowest."
        )
        if held.held.images.tuples is None:
            note += " Each class, or pair of classes, is shown at most once."
        context.update(
            hardest_note=note,
            accepts=model.shown_pairs(held, held.accepts),
            rejects=model.shown_pairs(held, held.rejects),
        )
    if places is not None:
        items = model.map_items(held, places)
        names = held.held.images.classes
        classes = {item["label"]: names[item["label"]] for item in items}
        context.update(
            items=items,
            map_classes=sorted(classes.items(), key=lambda pair: pair[1]),
            map_note=(
                f" The map shows {len(items)} of {held.total} images, a random sample (fixed seed)."
                if len(items) < held.total
                else ""
            ),
        )
    return context


def _retrieval_note(metrics: Retrieval | None, near: Neighbourhood) -> str:
    if metrics is None:
        return "No image has another image of its class to retrieve."
    note = (
        f"{units.percent(metrics.recall[1])} of {plural(metrics.queries, 'query')} among "
        f"{plural(metrics.gallery, 'image')} have an image of their own class as the nearest one "
        f"(recall@1 {metrics.recall[1]:.3f}, MAP@R {metrics.map_at_r:.3f})."
    )
    right = near.right[near.findable]
    if tied := int(((right > 0) & (right < 1)).sum()):
        note += (
            f" {plural(tied, 'query has', 'queries have')} nearest images of several classes, all "
            "equally near. Such a query counts by the share of its own class among these images."
        )
    return f"{note} The queries shown are a random sample (fixed seed)."


# --- the appendix --------------------------------------------------------------------------------


def _appendix(gathered: Gathered) -> Context:
    made_with = gathered.facts.start.get("versions")
    note = "The versions of the process that trained last."
    if not isinstance(made_with, Mapping):
        note = "The versions of the process that wrote this report, since the run logged none."
        made_with = {
            **versions(),
            "python": platform.python_version(),
            "platform": platform.platform(),
        }
    return {
        "config": gathered.config,
        "config_path": str(gathered.run.dir.config),
        "versions": list(made_with.items()),
        "versions_note": note,
    }
