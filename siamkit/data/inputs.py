"""Inputs: converts a user's files to samples; see :mod:`siamkit.portable.inputs`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from siamkit.data.images import Sample
from siamkit.portable.inputs import files_of, listed

Paths = str | Path | Iterable[str | Path] | Sequence[Sample]


def samples_of(images: Paths) -> tuple[Sample, ...]:
    """Return images as samples. Files get label 0; samples are returned unchanged.

    Raises:
        DataError: There is no such file or folder.
    """
    images = listed(images)  # an iterator can be consumed only once
    if isinstance(images, str | Path):
        return tuple(Sample(path, 0, path.name) for path in files_of(images))
    files = files_of([item.path if isinstance(item, Sample) else item for item in images])
    return tuple(
        item if isinstance(item, Sample) else Sample(file, 0, file.name)
        for item, file in zip(images, files, strict=True)
    )


def is_file(image: Any) -> bool:
    """Return whether an item is a path or a sample, not an image in memory."""
    return isinstance(image, str | Path | Sample)
