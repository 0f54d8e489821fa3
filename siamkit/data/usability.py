"""Usability: finds the images that cannot be used, and leaves them out if the user wants it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from siamkit.config import DataConfig
from siamkit.data.preparation import decoding_of
from siamkit.data.sources import Source
from siamkit.errors import DataError
from siamkit.portable.decode import Decoding
from siamkit.portable.folders import briefly, listed
from siamkit.portable.geometry import Box, Boxed
from siamkit.portable.looking import Facts, look
from siamkit.spelling import setting
from siamkit.words import plural

_TRIED = 3  # files that are looked for in another folder


class Unusable(NamedTuple):
    """An image that cannot be used.

    Attributes:
        path: The file.
        box: The box of the file that is the image; None for the whole file.
        problem: The reason.
        row: The number of the image's row or line in a table; None in a folder.
    """

    path: Path
    box: Box | None
    problem: str
    row: int | None


@dataclass(frozen=True)
class Usable:
    """The usable images of a source.

    Attributes:
        source: The source without unusable images.
        facts: The facts about each file in ``source``.
        skipped: The paths of the unusable images, and their rows and problems.
    """

    source: Source
    facts: Mapping[Path, Facts]
    skipped: tuple[tuple[str, str], ...] = ()


def usable(source: Source, config: DataConfig, how: Decoding | None = None) -> Usable:
    """Check every image, and return the source without the unusable images.

    No file is changed, and unusable images are not replaced by others.

    Args:
        source: The data.
        config: How to treat unusable images.
        how: How to decode the images; None to decode them as the config says.

    Raises:
        DataError: There are unusable images, and ``data.on_unreadable`` is ``error`` or their share
            is above ``data.max_skipped``.
    """
    images = source.images()
    files = boxes_of(images)
    tolerant = config.on_unreadable != "error"
    how = how or decoding_of(config)
    looks = look(list(files), how, boxes=files, full=tolerant)
    facts = {found.path: found for found in looks}
    bad = unusable(images, facts)
    if not bad:
        return without(source, facts, bad)
    lines = listed([
        f"{row_text(one.row)}{_near(one.path, source.where)}: {one.problem}" for one in bad
    ])  # fmt: skip
    what = f"{len(bad)} of {plural(len(images), 'image')} cannot be used:{lines}"
    hint = root_hint(source, bad)
    if not hint:
        ways = dict.fromkeys(found.hint for found in facts.values() if found.hint)
        skip = "" if tolerant else f", or use {setting('data.on_unreadable', 'skip')}"
        hint = "; ".join([*ways, f"repair or remove them{skip}"])
    if not tolerant:
        raise DataError(what, where=source.where, hint=hint)
    if not may_skip(config, len(bad), len(images)):
        raise DataError(
            what,
            where=source.where,
            allowed=f"{config.max_skipped:.0%} of them (data.max_skipped)",
            hint=hint,
        )
    return without(source, facts, bad)


def boxes_of(images: Iterable[Boxed]) -> dict[Path, list[Box]]:
    """Map the file of each image to its boxes; to an empty list if there are none."""
    boxes: dict[Path, list[Box]] = {}
    for path, box in images:
        found = boxes.setdefault(path, [])
        if box is not None:
            found.append(box)
    return boxes


def unusable(images: Mapping[Boxed, int | None], facts: Mapping[Path, Facts]) -> list[Unusable]:
    """Return the images that cannot be used, in their order.

    Args:
        images: Each image, and the number of its row.
        facts: The facts about each file.
    """
    judged = ((path, box, facts[path].problem_of(box), row) for (path, box), row in images.items())
    return [Unusable(path, box, why, row) for path, box, why, row in judged if why]


def without(source: Source, facts: Mapping[Path, Facts], bad: Sequence[Unusable]) -> Usable:
    """Return a source without its unusable images.

    Args:
        source: The data.
        facts: The facts about each file.
        bad: The unusable images.
    """
    if not bad:
        return Usable(source, facts)
    left = source.without({(one.path, one.box) for one in bad})
    files = dict.fromkeys(path for path, _ in left.images())
    told = tuple((str(one.path), f"{row_text(one.row)}{one.problem}") for one in bad)
    return Usable(left, {path: facts[path] for path in files}, told)


def may_skip(config: DataConfig, bad: int, images: int) -> bool:
    """Return whether the config lets ``bad`` unusable images of ``images`` be left out."""
    return config.on_unreadable != "error" and bad <= config.max_skipped * images


def row_text(number: int | None) -> str:
    """Return ``row N: ``, with which a problem's text starts; empty if there is no row number."""
    return "" if number is None else f"row {number}: "


def root_hint(source: Source, bad: Sequence[Unusable]) -> str | None:
    """Return a hint about ``data.root`` if more than half of a table's files do not exist.

    The hint names another folder if the files exist there.

    Args:
        source: The data.
        bad: The images that cannot be used.

    Returns:
        The hint; None if most files exist, or if the data is not a table.
    """
    root = source.root
    gone = [path for path in dict.fromkeys(one.path for one in bad) if not _exists(path)]
    if root is None or 2 * len(gone) <= len(boxes_of(source.images())):
        return None
    keys = [path.relative_to(root) for path in gone[:_TRIED]]
    for folder in (*root.parents, *_folders_in(root)):
        if all(_exists(folder / key) for key in keys):
            return f"the paths exist below {folder}: use {setting('data.root', str(folder))}"
    return f"the paths are relative to {root}; {setting('data.root', 'DIR')} sets another folder"


def _exists(path: Path) -> bool:
    """Return whether a file is known to exist, which it is not in a folder out of reach."""
    try:
        return path.exists()
    except OSError:
        return False


def _folders_in(folder: Path) -> list[Path]:
    try:
        return sorted(path for path in folder.iterdir() if path.is_dir())
    except OSError:
        return []


def _near(path: Path, where: str) -> Path:
    folder = Path(where) if Path(where).is_dir() else Path(where).absolute().parent
    return path.relative_to(folder) if path.is_relative_to(folder) else path


def left_out_notice(opened: Source, checked: Usable) -> list[str]:
    """Return a notice that names the images that were left out; an empty list if there are none.

    Raises:
        DataError: No image of one of the data's splits is left.
    """
    if not checked.skipped:
        return []
    if lost := set(opened.parts()) - set(checked.source.parts()):
        raise DataError(
            f"no image of {', '.join(sorted(lost))} can be read",
            where=opened.where,
            hint="repair the images, or remove the split from the data",
        )
    names = briefly([f"{path} ({why})" for path, why in checked.skipped], 2)
    return [f"left out {plural(len(checked.skipped), 'unreadable image')}: {names}"]
