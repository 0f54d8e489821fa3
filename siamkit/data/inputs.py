"""Images as they are handed over: a folder, a file, files, or samples."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from siamkit.data.folders import scan
from siamkit.data.images import Sample
from siamkit.errors import DataError

Paths = str | Path | Sequence[str | Path] | Sequence[Sample]


def samples_of(images: Paths) -> tuple[Sample, ...]:
    """Return images as samples of one class; samples stay as they are.

    Raises:
        DataError: There is no such file or folder.
    """
    if not isinstance(images, str | Path) and all(isinstance(i, Sample) for i in images):
        return tuple(i for i in images if isinstance(i, Sample))
    return tuple(Sample(path, 0, path.name) for path in files_of(images))


def files_of(images: Paths) -> list[Path]:
    """Return the image files of a folder, at any depth, by path; or the files themselves.

    Raises:
        DataError: There is no such file or folder.
    """
    if not isinstance(images, str | Path):
        return [i.path if isinstance(i, Sample) else Path(i) for i in images]
    path = Path(images)
    if not path.is_dir():
        if not path.exists():
            raise DataError("no such file or folder", where=str(path))
        return [path]
    folder = scan(path)
    keys = sorted((*parts, name) for parts, names in folder.folders.items() for name in names)
    return [folder.root.joinpath(*key) for key in keys]
