"""The engine's decision for a phase, as text."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from siamkit.report import units
from siamkit.words import data_size, plural


def engine_text(data: Mapping[str, Any]) -> str:
    """Return how a phase is computed, and why: one line, then one per rejected boundary.

    A boundary is a place where the network could be cut into a frozen and a trainable part.
    """
    if data["mode"] == "whole":
        return f"the whole network runs for every batch: {data['reason']}"
    where = f"frozen up to {data['boundary']}"
    views = "a new view every epoch"
    if data["views"] is not None:
        views = f"{plural(data['views'], 'view')} per image"
    with_kernel = f" with the {data['kernel']} kernel" if data["kernel"] else ""
    if data["mode"] == "live":
        how = f"computed for every batch{with_kernel}"
    else:
        how = f"{_cached(data['rows'], data['missing'], with_kernel)}, {data_size(data['bytes'])}"
    estimate = (
        f"estimated {units.duration(data['cached'])} with the cache, "
        f"{units.duration(data['live'])} without, give or take {_uncertainty(data['spread'])}"
    )
    text = f"{where}: {how}; {views}; {data['reason']} ({estimate})"
    rejected = (f"the network cannot be cut at {reason}" for reason in data["rejected_boundaries"])
    return "\n".join((text, *rejected))


def _uncertainty(spread: float) -> str:
    """Return a relative uncertainty in steps of 10 %; no estimate is better than that."""
    return f"{10 * max(math.ceil(10 * spread), 1)} %"


def _cached(features: int, missing: int, with_kernel: str) -> str:
    if not missing:
        return f"all {plural(features, 'feature')} are in the cache"
    if missing == features:
        return f"{plural(features, 'feature')} computed once{with_kernel} and cached"
    return (
        f"{missing} of {plural(features, 'feature')} computed once{with_kernel}, the others are in "
        "the cache"
    )
