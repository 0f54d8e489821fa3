"""The folds of a comparison: tables of images, one for each round."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from siamkit.comparison.plan import Plan, Round
from siamkit.config import RunConfig
from siamkit.data.digest import digest
from siamkit.data.images import ImageSet, together
from siamkit.data.memory import TABLE, Item, root_of, write_items
from siamkit.data.opening import left_out_notice, open_source, usable
from siamkit.data.sources import Source
from siamkit.data.splits import HoldOut, require_queries
from siamkit.errors import DataError
from siamkit.files import is_there

CHOOSING = 0.25
"""The share of the classes outside the held-out fold that choose the best epoch."""


@dataclass(frozen=True)
class Images:
    """The images of a comparison.

    Attributes:
        source: The data, without unusable images.
        images: The images to divide into folds.
        digest: The digest of the images.
        notices: Notices for the user.
    """

    source: Source
    images: ImageSet
    digest: str
    notices: tuple[str, ...]


def open_images(config: RunConfig) -> Images:
    """Open the data of a comparison. A test split of its own is left out.

    Raises:
        DataError: The data has no labels, or cannot be used.
    """
    opened = open_source(config.data.path, config.data.root, config.data.columns)
    checked = usable(opened, config.data)
    notices = [*opened.notices, *left_out_notice(opened, checked)]
    source = checked.source
    parts = source.parts()
    known = [images for images in parts.values() if images.tuples is not None]
    if known:
        raise DataError(
            f"a comparison needs images with labels, and this data holds {source.kind}",
            where=source.where,
            hint="train each recipe, and compare the runs with 'siamkit evaluate'",
        )
    if test := parts.pop("test", None):
        notices.append(
            f"the test split ({test}) takes no part: the final network can be measured on it"
        )
    images = together(parts.values())
    return Images(source, images, digest(images), tuple(notices))


def write_tables(
    data: Images, plan: Plan, folders: Mapping[Round, Path]
) -> tuple[Path, str, list[str]]:
    """Write the table of each round's images, unless it is there.

    Args:
        data: The images.
        plan: The plan.
        folders: The folder of each round's table.

    Returns:
        The folder that the paths in the tables are relative to, a description of the folds, and
        notices for the user.

    Raises:
        DataError: There are too few classes or images for the folds.
    """
    notices: list[str] = []
    how = ""
    for turn in plan.rounds:
        choice = HoldOut(seed=turn.seed, folds=plan.folds, fold=turn.fold)
        rest, test, how, more = data.source.hold_out(data.images, choice)
        train, val, _, others = data.source.hold_out(rest, HoldOut(CHOOSING, turn.seed))
        require_queries(test, data.source.where, "the held-out fold")
        notices += [*more, *others]
        if not is_there(folders[turn] / TABLE):
            items = [
                Item(s.path, images.classes[s.label], part, box=s.box)
                for part, images in (("train", train), ("val", val), ("test", test))
                for s in images.samples
            ]
            write_items(items, folders[turn])
    root = root_of(sample.path.absolute() for sample in data.images.samples)
    return root, how, list(dict.fromkeys(notices))
