"""Data given in Python: writes pairs of image and label to a table in the run's folder.

Images in memory are written to that folder in a format that keeps every pixel: PNG, if it can.
Image files stay where they are. So a run on such data can be resumed, evaluated and reported like
any other run.
"""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from siamkit.data.manifest import OPTIONAL, REQUIRED
from siamkit.data.opening import open_source
from siamkit.data.overlap import Content
from siamkit.data.sources import ManifestSource, TupleSource
from siamkit.errors import DataError, SiamkitError
from siamkit.files import path_of, write_atomic, writing
from siamkit.portable.csv_rows import RowWriter
from siamkit.portable.geometry import Box, Boxed
from siamkit.portable.pictures import own_copy, storable
from siamkit.words import readable

SPLITS = ("train", "val", "test")
TABLE = "images.csv"
_COLUMNS = (*REQUIRED, *OPTIONAL)
_ENDINGS = {"PNG": ".png", "PPM": ".pgm", "TIFF": ".tif"}


@dataclass(frozen=True)
class Item:
    """One labelled image.

    Attributes:
        image: A path, a Pillow image, or an array.
        label: The image's class.
        split: ``train``, ``val`` or ``test``; None to let siamkit split the data.
        group: The group whose images must stay in one split; None if there is none.
        query: Whether the image is a query; None if not given.
        gallery: Whether the image is in the gallery; None if not given.
        box: The part of the file that is the image; None for the whole file.
    """

    image: Any
    label: str
    split: str | None = None
    group: str | None = None
    query: bool | None = None
    gallery: bool | None = None
    box: Box | None = None

    @property
    def in_file(self) -> bool:
        """Whether the image is given as a path."""
        return isinstance(self.image, str | os.PathLike)


def items_of(data: Any, notices: list[str], *, training: bool = True) -> list[Item]:
    """Return the items of data that is given in Python.

    Args:
        data: Pairs of image and label, as a sequence, an iterator or a torch ``Dataset``. Or a
            mapping with keys of ``train``, ``val`` and ``test``, whose values are such pairs,
            folders of class folders, or tables of images.
        notices: A list to which notices for the user are added.
        training: Whether a mapping must have the key ``train``.

    Raises:
        DataError: There are no items, an item cannot be read, or an item is not a pair of image and
            label; the message names the item. Or a mapping has other keys, or the folder or table
            of a split holds pairs, triplets or splits of its own.
    """
    if not isinstance(data, Mapping):
        return _items(data, None)
    unknown = [key for key in data if key not in SPLITS]
    if unknown or not data or (training and "train" not in data):
        raise DataError(
            "a mapping of data must have splits as keys",
            where="data",
            got=", ".join(map(str, data)) or "nothing",
            allowed=", ".join(SPLITS) + ("; 'train' must be among them" if training else ""),
            hint="its values are pairs (image, label), a folder of class folders, or a table",
        )
    return [
        item
        for split, part in data.items()
        for item in (
            _listed(part, split, notices)
            if isinstance(part, str | os.PathLike)
            else _items(part, split)
        )
    ]


def _listed(path: Any, split: str, notices: list[str]) -> list[Item]:
    """Return the images of a folder or a table. All of them belong to ``split``."""
    where = f"data[{split!r}]"
    source = open_source(str(path_of(path, where)))
    parts = source.parts()
    if isinstance(source, TupleSource) or set(parts) != {"all"}:
        tuples = isinstance(source, TupleSource)
        raise DataError(
            f"holds {source.kind}" if tuples else f"has splits of its own: {', '.join(parts)}",
            where=where,
            got=source.where,
            allowed="labelled images of one split",
            hint=f"pass this data alone: data={source.where!r}",
        )
    notices += [f"{where}: {notice}" for notice in source.notices]
    if isinstance(source, ManifestSource):
        return [
            Item(source.root / r.path, r.label, split, r.group, r.query, r.gallery, r.box)
            for r in source.records
        ]
    images = parts["all"]
    notices += _merged(images.classes, where)
    return [Item(sample.path, images.classes[sample.label], split) for sample in images.samples]


