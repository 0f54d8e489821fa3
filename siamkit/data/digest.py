"""The digest of an image set: identifies the set without reading pixels."""

from __future__ import annotations

import hashlib
from pathlib import Path

from siamkit.data.images import ImageSet


def digest(images: ImageSet | None) -> str:
    """Return a SHA-256 of the images' keys, labels and file sizes, and of known tuples and roles.

    The word ``gone`` stands for the size of a file that cannot be reached. An empty set and None
    have a digest too.
    """
    result = hashlib.sha256()
    for sample in images.samples if images else ():
        line = f"{sample.key}\0{sample.label}\0{_size(sample.path)}\n"
        result.update(line.encode(errors="surrogatepass"))
    if images and images.tuples is not None:
        known = images.tuples
        result.update(repr((known.rows, known.same, known.folds)).encode())
    if images and (images.query, images.gallery) != (None, None):
        result.update(repr((images.query, images.gallery)).encode())
    return result.hexdigest()


def _size(path: Path) -> int | str:
    try:
        return path.stat().st_size
    except OSError:
        return "gone"
