"""The texts of ``siamkit embed``, ``index`` and ``search``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Group, RenderableType
from rich.text import Text

from siamkit.report import units
from siamkit.report.terminal import cells, make_table, styled, whole
from siamkit.words import plural

Json = Mapping[str, Any]


def embedded(result: Json) -> RenderableType:
    """Return what ``siamkit embed`` prints."""
    count = plural(result["images"], "embedding")
    text = f"{count} of {result['dim']} dimensions, float32: {result['output']}"
    if result["paths"] is not None:
        text += f"\nimage paths: {result['paths']}"
    return whole(f"{text}\n{_pace(result)}")


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
    return whole("\n".join([*lines, _pace(result)]))


def searched(result: Json) -> RenderableType:
    """Return what ``siamkit search`` prints."""
    how = f"{result['kind']} search among {plural(result['images'], 'image')}"
    if result["recall@10"] is not None:
        how += f"; recall@10 against exact search: {result['recall@10']:.3f}"
    parts: list[RenderableType] = [styled(how)]
    for query in result["queries"]:
        table = make_table("rank", "score", "label", "path", numbers=("rank", "score"))
        for neighbour in query["neighbours"]:
            table.add_row(
                *cells(
                    neighbour["rank"],
                    f"{neighbour['score']:.4f}",
                    neighbour["label"],
                    neighbour["path"],
                )
            )
        parts += [Text(), whole(styled(query["path"], "bold")), table]
    return Group(*parts)


def _pace(result: Json) -> str:
    new = result["images"] - result["resumed_at"]
    if not new or result["kernel"] is None:
        return "all images were embedded before"
    seconds = result["seconds"] - (result.get("build_seconds") or 0.0)
    rate = units.per_second(new / max(seconds, 1e-9))
    return (
        f"{plural(new, 'image')} embedded in {units.duration(seconds)} ({rate}, {result['kernel']})"
    )
