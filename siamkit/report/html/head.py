"""The head of the page: the settings, the state and the main results of the run."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from siamkit.interfaces import Preprocessing
from siamkit.report import units
from siamkit.report.comparison import recipe_line
from siamkit.report.html import model, timing
from siamkit.report.html.gather import Gathered
from siamkit.report.lr_find import rate_line
from siamkit.words import plural

Context = dict[str, Any]
PARTS = {"test": "test", "val": "validation"}
"""The names of the held-out sets."""

_FITS = {
    "crop": "the centre of each image",
    "pad": "whole images, padded to a square",
    "squash": "whole images, squashed to a square",
}


def head(gathered: Gathered) -> Context:
    """Return the values that the head of the page shows."""
    facts = gathered.facts
    config = facts.start.get("config") or {}
    data = str((config.get("data") or {}).get("path", ""))
    backbone = _name(config, "backbone")
    title = f"{backbone} on {Path(data).name or data}" if backbone else gathered.run.path.name
    figures = model.headline(facts, gathered.metrics)
    return {
        "title": title,
        "lead": _lead(gathered, config),
        "status": _status(gathered, config, figures),
        "figures": figures,
        "about": _about(gathered, config, data),
    }


def seen_text(preprocessing: Preprocessing) -> str:
    """Return what the network sees of images: their size, fit and range, as a short text."""
    height, width = preprocessing.size
    return _seen(f"{width} × {height} pixels", preprocessing.fit, preprocessing.value_range)  # noqa: RUF001


def _seen(size: str, fit: str, value_range: object) -> str:
    text = f"{size}: {_FITS[fit]}"
    if isinstance(value_range, int):
        text += f"; {2**value_range - 1} is white in 16-bit images"
    elif isinstance(value_range, list | tuple):
        low, high = value_range
        text += f"; {low:g} is black and {high:g} white in images of more than 8 bits"
    return text


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


def _status(gathered: Gathered, config: Mapping[str, Any], figures: list[model.Json]) -> list[str]:
    """Return short warnings, such as ``not finished`` or ``stopped early``."""
    facts = gathered.facts
    texts = [] if facts.ended else ["not finished"]
    if facts.ended and facts.stopped_early:
        texts.append("stopped early")
    monitor = (config.get("train") or {}).get("monitor")
    if any(f["name"] == monitor and f["verdict"] == "loss" for f in figures):
        texts.append("worse than the untrained backbone")
    return texts


def _about(gathered: Gathered, config: Mapping[str, Any], data: str) -> list[tuple[str, str]]:
    facts, start = gathered.facts, gathered.facts.start
    rows: list[tuple[str, str]] = [("run", str(gathered.run.path))]
    if sets := start.get("data"):
        rows += [
            ("data", data),
            ("trained on", sets["train"]),
            ("held out", sets["val"]),
            ("split", sets["how"]),
            ("weights", str(start.get("weights", ""))),
        ]
    if chosen := start.get("recipe"):
        rows.append(("recipe", recipe_line(chosen)))
    if found := start.get("lr_find"):
        rows.append(("learning rate", rate_line(found)))
    if gathered.held is not None:
        rows.append(("the network sees", seen_text(gathered.held.held.preprocessing)))
    elif (section := config.get("data") or {}).get("fit") in _FITS:
        size = section.get("image_size")
        size = f"{size} × {size} pixels" if size else "the backbone's size"  # noqa: RUF001
        rows.append(("the network sees", _seen(size, section["fit"], section.get("range"))))
    if facts.best is not None:
        rows.append(("best epoch", f"{facts.best.number + 1} of {len(facts.epochs)}"))
    elif facts.ended:
        rows.append(("best epoch", "none: the network before the first step is the best"))
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
                f"verification ({PARTS[gathered.held.held.part]})",
                f"equal error rate {verified.metrics.eer:.3f}, AUC {verified.metrics.auc:.3f}",
            )
        )
    if facts.sessions > 1:
        rows.append(("resumed", "once" if facts.sessions == 2 else f"{facts.sessions - 1} times"))
    return rows
