"""The table of ``siamkit prune``: the network before and after."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from rich.console import Group, RenderableType
from rich.text import Text

from siamkit.report import units
from siamkit.report.terminal import cells, make_table, styled
from siamkit.words import plural, short_count

Json = Mapping[str, Any]

_IMPORTANCE = {
    "taylor": "the effect of each channel on the run's loss (first-order Taylor)",
    "activation": "the share of each channel in its layer's output, because the run's loss has no "
    "gradient",
}

_ROWS: tuple[tuple[str, str, Callable[[Any], str]], ...] = (
    ("parameters", "parameters", short_count),
    ("flops", "FLOPs per image", short_count),
    ("latency_ms", "latency of one image", lambda value: f"{value:.3g} ms"),
    ("images_per_second", "throughput in batches of 32", units.per_second),
    ("recall@1", "recall@1", lambda value: f"{value:.3f}"),
    ("map@r", "MAP@R", lambda value: f"{value:.3f}"),
    ("eer", "EER", units.percent),
    ("threshold", "threshold", lambda value: f"{value:.4f}"),
)


def pruning(values: Json) -> RenderableType:
    """Return the printed form of the result of ``siamkit.prune``."""
    left = sum(group["after"] for group in values["groups"])
    all_of = sum(group["before"] for group in values["groups"])
    which = "" if values["part"] == "all" else f" of the {values['part']} part"
    head = (
        f"{left} of {all_of} channels{which} are left in {plural(len(values['groups']), 'group')}; "
        f"the least important ones were removed, by {_IMPORTANCE[values['importance']]}"
    )
    table = make_table("", "before", "after", "change", numbers=("before", "after", "change"))
    for key, name, shown in _ROWS:
        before, after = (values[side][key] for side in ("before", "after"))
        texts = ["-" if value is None else shown(value) for value in (before, after)]
        table.add_row(*cells(name, *texts, _change(key, before, after)))
    return Group(
        styled(head),
        Text(),
        table,
        Text(),
        styled(f"measured on {values['device']}; quality on {values['images']}", "dim"),
        styled(f"new run: {values['run_dir']}"),
        *(styled(f"note: {text}", "yellow") for text in values["notices"]),
    )


def _change(key: str, before: float | None, after: float | None) -> str:
    if before is None or after is None:
        return ""
    if key in ("parameters", "flops"):
        return f"-{units.percent(1 - after / before)}"
    if key in ("latency_ms", "images_per_second"):
        ratio = before / after if key == "latency_ms" else after / before
        return f"{ratio:.2f}x as fast"
    return f"{after - before:+.3f}"