def _merged(classes: Sequence[str], where: str) -> list[str]:
    """Return a notice for each group of class folders that become one class.

    The table of a run on such data cannot hold spaces around a name.
    """
    together: dict[str, list[str]] = {}
    for name in classes:
        together.setdefault(name.strip(), []).append(name)
    return [
        f"{where}: the class folders {' and '.join(map(repr, names))} count as one class, because "
        "their names differ only in surrounding spaces; rename them if they are several classes"
        for names in together.values()
        if len(names) > 1
    ]


def _items(data: Any, split: str | None) -> list[Item]:
    where = "data" if split is None else f"data[{split!r}]"
    names = getattr(data, "classes", None)  # torchvision's data sets name their classes
    items: list[Item] = []
    for number, pair in enumerate(_walk(data, where)):
        place = f"{where} item {number}"
        if not isinstance(pair, tuple | list) or len(pair) != 2:
            raise DataError(
                "each item must be a pair of image and label", where=place, got=type(pair).__name__
            )
        image, label = pair
        # A data set can fill one array anew for each item, as an iterator can.
        if not isinstance(data, list | tuple):
            image = own_copy(image, place)
        items.append(Item(image, _label(label, names, place), split))
    if not items:
        raise DataError("there are no images", where=where)
    return items


def _walk(data: Any, where: str) -> Iterator[Any]:
    """Yield the items of data.

    Raises:
        DataError: The data has no order, or its own code failed. The message names the item.
    """
    if isinstance(data, set | frozenset):
        raise DataError(
            "has no order, so two runs would split its images in different ways",
            where=where, got=type(data).__name__, hint="pass a list",
        )  # fmt: skip
    indexed = _is_indexed(data)
    usable = (indexed or isinstance(data, Iterable)) and not isinstance(data, str | bytes | type)
    if not usable:
        kind = data.__name__ if isinstance(data, type) else type(data).__name__
        raise DataError(
            "cannot be used as data",
            where=where,
            got=f"the class {kind}" if isinstance(data, type) else kind,
            allowed="a folder or a table, pairs of image and label, or a torch Dataset",
            hint=f"pass an instance: {kind}(...)" if isinstance(data, type) else None,
        )
    number = 0
    try:
        # Not iter(): a torch Dataset may not raise IndexError at its end.
        for item in (data[index] for index in range(len(data))) if indexed else data:
            yield item
            number += 1
    except SiamkitError:
        raise
    except Exception as error:  # the data's own code
        raise DataError(
            f"reading failed: {type(error).__name__}: {error}", where=f"{where} item {number}"
        ) from error


def _is_indexed(data: Any) -> bool:
    """Return whether each item of data can be read again, as of a list or a torch ``Dataset``."""
    return hasattr(data, "__len__") and hasattr(data, "__getitem__")


def _label(label: Any, names: Any, where: str) -> str:
    value = _scalar(label)
    text = label_text(value)
    if text is None:
        known = isinstance(value, str | float | None)
        raise DataError(
            "a label must be a name or a number",
            where=where,
            got=value if known else type(value).__name__,
        )
    if isinstance(value, int) and not isinstance(value, bool) and isinstance(names, list | tuple):
        if not 0 <= value < len(names):
            raise DataError(
                "the data's attribute 'classes' has no name for this label",
                where=where,
                got=value,
                allowed=f"0 to {len(names) - 1}",
            )
        return str(names[value])
    return text


def label_text(label: Any) -> str | None:
    """Return a label as text without surrounding spaces; None for labels that cannot be used.

    A label must be a number or text. NaN and empty text cannot be used.

    Equal numbers give the same text: 1 and 1.0 are one class.
    """
    value = _scalar(label)
    if not isinstance(value, str | int | float) or value != value:
        return None
    whole = isinstance(value, float) and value.is_integer()
    return str(int(value) if whole else value).strip() or None


def _scalar(label: Any) -> Any:
    """Return a number of numpy or torch as a number of Python; return other labels unchanged."""
    return label.item() if hasattr(label, "item") and getattr(label, "ndim", 0) == 0 else label


