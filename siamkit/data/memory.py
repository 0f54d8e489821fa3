"""Images in memory: written to a run's folder, with a table of their labels.

So a run on images in memory can be resumed, evaluated and reported like any other. PNG keeps every
pixel. If all images are files, they stay where they are.
"""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from siamkit.data.decode import FORMATS, prepare
from siamkit.errors import ConfigError, DataError
from siamkit.files import full_disk_is_ours, write_atomic

SPLITS = ("train", "val", "test")
TABLE = "images.csv"
_LOSSLESS = ("1", "L", "LA", "P", "RGB", "RGBA", "I;16")  # modes that PNG stores unchanged
_SUFFIXES = {"JPEG": ".jpg", "TIFF": ".tif"}


@dataclass(frozen=True)
class Item:
    """One labelled image.

    Attributes:
        image: A path, a Pillow image, or an array.
        label: Its class.
        split: ``train``, ``val`` or ``test``; None to let siamkit split the data.
    """

    image: Any
    label: str
    split: str | None = None


def items_of(data: Any) -> list[Item]:
    """Return the items of data in memory.

    Args:
        data: Pairs of image and label, as a sequence, an iterator or a torch ``Dataset``; or a
            mapping from ``train``, ``val`` and ``test`` to such pairs.

    Raises:
        DataError: An item is not a pair of image and label; the message names it.
    """
    if isinstance(data, Mapping):
        unknown = [key for key in data if key not in SPLITS]
        if unknown or "train" not in data:
            raise DataError(
                "a mapping of data must have splits as keys, and pairs (image, label) as values",
                where="data",
                got=", ".join(map(str, data)),
                allowed=", ".join(SPLITS) + "; 'train' must be among them",
            )
        return [item for split, part in data.items() for item in _items(part, split)]
    return list(_items(data, None))


def _items(data: Any, split: str | None) -> Iterator[Item]:
    where = "data" if split is None else f"data[{split!r}]"
    names = getattr(data, "classes", None)  # torchvision's data sets name their classes
    for number, pair in enumerate(_walk(data, where)):
        place = f"{where} item {number}"
        if not isinstance(pair, tuple | list) or len(pair) != 2:
            raise DataError(
                "each item must be a pair of image and label", where=place, got=type(pair).__name__
            )
        image, label = pair
        yield Item(image, _label(label, names, place), split)


def _walk(data: Any, where: str) -> Iterator[Any]:
    if isinstance(data, str | bytes):
        usable = False
    elif hasattr(data, "__len__") and hasattr(data, "__getitem__"):
        # Not iter(): a torch Dataset may not raise IndexError at its end.
        yield from (data[index] for index in range(len(data)))
        usable = True
    else:
        usable = isinstance(data, Iterable)
        yield from data if usable else ()
    if not usable:
        raise DataError(
            "cannot be used as data",
            where=where,
            got=type(data).__name__,
            allowed="a folder or a table, pairs of image and label, or a torch Dataset",
        )


def _label(label: Any, names: Any, where: str) -> str:
    value = label.item() if hasattr(label, "item") and getattr(label, "ndim", 0) == 0 else label
    if isinstance(value, int) and not isinstance(value, bool) and names is not None:
        value = names[value]
    text = str(value)
    missing = value is None or (isinstance(value, float) and value != value) or not text.strip()
    if missing or not isinstance(value, str | int | float):
        raise DataError(
            "a label must be a name or a number",
            where=where,
            got=value if missing else type(value).__name__,
        )
    return text


def write_items(items: list[Item], folder: Path) -> tuple[Path, Path]:
    """Write the table of some items, and their images unless all of them are files.

    Args:
        items: The items.
        folder: An empty folder, or one that does not exist.

    Returns:
        The table, and the folder that its paths are relative to.

    Raises:
        DataError: There are no items, or an item is not an image.
        ResourceError: The disk is full.
    """
    if not items:
        raise DataError("there are no images", where="data")
    paths = [Path(item.image) for item in items if isinstance(item.image, str | os.PathLike)]
    all_files = len(paths) == len(items)
    with full_disk_is_ours(folder):
        folder.mkdir(parents=True, exist_ok=True)
        root = _common(paths) if all_files else folder
        names = [
            _relative(Path(item.image), root) if all_files else _write(item, number, folder)
            for number, item in enumerate(items)
        ]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    split = any(item.split is not None for item in items)
    writer.writerow(("path", "label", *(["split"] if split else [])))
    for name, item in zip(names, items, strict=True):
        writer.writerow((name, item.label, *([item.split] if split else [])))
    table = folder / TABLE
    write_atomic(table, text.getvalue())
    return table, root


