"""The digest of an image set: identifies its images by name, label and content."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from siamkit.data.images import ImageSet
from siamkit.files import open_regular
from siamkit.portable.threads import in_threads

_WHOLE = 1 << 20  # bytes of a file that is read whole
_BLOCK = 16 << 10
_STEPS = 64  # a larger file has a block at each end, and the blocks begin 1/64 of it apart


def digest(images: ImageSet | None) -> str:
    """Return the SHA-256 of all images' keys, labels and contents, and of their known tuples.

    Files of up to 1 MiB are read whole. Of a larger file, the size and 65 blocks of 16 KiB count,
    spread evenly from its start to its end. So the digest notices every change of a small file, and
    in a large file every changed stretch of 1/64 of its bytes, but not every edit of a few bytes. A
    file out of reach counts as one without content. An empty set and None have a digest too.
    """
    result = hashlib.sha256()
    samples = images.samples if images else ()
    paths = dict.fromkeys(sample.path for sample in samples)  # several boxes may share a file
    contents = dict(zip(paths, in_threads(_content, paths), strict=True))
    for sample in samples:
        line = f"{sample.key}\0{sample.label}\0{contents[sample.path]}\n"
        result.update(line.encode(errors="surrogatepass"))
    if images and images.tuples is not None:
        known = images.tuples
        result.update(repr((known.rows, known.same, known.folds)).encode())
    if images and (images.query, images.gallery) != (None, None):
        result.update(repr((images.query, images.gallery)).encode())
    return result.hexdigest()


def _content(path: Path) -> str:
    try:
        with open_regular(path) as file:
            size = os.fstat(file.fileno()).st_size
            content = hashlib.sha256(f"{size}\n".encode())
            if size <= _WHOLE:
                content.update(file.read())
            else:
                for number in range(_STEPS + 1):
                    file.seek(number * (size - _BLOCK) // _STEPS)
                    content.update(file.read(_BLOCK))
    except OSError:
        return "gone"
    return content.hexdigest()
