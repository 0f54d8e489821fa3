"""The context of the page: the values and texts of each section."""

from __future__ import annotations

import importlib.metadata
import platform
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from siamkit.evaluation.retrieval import Retrieval
from siamkit.report import units
from siamkit.report.html import model, run_charts, score_charts, timing
from siamkit.report.html.figures import Chart
from siamkit.report.html.gather import Gathered
from siamkit.report.html.heldout import Decision, HeldOutFacts
from siamkit.report.html.plan_chart import plan_chart
from siamkit.words import plural

Context = dict[str, Any]
_PARTS = {"test": "test", "val": "validation"}


def charts_of(gathered: Gathered) -> dict[str, Chart]:
    """Return the charts that have data, by id."""
    facts = gathered.facts
    names = dict.fromkeys(n for e in facts.epochs for n in e.metrics)
    charts = [
        run_charts.loss_chart(facts),
        *(run_charts.metric_chart(facts, name) for name in names),
        plan_chart(facts),
        run_charts.rate_chart(facts),
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
    if gathered.held is not None and gathered.map is not None:
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
            f"{lost} of the {plural(len(thumbs), 'image')} shown cannot be read: moved, removed or "
            "damaged since the run"
        )
    return {
        **_head(gathered),
        **_run(gathered, charts),
        **_verification(gathered, charts),
        **_pictures(gathered, charts),
        **_appendix(gathered),
        "notices": notices,
        "thumbs": dict(thumbs),
        "siamkit": importlib.metadata.version("siamkit"),
        "written": f"{now:%Y-%m-%d %H:%M} UTC",
    }


# --- the head ------------------------------------------------------------------------------------


def _head(gathered: Gathered) -> Context:
    facts = gathered.facts
    config = facts.start.get("config") or {}
    data = str((config.get("data") or {}).get("path", ""))
    backbone = _name(config, "backbone")
    title = f"{backbone} on {Path(data).name or data}" if backbone else gathered.run.path.name
    return {
        "title": title,
        "lead": _lead(gathered, config),
        "status": _status(gathered),
        "figures": model.headline(facts, gathered.metrics),
        "about": _about(gathered, data),
    }


def _name(config: Mapping[str, Any], section: str) -> str:
    return str((config.get(section) or {}).get("name", ""))


def _lead(gathered: Gathered, config: Mapping[str, Any]) -> str:
    facts = gathered.facts
    if not config:
        return (
            "The event log has no start of the run: the run stopped during setup, before training."
        )
    total = sum(timing.totals(gathered.spent).values())
    of = facts.start.get("epochs")
    done = len(facts.epochs)
    return (
        f"{_name(config, 'head')} head, {_name(config, 'loss')} loss, freeze policy "
        f"{_name(config, 'freeze')}, {_name(config, 'scheduler')} schedule; {done} of {of} epochs "
        f"on {facts.start.get('device')} in {units.duration(total)}."
    )


def _status(gathered: Gathered) -> str:
    facts = gathered.facts
    if not facts.ended:
        return "not finished"
    return "stopped early" if facts.stopped_early else ""


def _about(gathered: Gathered, data: str) -> list[tuple[str, str]]:
    facts, start = gathered.facts, gathered.facts.start
    rows: list[tuple[str, str]] = [("run", str(gathered.run.path))]
    if sets := start.get("data"):
        rows += [
            ("data", data),
            ("trained on", sets["train"]),
            ("held out", f"{sets['val']} ({sets['how']})"),
            ("weights", str(start.get("weights", ""))),
        ]
    if facts.best is not None:
        rows.append(("best epoch", f"{facts.best.number + 1} of {len(facts.epochs)}"))
    if facts.bands:
        last = facts.bands[-1]
        phases = plural(len(facts.bands), "phase")
        rows.append(
            (
                "trainable at the end",
                f"{units.percent(last.share)} of the parameters ({phases})",
            )
        )
    if gathered.held is not None and gathered.held.verified is not None:
        verified = gathered.held.verified
        rows.append(
            (
                f"verification ({_PARTS[gathered.held.held.part]})",
                f"equal error rate {verified.metrics.eer:.3f}, AUC {verified.metrics.auc:.3f}",
            )
        )
    if facts.sessions > 1:
        rows.append(("resumed", "once" if facts.sessions == 2 else f"{facts.sessions - 1} times"))
    return rows


