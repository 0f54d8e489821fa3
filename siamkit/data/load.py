"""The data of a run: opened, checked, and split into image sets."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from siamkit.config import SAMPLE, DataConfig
from siamkit.data.alike_names import alike_notices
from siamkit.data.images import ImageSet
from siamkit.data.leaks import Contents, repeated_notices, require_apart
from siamkit.data.opening import open_source
from siamkit.data.sources import Source
from siamkit.data.splits import HoldOut, Splits, lone_notice, require_queries, require_usable
from siamkit.data.tuple_splits import require_both_kinds
from siamkit.data.usability import left_out_notice, usable
from siamkit.errors import DataError
from siamkit.portable.decode import Decoding
from siamkit.portable.folders import briefly
from siamkit.portable.looking import Facts
from siamkit.portable.tables import missing_notices
from siamkit.words import plural


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
