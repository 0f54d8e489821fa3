"""Data opening: reads the user's data, checks it and splits it into image sets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from siamkit.config import SAMPLE, DataConfig
from siamkit.config.base import expanded
from siamkit.data.alike_names import alike_notices
from siamkit.data.images import ImageSet
from siamkit.data.leaks import Contents, repeated_notices, require_apart
from siamkit.data.manifest import OPTIONAL, REQUIRED, read_manifest
from siamkit.data.preparation import decoding_of
from siamkit.data.sample import sample_dir
from siamkit.data.sources import FolderSource, ManifestSource, Source, TupleSource
from siamkit.data.splits import HoldOut, Splits, lone_notice, require_queries, require_usable
from siamkit.data.tuple_splits import require_both_kinds
from siamkit.data.tuple_table import OPTIONAL as KNOWN_OPTIONAL
from siamkit.data.tuple_table import PAIR, TRIPLET, read_lfw, read_tuples
from siamkit.errors import DataError
from siamkit.portable.cells import Cells
from siamkit.portable.decode import Decoding
from siamkit.portable.folders import briefly, listed, scan
from siamkit.portable.looking import Facts, look
from siamkit.portable.tables import ENDINGS, Table, missing_notices, read_table
from siamkit.spelling import setting
from siamkit.words import plural


def open_source(
    path: str,
    root: Path | None = None,
    names: Mapping[str, str] | None = None,
    *,
    names_optional: bool = False,
) -> Source:
    """Read the files and labels of the data, without reading the images.

    Args:
        path: A folder of class folders; a table (CSV or Parquet) of images, pairs or triplets;
            LFW's ``pairs.txt``; or ``sample`` for the built-in images.
        root: The folder that a table's paths are relative to; None for the folder of the table.
        names: Maps siamkit's name of a column (``path``, ``label``) to the name in the table's
            header. Columns that are not in the mapping have siamkit's names.
        names_optional: Whether to ignore ``names`` if the data is not a table with these columns.

    Raises:
        DataError: The data has none of these forms, or has problems, which the message lists.
    """
    if path == SAMPLE:
        return FolderSource(scan(sample_dir()))
    target = expanded(Path(path))
    ending = target.suffix.lower()
    try:
        is_folder = target.is_dir()
        is_table = not is_folder and ending in (*ENDINGS, ".txt") and target.exists()
    except OSError:  # the scan of the folder says why
        is_folder = is_table = False
    if not is_table:
        if is_folder:
            _require_no_table(root, {} if names_optional else names, "a folder")
        return FolderSource(scan(target))
    root = (root or target.absolute().parent).resolve()
    _require_folder(root, "data.root")
    cells = Cells(root)
    if ending == ".txt":
        _require_no_table(None, {} if names_optional else names, "LFW's pairs")
        known = read_lfw(target, cells)
        _require_good(target, cells, ())
        return TupleSource(target, root, known, ())
    table = read_table(target, names, names_optional=names_optional)
    if not (table.rows or table.problems):
        raise DataError("the table has a header but no rows", where=str(target))
    if _names_tuples(table):
        known, notices = read_tuples(table, cells)
        _require_good(target, cells, table.problems)
        return TupleSource(target, root, known, notices)
    if not set(table.columns) & set(REQUIRED):
        raise _unknown_header(table, settable=not names_optional)
    records, notices = read_manifest(table, cells)
    _require_good(target, cells, table.problems)
    return ManifestSource(target, root, records, notices)


def names_tuples(config: DataConfig) -> bool:
    """Return whether the data is a table of pairs or triplets, by its name and header alone.

    A table that cannot be read counts as none, because its images may not be at hand yet.
    """
    target = expanded(Path(config.path))
    if config.path == SAMPLE or not target.is_file():
        return False
    if target.suffix.lower() not in ENDINGS:
        return target.suffix.lower() == ".txt"
    try:
        return _names_tuples(read_table(target, config.columns, names_optional=True))
    except DataError:
        return False


def _names_tuples(table: Table) -> bool:
    return bool(set(table.columns) & {*PAIR[:2], *TRIPLET}) and "path" not in table.columns


def _require_no_table(root: Path | None, names: Mapping[str, str] | None, got: str) -> None:
    given = {"data.root": root} | {f"data.{ours}_column": n for ours, n in (names or {}).items()}
    for key, value in given.items():
        if value is not None:
            raise DataError(f"can only be set for tables, not for {got}", where=key, got=str(value))


def _require_good(path: Path, cells: Cells, problems: Sequence[str]) -> None:
    every = [*problems, *cells.problems]
    if every:
        raise DataError(f"{plural(len(every), 'problem')}:{listed(every)}", where=str(path))


def _unknown_header(table: Table, settable: bool) -> DataError:
    """Return the error about a header.

    Args:
        table: The table.
        settable: Whether the user can say which columns hold the paths and the labels.
    """
    keys = "data.path_column", "data.label_column"
    name, other = (setting(key, "NAME") for key in keys)
    return DataError(
        "unknown header",
        where=str(table.path),
        got=",".join(table.columns),
        allowed=f"{','.join(REQUIRED)}[,{','.join(OPTIONAL)}] for images; "
        f"{','.join(PAIR)}[,{','.join(KNOWN_OPTIONAL)}] for pairs; "
        f"{','.join(TRIPLET)}[,{','.join(KNOWN_OPTIONAL)}] for triplets",
        hint=f"name the columns of images with {name} and {other}"
        if settable
        else "rename the columns of the table",
    )


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


_TRIED = 3


def _exists(path: Path) -> bool:
    """Return whether a file is known to exist, which it is not in a folder out of reach."""
    try:
        return path.exists()
    except OSError:
        return False


def _require_folder(path: Path, where: str) -> None:
    """Check that a path is one of a folder.

    Raises:
        DataError: It is not, or cannot be reached.
    """
    try:
        problem = None if path.is_dir() else "no such folder"
    except OSError as error:
        problem = f"cannot read the folder: {error.strerror}"
    if problem is not None:
        raise DataError(problem, where=where, got=str(path))


def _folders_in(folder: Path) -> list[Path]:
    try:
        return sorted(path for path in folder.iterdir() if path.is_dir())
    except OSError:
        return []


def _near(path: Path, where: str) -> Path:
    folder = Path(where) if Path(where).is_dir() else Path(where).absolute().parent
    return path.relative_to(folder) if path.is_relative_to(folder) else path


def load_data(config: DataConfig, seed: int) -> Splits:
    """Open the data at ``config.path``, check the images, and split them.

    Args:
        config: Where the data is, and how to split it.
        seed: The seed of the split.

    Raises:
        DataError: There are no usable images, or too few for training and validation.
    """
    opened = open_source(config.path, config.root, config.columns)
    checked = usable(opened, config)
    source = checked.source
    left_out = left_out_notice(opened, checked)
    splits = split(source, config, seed)
    sets = splits.sets
    notices = [*splits.notices, *_require_whole(source, strict=config.strict)]
    contents = Contents(sets)
    notices += require_apart(contents, source.where, strict=config.strict)
    for part, noun in (("val", "validation image"), ("test", "test image")):
        if part in sets:
            notices += repeated_notices(contents, part, noun)
    notices += [*_of_two_samples(config.path), *left_out]
    return replace(splits, notices=tuple(notices), skipped=checked.skipped, facts=checked.facts)


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


def _of_two_samples(path: str) -> list[str]:
    """Return a notice if ``sample`` names the built-in data set, but a folder has this name too."""
    if path == SAMPLE and Path(SAMPLE).is_dir():
        return ["'sample' is the built-in data set; write ./sample for the folder"]
    return []


def _about(source: Source) -> list[str]:
    """Return the notices about a source that apply to both training and evaluation."""
    labelled = [images for images in source.parts().values() if images.tuples is None]
    names = (images.classes[sample.label] for images in labelled for sample in images.samples)
    classes = (name for images in labelled for name in images.classes)
    return [
        *source.notices,
        *missing_notices("class", names),
        *alike_notices("class", classes),
    ]


def _require_whole(source: Source, *, strict: bool) -> list[str]:
    """Return a notice if a group is in two of the data's own splits.

    Raises:
        DataError: A group is in two splits, and ``strict`` is set.
    """
    groups = source.split_groups()
    if not groups:
        return []
    verb = "is" if len(groups) == 1 else "are"
    what = f"{plural(len(groups), 'group')} {verb} in two splits: {briefly(groups)}"
    if strict:
        hint = "put all rows of a group into one split"
        raise DataError(what, where=source.where, hint=hint)
    return [what]


def split(source: Source, config: DataConfig, seed: int) -> Splits:
    """Split a source whose images are all usable.

    Args:
        source: The source.
        config: How to split the source.
        seed: The seed of the split.

    Raises:
        DataError: There are too few images for training and validation.
    """
    notices = _about(source)
    parts = source.parts()
    for part, images in parts.items():
        _require_usable(images, source.where, source.name_of(part))
    train = parts.get("all") or parts.get("train")
    if train is None:
        raise DataError("no row has the split 'train'", where=source.where, got=", ".join(parts))
    choice = HoldOut(config.val_fraction, seed, config.folds, config.fold)
    if "val" not in parts:
        train, val, how, more = source.hold_out(train, choice)
        notices += more
    elif config.folds:
        raise DataError(
            "cannot be used with data that has its own validation split",
            where="data.folds",
            hint=f"set data.folds to null, or remove {source.name_of('val')} from {source.where}",
        )
    else:
        val, how = parts["val"], _as_given(train, parts["val"], source)
    splits = Splits(train, val, parts.get("test"), how)
    for part in ("val", "test"):
        if part in splits.sets and train.tuples is None:
            name = source.name_of(part) if part in parts else "the held-out part"
            require_queries(splits.sets[part], source.where, name)
    if train.tuples is None:
        notices += lone_notice(train, "training", "can be a negative, but has no other positive")
        if splits.test is not None:
            notices += _known(train, splits.test)
        for part, name in (("val", "validation"), ("test", "test")):
            if part in splits.sets:
                images = splits.sets[part]
                notices += lone_notice(images, name, "is in the gallery but never a query")
    return replace(splits, notices=tuple(notices))


def _known(train: ImageSet, test: ImageSet) -> list[str]:
    """Return a notice if classes of the test split also train; ``how`` says it of validation."""
    shared = len(set(train.classes) & set(test.classes))
    if not shared:
        return []
    also = "also trains" if shared == 1 else "also train"
    return [
        f"{shared} of {plural(len(test.classes), 'test class')} {also}, so the test metrics "
        "describe new images of known classes"
    ]


def _require_usable(images: ImageSet, where: str, part: str) -> None:
    if images.tuples is None:
        require_usable(images, where, part)
    else:
        require_both_kinds(images, where, part)


def _as_given(train: ImageSet, val: ImageSet, source: Source) -> str:
    if train.tuples is not None:
        return "as given"
    shared = len(set(val.classes) & set(train.classes))
    name = source.name_of("val")
    how = f"as given: {len(train.classes)} classes train, {len(val.classes)} in {name}"
    also = f"{shared} of them also in" if shared else "none of them in"
    return f"{how} ({also} {source.name_of('train')})"


@dataclass(frozen=True)
class Unseen:
    """Images to evaluate on.

    Attributes:
        images: The images.
        part: The name of the split that the images are from, or ``all``.
        facts: The facts about each file.
        notices: Notices for the user.
    """

    images: ImageSet
    part: str
    facts: Mapping[Path, Facts]
    notices: tuple[str, ...]


def unseen_images(
    path: str,
    root: Path | None = None,
    config: DataConfig | None = None,
    how: Decoding | None = None,
) -> Unseen:
    """Return the images of ``path`` to evaluate on.

    These are the images of the test split, else of the validation split, else all images.

    Args:
        path: The data: a folder, a table or ``sample``, as for :func:`open_source`.
        root: The folder that a table's paths are relative to; None for the folder of the table.
        config: The section ``data`` of the run. It says how to treat unreadable images, and how
            columns are named. The names are ignored if the table has no such columns. None for the
            defaults: unreadable images raise an error, and columns have siamkit's names.
        how: How to decode the images; None to decode them as the config says.

    Raises:
        DataError: There are no usable images.
    """
    config = config or DataConfig(path=path)
    opened = open_source(path, root, config.columns, names_optional=True)
    checked = usable(opened, config, how)
    left_out = left_out_notice(opened, checked)
    source = checked.source
    parts = source.parts()
    part = next(name for name in ("test", "val", "all", "train") if name in parts)
    name = "all" if part in ("all", "train") else source.name_of(part)
    notices = [*_about(source), *_require_whole(source, strict=False)]
    notices += [*_of_two_samples(path), *left_out]
    notices += repeated_notices(Contents({part: parts[part]}), part, "image")
    return Unseen(parts[part], name, checked.facts, tuple(notices))
