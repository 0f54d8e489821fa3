"""Inputs: recognises what a user passes as images, for networks with torch and without.

Tensors of torch are recognised without an import of torch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from PIL import Image

from ..errors import DataError
from ..files import path_of
from ..spelling import argument
from .arrays import array_of, is_tensor
from .cosine import require_finite
from .folders import files_in
from .pictures import own_copy

T = TypeVar("T")


def listed(images: Any) -> Any:
    """Return images as a path, a tensor of prepared images, or a list of all items.

    A Pillow image, and an array or a tensor of two or three dimensions, is one item; of other
    arrays and tensors, the items are along the first dimension. An iterator is read to its end, and
    images in memory that it hands out are copied (:func:`.own_copy`).

    Raises:
        DataError: The argument does not hold images, a path is empty, or an image cannot be read.
        ConfigError: The system cannot have such a path.
    """
    if isinstance(images, str | Path):
        if not str(images):
            raise DataError("the path is empty", where="images")
        return images
    if is_prepared(images):
        return images
    if isinstance(images, Image.Image) or (_is_array(images) and images.ndim in (2, 3)):
        return [images]
    if (_is_array(images) and not images.ndim) or not isinstance(images, Iterable):
        raise DataError(
            "is not an image",
            where="images",
            got=type(images).__name__,
            allowed="a path, a Pillow image, an array or a tensor, or several of them",
        )
    if isinstance(images, set | frozenset | Mapping):  # nobody could tell whose embedding is which
        raise DataError(
            "must be in an order that the result can have",
            where="images",
            got=type(images).__name__,
            allowed="a list or another sequence, or an iterator",
        )
    whole = isinstance(images, list | tuple) or _is_array(images)  # all items are there at once
    return [
        _checked(item, number)
        if isinstance(item, str | Path)
        else item
        if whole
        else own_copy(item, f"image {number}")
        for number, item in enumerate(images)
    ]


def images_of(images: Any, width: int) -> Any:
    """Return images as :func:`items_of` does, but refuse embeddings, which are no grey image.

    Args:
        images: The images.
        width: The width E of the network's embeddings.

    Raises:
        DataError: The argument is a float array ``[N, E]``, or as for :func:`items_of`.
    """
    if isinstance(images, np.ndarray) and _is_float(images) and images.shape[1:] == (width,):
        raise DataError(
            "this float array could hold embeddings: it is as wide as those of the network",
            where="images",
            got=f"shape {list(images.shape)}",
            allowed="a path, a Pillow image, an array of bytes, or several of them",
            hint="the method search of an index takes embeddings; give a grey image as bytes",
        )
    return items_of(images)


def items_of(images: Any) -> Any:
    """Return images as :func:`listed` does, but the files of a folder instead of its path.

    Raises:
        DataError: There is no such file or folder, or the argument does not hold images.
    """
    given = listed(images)
    return files_of(given) if isinstance(given, str | Path) else given


def side_of(images: Any, width: int, name: str) -> Any:
    """Return one side of a comparison: embeddings as an array, or images as :func:`items_of` does.

    Args:
        images: Images, or embeddings: a float array or a float tensor ``[N, E]``.
        width: The width E of the network's embeddings.
        name: The name of the side, for errors.

    Raises:
        DataError: The embeddings have another width, or as for :func:`items_of`.
        NonFiniteError: An embedding is NaN or infinite.
    """
    if not (_is_array(images) and images.ndim == 2 and _is_float(images)):
        return items_of(images)
    if images.shape[1] != width:
        raise DataError(
            "the embeddings have another width than those of the network",
            got=images.shape[1],
            allowed=str(width),
        )
    values = array_of(images)
    require_finite(values, [f"{name} item {number}" for number in range(len(values))])
    return values


def sides_of(a: Any, b: Any, width: int) -> tuple[Any, Any]:
    """Return both sides of a comparison, which are one object if ``a`` and ``b`` are.

    So an iterator is read once. See :func:`side_of` for arguments and errors.
    """
    one = side_of(a, width, "a")
    return one, one if b is a else side_of(b, width, "b")


def of_both(function: Callable[[Any], T], sides: tuple[Any, Any]) -> tuple[T, T]:
    """Return a function's results for both sides; it is called once if they are one object."""
    one, other = sides
    result = function(one)
    return result, result if other is one else function(other)


def require_one_each(one: Any, other: Any) -> None:
    """Check that both sides of a comparison are one image, or the embedding of one.

    Raises:
        DataError: They are not.
    """
    if len(one) != 1 or len(other) != 1:
        raise DataError(
            "verify compares one image with one other image",
            got=f"{len(one)} and {len(other)}",
            hint=f"{argument('similarity', flag='--pairs')} compares several images",
        )


def is_prepared(images: Any) -> bool:
    """Return whether images are a float tensor, which holds prepared images."""
    return is_tensor(images) and bool(images.ndim) and bool(images.is_floating_point())


def require_prepared(images: Any, shape: Sequence[int]) -> None:
    """Check that prepared images are ``[N, C, H, W]``, with the shape that a network takes.

    Args:
        images: The tensor.
        shape: C, H and W.

    Raises:
        DataError: The tensor has another shape.
    """
    if images.ndim != 4 or tuple(images.shape[1:]) != tuple(shape):
        raise DataError(
            "the tensor of images has another shape than the network expects",
            got=str(tuple(images.shape)),
            allowed="(N, {}, {}, {})".format(*shape),
            hint="pass files or Pillow images, which are resized",
        )


def files_of(images: Any) -> list[Path]:
    """Return the image files that a user's images stand for.

    Args:
        images: A folder, for its image files at any depth, sorted by path; or one or several files.

    Raises:
        DataError: There is no such file or folder, or an item is not a path.
    """
    images = listed(images)
    if isinstance(images, str | Path):
        return files_in(path_of(images, "images", "a folder or a file"))
    for number, image in enumerate(images):
        if not isinstance(image, Path):
            raise _not_a_file(number, type(image).__name__)
    return list(images)


def some_files_of(images: Any) -> list[Path]:
    """Return the absolute paths of :func:`files_of`, of which there must be one or more.

    Raises:
        DataError: As for :func:`files_of`, or there are no files.
    """
    paths = [path.absolute() for path in files_of(images)]
    if not paths:
        raise DataError(
            "are none", where="images", got=0, allowed="a folder, a file, or several files",
            hint="if a pattern chose them, no file matched it",
        )  # fmt: skip
    return paths


def _checked(path: str | Path, number: int) -> Path:
    if isinstance(path, str) and not path:  # Path("") is the current folder
        raise _not_a_file(number, "")
    return path_of(path, f"images item {number}")


def _not_a_file(number: int, got: str) -> DataError:
    return DataError(
        "must be a file",
        where=f"images item {number}",
        got=got,
        allowed="a folder, a file, or several files",
    )


def _is_array(images: Any) -> bool:
    return isinstance(images, np.ndarray) or is_tensor(images)


def _is_float(images: Any) -> bool:
    if is_tensor(images):
        return bool(images.is_floating_point())
    return bool(np.issubdtype(images.dtype, np.floating))
