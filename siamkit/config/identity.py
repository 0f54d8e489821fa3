"""The identity of a config: the values that decide what a run learns and what its results are."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from siamkit.config.sections import RunConfig

FREE = (
    "run_dir",
    "report",
    "track",
    "data.path",
    "data.root",
    "data.workers",
    "train.device",
    "train.threads",
    "train.checkpoint_every",
    "train.keep_checkpoints",
    "train.keep",
    "backbone.weights",
    "backbone.pruning",
    "backbone.int8",
    "engine.cache",
    "engine.cache_dir",
)
"""Config keys that do not affect the results of a run, so a user may change them.

The path of the data is one of these keys, because data is compared by its names, labels and
contents. So are the paths of records of a pruned or quantized backbone, which are compared by
their content.
"""

RESUMABLE = tuple(
    key
    for key in FREE
    if key not in ("run_dir", "backbone.weights", "backbone.pruning", "backbone.int8")
)
"""Config keys that may be changed when a run is resumed."""

CHOSEN = ("train.monitor", "data.fit", "data.range", "head.name", "optimizer.lr")
"""Config keys that a new run sets by itself where they are null or ``auto``."""


def decisive(config: RunConfig) -> dict[str, Any]:
    """Return the JSON value of each dotted key, such as ``loss.margin``, except :data:`FREE`."""
    return {key: value for key, value in flat(config.to_values()) if key not in FREE}


def flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield each innermost value with its dotted key, which begins with ``prefix``."""
    for key, value in values.items():
        if isinstance(value, dict):
            yield from flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def nested(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return values by dotted key as nested sections; the inverse of :func:`flat`."""
    result: dict[str, Any] = {}
    for key, value in values.items():
        *sections, last = key.split(".")
        inner = result
        for section in sections:
            inner = inner.setdefault(section, {})
        inner[last] = value
    return result
