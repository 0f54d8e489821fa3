"""What ``siamkit embed``, ``index`` and ``search`` print."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import RenderableType

from siamkit.report import units
from siamkit.report.terminal import styled

Json = Mapping[str, Any]


def embedded(result: Json) -> RenderableType:
    """Return what ``siamkit embed`` prints."""
    text = f"{result['images']} images x {result['dim']}, float32: {result['output']}"
    if result["paths"] is not None:
        text += f"\ntheir paths: {result['paths']}"
    new = result["images"] - result["resumed_at"]
    return styled(f"{text}\n{_pace(new, result['seconds'], result['kernel'])}")


def _pace(images: int, seconds: float, kernel: str | None) -> str:
    if not images or kernel is None:
        return "all of them were embedded before"
    rate = units.per_second(images / max(seconds, 1e-9))
    return f"{images} embedded in {units.duration(seconds)} ({rate}, {kernel})"