def write_items(items: list[Item], folder: Path) -> tuple[Path, Path]:
    """Write a table of items, and write images that are in memory to files.

    Args:
        items: The items, at least one.
        folder: An empty folder, or one that does not exist.

    Returns:
        The path of the table, and the folder that the paths in the table are relative to.

    Raises:
        DataError: An item is not an image, a file is missing, or a file is given twice.
        ResourceError: The disk is full.
    """
    files = [_file(item.image) if item.in_file else None for item in items]
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        paths = [
            _write(item, number, folder) if file is None else file
            for number, (item, file) in enumerate(zip(items, files, strict=True))
        ]
    _require_once(items, paths)
    _require_unicode(items, paths)
    root = root_of(paths)
    rows = [_row(item, path.relative_to(root)) for item, path in zip(items, paths, strict=True)]
    if any(row["group"] for row in rows):  # a table gives a group to every row or to none
        rows = [row | {"group": row["group"] or row["path"]} for row in rows]
    text = io.StringIO()
    columns = [column for column in _COLUMNS if any(row[column] for row in rows)]
    writer = RowWriter(text)
    writer.writerow(columns)
    writer.writerows([row[column] for column in columns] for row in rows)
    table = folder / TABLE
    write_atomic(table, text.getvalue())
    return table, root


def root_of(paths: Iterable[Path]) -> Path:
    """Return the folder that the paths in a table are relative to: the innermost around all."""
    return Path(os.path.commonpath([path.parent for path in paths]))


def _row(item: Item, path: Path) -> dict[str, str]:
    flags = ("" if flag is None else str(int(flag)) for flag in (item.query, item.gallery))
    # Cells have no spaces around them, and "x:" starts a drive.
    name = path.as_posix()
    place = f"./{name}" if name[0].isspace() or name[1:2] == ":" else name
    cells = (place, item.label, item.split or "", item.group or "", *flags)
    box = ("",) * 4 if item.box is None else map(repr, item.box)
    return dict(zip(_COLUMNS, (*cells, *box), strict=True))


def _require_unicode(items: Sequence[Item], paths: Sequence[Path]) -> None:
    for item, path in zip(items, paths, strict=True):
        for text, what in ((str(path), "the path"), (item.label, "the label")):
            if readable(text) != text:
                raise DataError(
                    f"{what} is not valid Unicode, as the table of a run on such data needs it",
                    where=readable(str(path)),
                    hint="rename the file or folder, or pass the folder of class folders alone",
                )


def _require_once(items: Sequence[Item], paths: Sequence[Path]) -> None:
    seen: dict[Boxed, int] = {}
    for number, (item, path) in enumerate(zip(items, paths, strict=True)):
        first = seen.setdefault((path, item.box), number)
        if first != number:
            splits = [items[first].split or "data", item.split or "data"]
            raise DataError(
                "this file is given twice",
                where=str(path),
                got=" and ".join(splits),
                hint="give each image once, in one split; otherwise the network is measured on "
                "images that it trained on",
            )


def _file(path: Any) -> Path:
    absolute = Path(os.path.abspath(path))  # noqa: PTH100 - keeps links as they are
    try:
        problem = None if absolute.is_file() else "no such file"
    except OSError as error:
        problem = f"cannot read the image: {error.strerror}"
    if problem is not None:
        raise DataError(problem, where=str(path))
    return absolute


def _write(item: Item, number: int, folder: Path) -> Path:
    picture, form = storable(item.image, f"data item {number}")
    path = folder / f"{number:07d}{_ENDINGS[form]}"
    _save(picture, form, path)
    return path


def _save(picture: Image.Image, form: str, target: Path | io.BytesIO) -> None:
    options: Mapping[str, Any] = {"optimize": False, "compress_level": 1} if form == "PNG" else {}
    picture.save(target, form, **options)


def content_of(image: Any, number: int) -> Content:
    """Return the content of the file that :func:`write_items` would write for an image in memory.

    Args:
        image: The image.
        number: The image's number in the data, for error messages.

    Raises:
        DataError: ``image`` is not an image.
    """
    target = io.BytesIO()
    _save(*storable(image, f"data item {number}"), target)
    return Content(target.tell(), hashlib.sha256(target.getbuffer()).digest())
