"""The data check: describes a data set and lists its problems."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from siamkit.config import DataConfig
from siamkit.data.decode import forms, unreadable
from siamkit.data.images import ImageSet
from siamkit.data.leaks import Twins, conflicts, leaks, near_duplicates
from siamkit.data.opening import open_source, split
from siamkit.data.sources import Source
from siamkit.errors import DataError


def check(config: DataConfig, seed: int, tick: Callable[[], None] = lambda: None) -> dict[str, Any]:
    """Return all there is to say about a data set, as JSON values.

    Every image is decoded, hashed, and compared across the splits that a run would make.

    Args:
        config: Where the data is and how to split it.
        seed: Seed of what is held out.
        tick: Called now and then during long work; may raise to stop.

    Returns:
        ``problems``: why it cannot be used as it is; empty if it can. ``warnings``: images on both
        sides of a split, or with two labels. ``parts``, ``how`` and ``notices``: what a run would
        get. ``files``, ``unreadable``, ``formats``, ``modes``, ``sizes``: what the files are.
        ``leaks``, ``near_duplicates``, ``conflicts``: pairs of images. ``torn_groups``: groups that
        the data's own splits have on two sides.

    Raises:
        DataError: The data cannot be read: no such file, bad rows.
    """
    source = open_source(config.path, config.root)
    files = source.files()
    boxes = {path: box for path, box in files.items() if box is not None}
    bad = unreadable(list(files), boxes=boxes, full=True)
    source = source.without({path for path, _ in bad})
    problems = [f"{len(bad)} images cannot be read"] if bad else []
    report: dict[str, Any] = {
        "kind": source.kind,
        "where": source.where,
        "problems": problems,
        "unreadable": [{"path": str(path), "problem": why} for path, why in bad],
        "torn_groups": source.torn(),
        **_files(list(source.files())),
        **_splits(source, config, seed, problems, tick),
    }
    report["warnings"] = [
        f"{len(report[key])} {text}"
        for key, text in (
            ("leaks", "images are on two sides of a split, by content"),
            ("torn_groups", "groups are in two splits"),
            ("near_duplicates", "pairs of images on two sides of a split look the same"),
            ("conflicts", "images with the same content have different labels"),
        )
        if report[key]
    ]
    return report


def _splits(
    source: Source,
    config: DataConfig,
    seed: int,
    problems: list[str],
    tick: Callable[[], None],
) -> dict[str, Any]:
    empty: dict[str, Any] = {"how": None, "parts": {}, "notices": list(source.notices)}
    try:
        splits = split(source, config, seed)
    except DataError as error:
        problems.append(str(error))
        empty |= {"leaks": [], "near_duplicates": [], "conflicts": []}
        return empty
    sets = splits.sets
    labelled = [images for images in sets.values() if images.tuples is None]
    return {
        "how": splits.how,
        "parts": {name: _part(images) for name, images in sets.items()},
        "notices": list(splits.notices),
        "leaks": _twins(leaks(sets)),
        "near_duplicates": _twins(near_duplicates(sets, tick)),
        "conflicts": _twins([twins for images in labelled for twins in conflicts(images)]),
    }


def _part(images: ImageSet) -> dict[str, Any]:
    counts = sorted(images.counts.values())
    part: dict[str, Any] = {"images": len(images), "classes": len(images.classes)}
    tuples = images.tuples
    if tuples is None:
        part |= {"smallest": counts[0], "median": median(counts), "largest": counts[-1]}
    elif tuples.same is not None:
        same = sum(tuples.same)
        part |= {"pairs": len(tuples), "same": same, "different": len(tuples) - same}
    else:
        part |= {"triplets": len(tuples)}
    for role in ("query", "gallery"):
        if (flags := getattr(images, role)) is not None:
            part[role] = sum(flags)
    return part


def _twins(pairs: Sequence[Twins]) -> list[dict[str, Any]]:
    return [
        {
            "keys": list(twins.keys),
            "parts": list(twins.parts),
            "classes": list(twins.classes),
            **({} if twins.bits is None else {"bits": twins.bits}),
        }
        for twins in pairs
    ]


def _files(paths: Sequence[Path]) -> dict[str, Any]:
    seen = forms(paths)
    sides = sorted(min(size) for _, _, size in seen)
    return {
        "files": len(paths),
        "formats": dict(Counter(form for form, _, _ in seen).most_common()),
        "modes": dict(Counter(mode for _, mode, _ in seen).most_common()),
        "shorter_side": {
            "smallest": sides[0], "median": median(sides), "largest": sides[-1]
        } if sides else None,
    }  # fmt: skip
