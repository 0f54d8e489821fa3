"""The engine's decision for a phase, in a line."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from siamkit.report import units


def engine_text(data: Mapping[str, Any]) -> str:
    """Say how a phase is computed, and why: a line, and one for each boundary passed over."""
    if data["mode"] == "whole":
        return f"the whole network runs for every batch: {data['reason']}"
    where = f"frozen up to {data['boundary']}"
    views = "a new view every epoch" if data["views"] is None else f"{data['views']} views an image"
    with_kernel = f" with {data['kernel']}" if data["kernel"] else ""
    if data["mode"] == "live":
        how = f"computed for every batch{with_kernel}"
    else:
        how = (
            f"{data['missing']} of {data['rows']} rows to be computed{with_kernel}, each once, "
            f"{units.size(data['bytes'])}"
        )
    estimate = f"about {units.duration(data['cached'])} cached, {units.duration(data['live'])} live"
    text = f"{where}: {how}; {views}; {data['reason']} ({estimate})"
    return "\n".join((text, *(f"not at {reason}" for reason in data["passed_over"])))