def _common(paths: list[Path]) -> Path:
    absolute = [os.path.abspath(path) for path in paths]  # noqa: PTH100 - keeps links as they are
    for path, given in zip(absolute, paths, strict=True):
        if not os.path.isfile(path):  # noqa: PTH113
            raise DataError("no such file", where=str(given))
    return Path(os.path.commonpath([os.path.dirname(path) for path in absolute]))  # noqa: PTH120


def _relative(path: Path, root: Path) -> str:
    return Path(os.path.abspath(path)).relative_to(root).as_posix()  # noqa: PTH100


def _write(item: Item, number: int, folder: Path) -> str:
    where = f"data item {number}"
    if isinstance(item.image, str | os.PathLike):
        return _copy(Path(item.image), number, folder)
    image = picture_of(item.image, where)
    name = f"{number:07d}.png"
    image.save(folder / name, optimize=False, compress_level=1)
    return name


def _copy(path: Path, number: int, folder: Path) -> str:
    """Copy the bytes of a file that comes together with images in memory."""
    try:
        content = path.read_bytes()
        with Image.open(io.BytesIO(content)) as image:
            kind = str(image.format)
    except OSError as error:
        reason = error.strerror or "is not an image"
        raise DataError(f"cannot read the image: {reason}", where=str(path)) from None
    if kind not in FORMATS:
        raise DataError("unknown image format", where=str(path), got=kind)
    name = f"{number:07d}{_SUFFIXES.get(kind, '.' + kind.lower())}"
    (folder / name).write_bytes(content)
    return name


def picture_of(image: Any, where: str) -> Image.Image:
    """Return a Pillow image or an array as a Pillow image that PNG stores without loss.

    Args:
        image: A Pillow image; a numpy array ``[H, W]`` or ``[H, W, C]``; a torch tensor ``[H, W]``
            or ``[C, H, W]``. Arrays hold uint8, or floats in [0, 1].
        where: Its name in messages.

    Raises:
        DataError: The argument is none of these.
    """
    if isinstance(image, Image.Image):
        upright = ImageOps.exif_transpose(image)
        return upright if upright.mode in _LOSSLESS else prepare(upright, 3, where=where)
    if hasattr(image, "detach"):  # a torch tensor, without importing torch
        array = image.detach().cpu().numpy()
        array = np.moveaxis(array, 0, -1) if array.ndim == 3 else array
        layout = "[H, W] or [C, H, W] for a torch tensor"
    elif isinstance(image, np.ndarray):
        array, layout = image, "[H, W] or [H, W, C] for a numpy array"
    else:
        raise DataError(
            "is not an image",
            where=where,
            got=type(image).__name__,
            allowed="a path, a Pillow image, a numpy array or a torch tensor",
        )
    array = array[..., 0] if array.ndim == 3 and array.shape[-1] == 1 else array
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[-1] not in (2, 3, 4)):
        raise DataError(
            "the array is not an image",
            where=where,
            got=f"shape {list(image.shape)}",
            allowed=f"{layout}, with 1 to 4 channels",
        )
    return Image.fromarray(_bytes(array, where))


def _bytes(array: np.ndarray[Any, Any], where: str) -> np.ndarray[Any, Any]:
    if array.dtype == bool:
        return array.astype(np.uint8) * 255
    if array.dtype == np.uint8 or (array.dtype == np.uint16 and array.ndim == 2):
        return np.ascontiguousarray(array)
    if np.issubdtype(array.dtype, np.floating):
        low, high = (float(array.min()), float(array.max())) if array.size else (0.0, 0.0)
        if not (low >= 0 and high <= 1):  # NaN is refused as well
            raise DataError(
                "floating-point pixels must be between 0 and 1",
                where=where,
                got=f"{low:g} to {high:g}",
                hint="pass images before normalisation: siamkit normalises them for the backbone",
            )
        return np.ascontiguousarray(np.rint(array * 255).astype(np.uint8))
    raise DataError(
        "unsupported type of pixels",
        where=where,
        got=str(array.dtype),
        allowed="uint8, uint16 for grey images, or floats in [0, 1]",
    )


def require_path(data: Any) -> str:
    """Return a path as text.

    Raises:
        ConfigError: The path is empty, for example from an unset variable.
    """
    text = os.fspath(data)
    if not text:
        raise ConfigError("must be a path", where="data", got=text)
    return str(text)
