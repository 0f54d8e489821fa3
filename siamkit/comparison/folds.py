"""The folds of a comparison: tables of images, one for each round."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from siamkit.comparison.plan import Plan, Round
from siamkit.config import RunConfig
from siamkit.data.digest import digest
from siamkit.data.images import ImageSet, together
from siamkit.data.memory import TABLE, Item, root_of, write_items
from siamkit.data.opening import open_source
from siamkit.data.sources import Source
from siamkit.data.splits import HoldOut, require_queries
from siamkit.data.usability import left_out_notice, usable
from siamkit.errors import DataError
from siamkit.files import is_there
from siamkit.spelling import command

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
            hint=f"train each recipe, and compare the runs with {command('evaluate')}",
        )
    if test := parts.pop("test", None):
        notices.append(
            f"the test split ({test}) takes no part: the final network can be measured on it"
        )
    if "val" in parts:
        notices.append(
            "the validation split is divided into folds like the training split: a comparison "
            "chooses its own validation classes"
        )
    if any(images.query or images.gallery for images in parts.values()):
        notices.append("the roles of images (query, gallery) are not used in a comparison")
    images = together(parts.values())
    return Images(source, images, digest(images), tuple(notices))


@dataclass(frozen=True)
class Folds:
    """The images of each round, divided into ``train``, ``val`` and ``test``.

    Attributes:
        sets: The image sets by name, for each round.
        how: A description of the folds.
        notices: Notices for the user.
    """

    sets: Mapping[Round, Mapping[str, ImageSet]]
    how: str
    notices: tuple[str, ...]

    def digest(self, images: str) -> str:
        """Return the digest of the images, their labels, and their part in each round.

        Args:
            images: The digest of the images.
        """
        result = hashlib.sha256(images.encode())
        for turn, sets in self.sets.items():
            for part, chosen in sets.items():
                for sample in chosen.samples:
                    label = chosen.classes[sample.label]
                    line = f"{turn.name}\0{part}\0{sample.key}\0{label}\n"
                    result.update(line.encode(errors="surrogatepass"))
        return result.hexdigest()


def divide(data: Images, plan: Plan) -> Folds:
    """Divide the images of each round. The result depends only on the images and the plan.

    Raises:
        DataError: There are too few classes or images for the folds.
    """
    notices: list[str] = []
    sets, how = {}, ""
    for turn in plan.rounds:
        choice = HoldOut(seed=turn.seed, folds=plan.folds, fold=turn.fold)
        rest, test, how, more = data.source.hold_out(data.images, choice)
        train, val, _, others = data.source.hold_out(rest, HoldOut(CHOOSING, turn.seed))
        require_queries(test, data.source.where, "the held-out fold")
        notices += [*more, *others]
        sets[turn] = {"train": train, "val": val, "test": test}
    return Folds(sets, how.partition(" (")[0], tuple(dict.fromkeys(notices)))


def write_tables(folds: Folds, folders: Mapping[Round, Path]) -> Path:
    """Write the table of each round's images, unless it is there.

    Args:
        folds: The images of each round.
        folders: The folder of each round's table.

    Returns:
        The folder that the paths in the tables are relative to.
    """
    paths: list[Path] = []
    for turn, sets in folds.sets.items():
        items = [
            Item(sample.path, images.classes[sample.label], part, box=sample.box)
            for part, images in sets.items()
            for sample in images.samples
        ]
        paths = [Path(item.image).absolute() for item in items]
        if not is_there(folders[turn] / TABLE):
            _require_text(items)
            write_items(items, folders[turn])
    return root_of(paths)


def _require_text(items: Sequence[Item]) -> None:
    """Check that a table can hold the names.

    Raises:
        DataError: A file or a class has a name that is not valid Unicode.
    """
    for item in items:
        try:
            f"{item.image}{item.label}".encode()
        except UnicodeEncodeError:
            raise DataError(
                "the name is not valid Unicode, so no table can hold it",
                where=str(item.image),
                hint="rename the file or the folder",
            ) from None
