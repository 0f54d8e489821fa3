"""The tables of ``siamkit cache``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from rich.console import Group, RenderableType
from rich.text import Text

from siamkit.report.terminal import cells, make_table, styled, whole
from siamkit.words import data_size, plural

Json = Mapping[str, Any]


def cache_table(folder: str, stores: Sequence[Json]) -> RenderableType:
    """Return the table of the feature cache's stores, and their total size.

    A store is a folder with the cached features of one frozen part of a network.
    """
    if not stores:
        return whole(f"no cached features in {folder}")
    total = sum(store["bytes"] for store in stores)
    return Group(
        _table(stores),
        Text(),
        whole(f"{plural(len(stores), 'store')}, {data_size(total)} in {folder}"),
    )


def removed_table(folder: str, removed: Sequence[Json], left: Sequence[Json]) -> RenderableType:
    """Return the table of the removed stores, and the totals of removed and of left stores."""
    freed = sum(store["bytes"] for store in removed)
    stay = sum(store["bytes"] for store in left)
    used = sum(store["in_use"] for store in left)
    text = f"removed {plural(len(removed), 'store')} ({data_size(freed)})"
    text += f"; {plural(len(left), 'store')} left"
    if left:
        text += f" ({data_size(stay)}" + (f", {used} in use)" if used else ")")
    parts: list[RenderableType] = [_table(removed), Text()] if removed else []
    return Group(*parts, whole(f"{text} in {folder}"))


def features_of(description: Json) -> str:
    """Return which features a store holds: ``resnet50 → layer4, 224 x 224 px, float16``."""
    backbone, boundary = description.get("backbone"), description.get("boundary")
    place = " → ".join(str(part) for part in (backbone, boundary) if part is not None)
    sizes = description.get("image_size")
    pixels = " x ".join(map(str, sizes)) if isinstance(sizes, list) else sizes
    parts = [place, f"{pixels} px" if pixels else "", description.get("dtype", "")]
    return ", ".join(str(part) for part in parts if part) or "unknown"


def _table(stores: Sequence[Json]) -> RenderableType:
    table = make_table("store", "features of", "count", "size", "last used",
                       numbers=("count", "size"))  # fmt: skip
    for store in stores:
        used = datetime.fromisoformat(store["last_used"]).astimezone()
        when = "now" if store["in_use"] else f"{used:%Y-%m-%d %H:%M}"
        table.add_row(
            styled(store["store"][:12], "bold"),
            *cells(
                features_of(store["description"]), store["rows"], data_size(store["bytes"]), when
            ),
        )
    return table
