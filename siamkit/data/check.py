"""The data check: describes a data set and lists its problems."""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

from siamkit.config import DataConfig
from siamkit.data.images import ImageSet
from siamkit.data.leaks import Contents, Group, OnProgress, counted, no_progress
from siamkit.data.load import split
from siamkit.data.opening import open_source
from siamkit.data.preparation import CHECKED, decoding_of, preparation
from siamkit.data.sources import Source
from siamkit.data.usability import (
    Usable,
    boxes_of,
    left_out_notice,
    may_skip,
    root_hint,
    unusable,
    without,
)
from siamkit.errors import DataError
from siamkit.portable.decode import Decoding
from siamkit.portable.folders import briefly
from siamkit.portable.looking import Facts, look
from siamkit.portable.preprocessing import Preprocessing
from siamkit.spelling import argument
from siamkit.words import plural

_SQUARE = Preprocessing(size=(1, 1), crop_pct=1.0)  # the check knows no backbone


def check(config: DataConfig, seed: int, progress: OnProgress = no_progress) -> dict[str, Any]:
    """Check a data set, and return a report of it as JSON values.

    Every image is decoded, hashed, and compared across the splits that a run would make.

    Args:
        config: The section ``data`` of a config: where the data is, and how to split it.
        seed: The seed of the split.
        progress: Called at the start of each step and after each image.

    Returns:
        ``kind`` and ``where``: the kind and the place of the data.

        ``problems``: the reasons why the data cannot be used; empty if there are none.

        ``warnings``: summaries of images and groups that are in two splits, and of images with the
        same content but different labels.

        ``parts``, ``how`` and ``notices``: the sizes of the splits that a run would make, a
        description of these splits, and notices for the user.

        ``files``, ``formats``, ``modes`` and ``shorter_side``: facts about the files that can be
        read.

        ``unreadable``: the images that cannot be used.

        ``leaks``: groups of images in two or more splits that have the same content.

        ``near_duplicates``: groups of images in two or more splits that look the same.

        ``conflicts``: groups of images that have the same content but different labels.

        ``copies``: groups of images of one class in one split that have the same content.

        ``preparation``: how a run would fit images into the network's input (``fit``), which pixel
        values would become black and white (``range``), the share of elongated images
        (``elongated``), and the share of their area that a centre crop leaves out (``lost``).

        ``split_groups``: the groups that are in more than one of the data's own splits.

    Raises:
        DataError: The data cannot be read, for example because of a missing file or bad rows.
    """
    opened = open_source(config.path, config.root, config.columns)
    images = opened.images()
    files = boxes_of(images)
    facts = _Files()
    looks = look(list(files), decoding_of(config), boxes=files, full=True)
    for found in counted(looks, progress, "read images", len(files)):
        facts.add(found)
    bad = unusable(images, facts.known)
    checked = without(opened, facts.known, bad)
    source = checked.source
    problems: list[str] = []
    if bad and not may_skip(config, len(bad), len(images)):
        problems.append(f"{plural(len(bad), 'image')} cannot be used")
        hint = root_hint(opened, bad)
        problems += [hint] if hint else facts.hints
        checked = replace(checked, skipped=())  # they end a run, so none would be left out
    report: dict[str, Any] = {
        "kind": source.kind,
        "where": source.where,
        "problems": problems,
        "unreadable": [
            {"path": str(one.path), "box": one.box, "problem": one.problem, "row": one.row}
            for one in bad
        ],
        "split_groups": source.split_groups(),
        **facts.report(),
        **_splits(opened, checked, config, seed, problems, progress),
    }
    report["notices"] += facts.notices()
    report["warnings"] = _warnings(report)
    if config.strict:
        problems += _refused(report)
    return report


def _refused(report: Mapping[str, Any]) -> list[str]:
    """Return the problems that ``data.strict`` adds; an empty list if there are none."""
    kinds = {"leaks": ("group of copies", "groups of copies"), "split_groups": ("group", "groups")}
    return [
        f"{plural(len(report[key]), *nouns)} in two splits ({argument('strict')})"
        for key, nouns in kinds.items()
        if report[key]
    ]


