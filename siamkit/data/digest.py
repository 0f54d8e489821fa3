"""The digest of a set of images: tells one set from another without reading pixels."""

from __future__ import annotations

import hashlib

from siamkit.data.images import ImageSet


def digest(images: ImageSet | None) -> str:
    """Return the SHA-256 of each image's key, label and file size, in order, and known tuples.

    A file that is gone counts as one without a size; no images have a digest too.
    """
    result = hashlib.sha256()
    for sample in images.samples if images else ():
        size = sample.path.stat().st_size if sample.path.exists() else "gone"
        line = f"{sample.key}\0{sample.label}\0{size}\n"
        result.update(line.encode(errors="surrogatepass"))
    if images and images.tuples is not None:
        known = images.tuples
        result.update(repr((known.rows, known.same, known.folds)).encode())
    if images and (images.query, images.gallery) != (None, None):
        result.update(repr((images.query, images.gallery)).encode())
    return result.hexdigest()