# --- the run -------------------------------------------------------------------------------------


def _run(gathered: Gathered, charts: Mapping[str, Chart]) -> Context:
    shown = [*(n for n in charts if n.startswith("metric-")), "loss", "rates"]
    learning = [charts[name] for name in shown if name in charts]
    live = any(band.engine.get("mode") == "live" for band in gathered.facts.bands)
    note = (
        "Times are taken from the event log. Work before the first step counts towards the first "
        "epoch. The final embedding of the held-out images counts towards the last epoch."
    )
    if live:
        note += (
            " Where the frozen prefix runs for every batch, its share of the waiting time is "
            "estimated from its cost per image, which was measured when the phase began."
        )
    return {
        "learning": learning,
        "plan": charts.get("plan"),
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
    part = _PARTS[held.held.part]
    context["held_note"] = (
        f"This section and the following ones show the {part} set, {_described(held)}, embedded "
        f"by the network of the best epoch ({held.held.epoch + 1})."
    )
    if held.notices:
        context["held_note"] += f" {' '.join(held.notices)}"
    if part == "validation":
        context["held_note"] += (
            " The best epoch was selected on these images, so the figures are slightly "
            "optimistic. A test split gives unbiased figures."
        )
    if held.verified is None:
        context["why_no_pairs"] = (
            "Verification needs same and different pairs: at least two classes, and two images of "
            "one of them."
        )
        return context
    verified, decision = held.verified, held.decision
    assert decision is not None
    metrics = verified.metrics
    drawn = "all pairs" if verified.pairs.all else "a random sample of all pairs"
    if held.held.images.tuples is not None:
        drawn = "the pairs that the data lists"
    context.update(
        verification=model.verification_rows(verified),
        threshold=decision.threshold,
        threshold_rows=_threshold_rows(decision),
        foreseen=decision.calibration is not None,
        threshold_note=(
            f"The threshold comes from {decision.source}. The metrics use {metrics.same} same and "
            f"{metrics.different} different pairs: {drawn}. The intervals are bootstrapped over "
            "classes."
        ),
    )
    return context


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
        "right": [], "wrong": [], "accepts": [], "rejects": [], "items": [], "map_classes": [],
        "map": charts.get("map"), "map_note": "", "retrieval_note": "", "hardest_note": "",
        "why_no_images": gathered.why, "why_no_map": gathered.why,
    }  # fmt: skip
    if held is None:
        return context
    few = "There are too few held-out images for this section."
    context.update(why_no_images=few, why_no_map=few)
    if held.near is None:
        return context
    if held.held.images.tuples is not None:
        context["why_no_images"] = (
            "The data lists some pairs of images that belong together, but not all of them, so "
            "siamkit cannot decide which neighbours are correct."
        )
    context.update(
        right=model.gallery(held, held.right),
        wrong=model.gallery(held, held.wrong),
        retrieval_note=_retrieval_note(held.retrieval),
    )
    if held.verified is not None:
        known = held.held.images.tuples is not None
        context.update(
            hardest_note="" if known else ", at most one per pair of classes",
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


def _retrieval_note(metrics: Retrieval | None) -> str:
    if metrics is None:
        return "No image has another image of its class to retrieve."
    return (
        f"{units.percent(metrics.recall[1])} of {plural(metrics.queries, 'query')} among "
        f"{plural(metrics.gallery, 'image')} have an image of their own class as the nearest one "
        f"(recall@1 {metrics.recall[1]:.3f}, MAP@R {metrics.map_at_r:.3f}). The queries shown are "
        "a random sample (fixed seed)."
    )


# --- the appendix --------------------------------------------------------------------------------


def _appendix(gathered: Gathered) -> Context:
    versions = gathered.facts.start.get("versions")
    note = "The versions of the process that trained last."
    if not isinstance(versions, Mapping):
        note = "The versions of the process that wrote this report, since the run logged none."
        versions = {
            **{name: importlib.metadata.version(name) for name in ("siamkit", "torch", "timm")},
            "python": platform.python_version(),
            "platform": platform.platform(),
        }
    return {
        "config": gathered.config,
        "config_path": str(gathered.run.dir.config),
        "versions": list(versions.items()),
        "versions_note": note,
    }