def _splits(
    opened: Source,
    checked: Usable,
    config: DataConfig,
    seed: int,
    problems: list[str],
    progress: OnProgress,
) -> dict[str, Any]:
    source = checked.source
    empty: dict[str, Any] = {"how": None, "parts": {}, "notices": list(source.notices)}
    empty["preparation"] = None
    empty |= {"leaks": [], "near_duplicates": [], "conflicts": [], "copies": []}
    if not checked.facts:  # no image can be read, and ``problems`` says so already
        return empty
    try:
        left_out = left_out_notice(opened, checked)
        splits = split(source, config, seed)
    except DataError as error:
        problems.append(str(error))
        return empty
    prepared = preparation(config, splits.sets, checked.facts, _SQUARE)
    known = None if prepared.range == "full" else prepared.range
    # The perceptual hash reads 32 pixels per side.
    how = Decoding(value_range=known, max_pixels=config.max_pixels, least=CHECKED)
    contents = Contents(splits.sets, progress, how=how)
    return {
        "how": splits.how,
        "parts": {name: _part(images) for name, images in splits.sets.items()},
        "notices": [*splits.notices, *left_out, *prepared.notices],
        "preparation": {
            "fit": prepared.fit,
            "range": prepared.range,
            "elongated": prepared.elongated,
            "lost": prepared.lost,
        },
        "leaks": _groups(contents.leaks()),
        "near_duplicates": _groups(contents.near_duplicates(progress)),
        "conflicts": _groups(contents.conflicts()),
        "copies": _groups(contents.copies()),
    }


def _warnings(report: Mapping[str, Any]) -> list[str]:
    texts = {
        "leaks": "two splits hold images with the same content",
        "near_duplicates": "two splits hold images that look the same",
        "conflicts": "images with the same content have different labels",
        "copies": "a split holds the same image several times",
    }
    warnings = []
    for key, text in texts.items():
        if groups := report[key]:
            images = plural(sum(group["images"] for group in groups), "image")
            warnings.append(f"{images} in {plural(len(groups), 'group')}: {text}")
    if groups := report["split_groups"]:
        warnings.append(f"{plural(len(groups), 'group')}: two splits hold images of the same group")
    return warnings


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


def _groups(groups: Sequence[Group]) -> list[dict[str, Any]]:
    return [
        {
            "images": len(group),
            "parts": group.parts,
            "classes": group.labels,
            "members": [{"key": m.key, "part": m.part, "class": m.label} for m in group.members],
        }
        for group in groups
    ]


class _Files:
    """A summary of the facts about all files."""

    def __init__(self) -> None:
        self.known: dict[Path, Facts] = {}
        self.hints: list[str] = []
        self._blind: list[Path] = []
        self._formats: Counter[str] = Counter()
        self._modes: Counter[str] = Counter()
        self._sides = array("I")

    def add(self, facts: Facts) -> None:
        self.known[facts.path] = facts
        if facts.problem is not None:
            if facts.hint is not None and facts.hint not in self.hints:
                self.hints.append(facts.hint)
            return
        self._formats[facts.format] += 1
        self._modes[facts.mode] += 1
        self._sides.append(min(facts.size))
        if not facts.oriented:
            self._blind.append(facts.path)

    def report(self) -> dict[str, Any]:
        sides = self._sides
        return {
            "files": len(sides),
            "formats": dict(self._formats.most_common()),
            "modes": dict(self._modes.most_common()),
            "shorter_side": {
                "smallest": min(sides), "median": median(sides), "largest": max(sides)
            } if sides else None,
        }  # fmt: skip

    def notices(self) -> list[str]:
        if not self._blind:
            return []
        return [
            f"the EXIF data of {plural(len(self._blind), 'image')} cannot be read, so their "
            "orientation is unknown and they count as upright: "
            f"{briefly([str(path) for path in self._blind])}"
        ]
