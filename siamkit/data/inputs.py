"""Inputs: converts a user's images (a folder, files, samples or arrays) to one form."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from siamkit.data.images import Sample
from siamkit.errors import DataError
from siamkit.files import path_of
from siamkit.portable.folders import files_in

Paths = str | Path | Iterable[str | Path] | Sequence[Sample]


def samples_of(images: Paths) -> tuple[Sample, ...]:
    """Return images as samples. Files get label 0; samples are returned unchanged.

    Raises:
        DataError: There is no such file or folder.
    """
    images = listed(images)  # an iterator can be consumed only once
    if isinstance(images, str | Path):
        return tuple(Sample(path, 0, path.name) for path in files_of(images))
    return tuple(
        image if isinstance(image, Sample) else Sample(file, 0, file.name)
        for image, file in zip(images, files_of(images), strict=True)
    )


def files_of(images: Paths) -> list[Path]:
    """Return the image files that a user's images stand for.

    Args:
        images: A folder, for its image files at any depth, sorted by path; or one or several files.

    Raises:
        DataError: There is no such file or folder, or an item is not a path.
    """
    images = listed(images)
    if not isinstance(images, str | Path):
        for number, image in enumerate(images):
            empty = isinstance(image, str) and not image  # Path("") is the current folder
            if empty or not is_file(image):
                raise DataError(
                    "must be a file",
                    where=f"images item {number}",
                    got="" if empty else type(image).__name__,
                    allowed="a folder, a file, or several files",
                )
        return [
            image.path if isinstance(image, Sample) else path_of(image, f"images item {number}")
            for number, image in enumerate(images)
        ]
    return files_in(path_of(images, "images", "a folder or a file"))


def is_file(image: Any) -> bool:
    """Return whether an item is a path or a sample, not an image in memory."""
    return isinstance(image, str | Path | Sample)


def listed(images: Any) -> Any:
    """Return images as a path, a float tensor, or a list of all items.

    Raises:
        DataError: The argument does not hold images.
    """
    if isinstance(images, str | Path):
        if not str(images):
            raise DataError("the path is empty", where="images")
        return images
    if hasattr(images, "is_floating_point") and images.is_floating_point():
        return images
    if isinstance(images, Image.Image) or (_is_array(images) and images.ndim in (2, 3)):
        return [images]
    if not isinstance(images, Iterable):
        raise DataError(
            "is not an image",
            where="images",
            got=type(images).__name__,
            allowed="a path, a Pillow image, an array or a tensor, or several of them",
        )
    return list(images)


def _is_array(images: Any) -> bool:
    # Not by torch's type: files are listed without torch too.
    return isinstance(images, np.ndarray) or hasattr(images, "is_floating_point")
