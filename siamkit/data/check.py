"""The data check: describes a data set and lists its problems."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from statistics import median
from typing import Any

from siamkit.config import DataConfig
from siamkit.data.decode import Facts, look
from siamkit.data.folders import briefly
from siamkit.data.images import ImageSet
from siamkit.data.leaks import Twins, conflicts, leaks, near_duplicates
from siamkit.data.opening import open_source, split
from siamkit.data.preparation import preparation
from siamkit.data.sources import Source
from siamkit.errors import DataError
from siamkit.words import plural

_SQUARE = (1, 1)


def check(config: DataConfig, seed: int, tick: Callable[[], None] = lambda: None) -> dict[str, Any]:
    """Return the report of a data set, as JSON values.

    Every image is decoded, hashed, and compared across the splits that a run would make.

    Args:
        config: The place of the data, and how to split it.
        seed: Seed of the split.
        tick: Called regularly during long work; may raise to stop.

    Returns:
        ``kind`` and ``where``: the kind and the place of the data. ``problems``: the reasons why it
        cannot be used; empty if it can. ``warnings``: images in two splits, or with two labels.
        ``parts``, ``how`` and ``notices``: the splits of a run. ``files``, ``unreadable``,
        ``formats``, ``modes`` and ``shorter_side``: facts about the files. ``leaks``,
        ``near_duplicates`` and ``conflicts``: pairs of images. ``preparation``: how a run would fit
        the images and which of their values are white, and the shares of elongated images and of
        their area that a centre crop leaves out. ``split_groups``: groups that are in
        two of the data's own splits.

    Raises:
        DataError: The data cannot be read, for example because of a missing file or bad rows.
    """
    source = open_source(config.path, config.root)
    files = source.files()
    boxes = {path: box for path, box in files.items() if box is not None}
    how: dict[str, Any] = {"channels": config.in_chans, "value_range": config.value_range}
    looks = list(look(list(files), boxes=boxes, **how, full=True))
    bad = [facts for facts in looks if facts.problem]
    source = source.without({facts.path for facts in bad})
    problems = [f"{plural(len(bad), 'image')} cannot be read"] if bad else []
    report: dict[str, Any] = {
        "kind": source.kind,
        "where": source.where,
        "problems": problems,
        "unreadable": [{"path": str(f.path), "problem": f.problem} for f in bad],
        "split_groups": source.split_groups(),
        **_files([facts for facts in looks if not facts.problem]),
        **_splits(source, config, seed, problems, tick),
    }
    report["notices"] += _orientation_notices(looks)
    report["warnings"] = [
        f"{plural(len(report[key]), noun)}: {text}"
        for key, noun, text in (
            ("leaks", "leak", "two splits hold images with the same content"),
            ("split_groups", "group", "two splits hold images of the same group"),
            ("near_duplicates", "near duplicate", "two splits hold images that look the same"),
            ("conflicts", "conflict", "images with the same content have different labels"),
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
    empty["preparation"] = None
    try:
        splits = split(source, config, seed)
    except DataError as error:
        problems.append(str(error))
        empty |= {"leaks": [], "near_duplicates": [], "conflicts": []}
        return empty
    sets = splits.sets
    prepared = preparation(config, sets, _SQUARE, "crop")
    labelled = [images for images in sets.values() if images.tuples is None]
    return {
        "how": splits.how,
        "parts": {name: _part(images) for name, images in sets.items()},
        "notices": [*splits.notices, *prepared.notices],
        "preparation": {
            "fit": prepared.fit,
            "range": prepared.range,
            "elongated": prepared.elongated,
            "lost": prepared.lost,
        },
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


def _files(looks: Sequence[Facts]) -> dict[str, Any]:
    sides = sorted(min(facts.size) for facts in looks)
    return {
        "files": len(looks),
        "formats": dict(Counter(facts.format for facts in looks).most_common()),
        "modes": dict(Counter(facts.mode for facts in looks).most_common()),
        "shorter_side": {
            "smallest": sides[0], "median": median(sides), "largest": sides[-1]
        } if sides else None,
    }  # fmt: skip


def _orientation_notices(looks: Sequence[Facts]) -> list[str]:
    blind = [str(facts.path) for facts in looks if not facts.oriented]
    if not blind:
        return []
    return [
        f"the EXIF data of {plural(len(blind), 'image')} cannot be read, so their orientation is "
        f"unknown and they count as upright: {briefly(blind)}"
    ]
