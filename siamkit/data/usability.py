"""Usability: finds the images that cannot be used, and leaves them out if the user wants it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from siamkit.config import DataConfig
from siamkit.data.preparation import decoding_of
from siamkit.data.sources import Source
from siamkit.errors import DataError
from siamkit.portable.decode import Decoding
from siamkit.portable.folders import briefly, listed
from siamkit.portable.looking import Facts, look
from siamkit.spelling import setting
from siamkit.words import plural

_TRIED = 3  # files that are looked for in another folder


@dataclass(frozen=True)
class Usable:
    """The usable images of a source.

    Attributes:
        source: The source without unusable images.
        facts: The facts about each file in ``source``.
        skipped: The paths of the unusable images, and their problems.
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
    files = source.files()
    boxes = {path: box for path, box in files.items() if box is not None}
    tolerant = config.on_unreadable != "error"
    how = how or decoding_of(config)
    looks = look(list(files), how, boxes=boxes, full=tolerant)
    facts = {found.path: found for found in looks}
    bad = [(path, found.problem) for path, found in facts.items() if found.problem]
    if not bad:
        return Usable(source, facts)
    rows = source.rows()
    lines = listed([
        f"{row_text(rows.get(path))}{_near(path, source.where)}: {problem}"
        for path, problem in bad
    ])  # fmt: skip
    what = f"{len(bad)} of {plural(len(files), 'image')} cannot be used:{lines}"
    hint = root_hint(source, [path for path, _ in bad])
    if not hint:
        ways = dict.fromkeys(found.hint for found in facts.values() if found.hint)
        skip = "" if tolerant else f", or use {setting('data.on_unreadable', 'skip')}"
        hint = "; ".join([*ways, f"repair or remove them{skip}"])
    if not tolerant:
        raise DataError(what, where=source.where, hint=hint)
    if not may_skip(config, len(bad), len(files)):
        raise DataError(
            what,
            where=source.where,
            allowed=f"{config.max_skipped:.0%} of them (data.max_skipped)",
            hint=hint,
        )
    left = source.without({path for path, _ in bad})
    good = {path: found for path, found in facts.items() if not found.problem}
    return Usable(left, good, tuple((str(path), why) for path, why in bad))


def may_skip(config: DataConfig, bad: int, files: int) -> bool:
    """Return whether the config lets ``bad`` unusable images of ``files`` files be left out."""
    return config.on_unreadable != "error" and bad <= config.max_skipped * files


def row_text(number: int | None) -> str:
    """Return ``row N: ``, with which a problem's text starts; empty if there is no row number."""
    return "" if number is None else f"row {number}: "


def root_hint(source: Source, bad: Sequence[Path]) -> str | None:
    """Return a hint about ``data.root`` if more than half of a table's files do not exist.

    The hint names another folder if the files exist there.

    Args:
        source: The data.
        bad: The files that cannot be used.

    Returns:
        The hint; None if most files exist, or if the data is not a table.
    """
    root = source.root
    gone = [path for path in bad if not _exists(path)]
    if root is None or 2 * len(gone) <= len(source.files()):
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
