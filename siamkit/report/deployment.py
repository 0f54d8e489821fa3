"""The texts of ``siamkit embed``, ``index`` and ``search``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Group, RenderableType
from rich.text import Text

from siamkit.report import units
from siamkit.report.plain import (
    NEIGHBOUR_COLUMNS,
    embedded_text,
    neighbour_cells,
    note_lines,
    pace,
    search_lines,
)
from siamkit.report.terminal import cells, make_table, styled, whole
from siamkit.words import plural

Json = Mapping[str, Any]


def embedded(result: Json) -> RenderableType:
    """Return what ``siamkit embed`` prints."""
    return whole(embedded_text(result))


def indexed(result: Json) -> RenderableType:
    """Return what ``siamkit index`` prints."""
    labels = f" of {plural(result['labels'], 'label')}" if result["labels"] else ""
    count = plural(result["images"], "image")
    lines = [f"{count}{labels}, {result['dim']} dimensions: {result['index']}"]
    if result["kind"] == "exact":
        lines.append("exact search")
    else:
        lines.append(
            f"approximate search ({result['kind']}): recall@10 {result['recall@10']:.3f} on a "
            f"sample of the gallery, built in {units.duration(result['build_seconds'])}"
        )
    return whole("\n".join([*lines, pace(result), *note_lines(result)]))


def searched(result: Json) -> RenderableType:
    """Return what ``siamkit search`` prints."""
    parts: list[RenderableType] = [styled(line) for line in search_lines(result)]
    for query in result["queries"]:
        table = make_table(*NEIGHBOUR_COLUMNS, numbers=("rank", "score"))
        for neighbour in query["neighbours"]:
            table.add_row(*cells(*neighbour_cells(neighbour)))
        parts += [Text(), whole(styled(query["path"], "bold")), table]
    return Group(*parts)
