"""The text of ``siamkit export``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Group, RenderableType
from rich.text import Text

from siamkit.report import units
from siamkit.report.terminal import cells, make_table, styled, whole
from siamkit.words import data_size, plural

_METRICS = {
    "recall@1": "recall@1",
    "map@r": "MAP@R",
    "auc": "AUC",
    "eer": "EER",
    "far": "FAR",
    "far_refitted": "FAR, refitted",
}


def exported(result: Mapping[str, Any]) -> RenderableType:
    """Return what ``siamkit export`` prints."""
    rows = result["quality"]
    shown = [name for name in _METRICS if any(name in row["metrics"] for row in rows)]
    numbers = (*(_METRICS[name] for name in shown), "size", "one image", "batches of 32")
    table = make_table("network", *numbers, numbers=numbers)
    table.padding = (0, 1, 0, 0)  # so that a terminal of 80 columns breaks no cell
    table.columns[0].no_wrap = True
    for row in rows:
        metrics = [row["metrics"].get(name) for name in shown]
        table.add_row(
            *cells(
                f"{row['kind']} {row['precision']}",
                *(None if value is None else f"{value:.4f}" for value in metrics),
                data_size(row["bytes"]),
                units.milliseconds(row["latency"]),
                units.per_second(row["throughput"]),
            )
        )
    machine, images = result["machine"], plural(result["images"], "validation image")
    about = (
        f"{images} of {plural(result['classes'], 'class')}; FAR: false accepts at the stored "
        f"threshold; speed with {plural(machine['threads'], 'thread')} of {machine['cpu']}"
    )
    lines: list[RenderableType] = [table, Text(), styled(about, "dim")]
    if result["cosine"] is not None:
        lines.append(styled(f"least cosine similarity to torch: {result['cosine']:.7f}"))
    lines += [styled(f"note: {text}", "yellow") for text in result["notices"]]
    size = data_size(result["bytes"])
    return Group(*lines, whole(f"written to {result['output']} ({size})"))
