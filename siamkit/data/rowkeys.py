"""Naming what a view of an image is by its content: the file's bytes and all that is done to them.

The name doesn't depend on where the file lies, so the same images in another folder have the same
names, and a changed file, transform or view has another one.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from siamkit.data.loader import ViewDataset
from siamkit.errors import DataError

KEY_BYTES = 16
_THREADS = 8


def digests(paths: Sequence[Path]) -> list[bytes]:
    """Return the SHA-256 of each file's bytes.

    Raises:
        DataError: One cannot be read.
    """
    with ThreadPoolExecutor(_THREADS) as pool:  # hashing lets go of the interpreter's lock
        return list(pool.map(_digest, paths))


def _digest(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").digest()
    except OSError as error:
        raise DataError(f"cannot read the image: {error.strerror}", where=str(path)) from None


class RowKeys:
    """Names views of the images of one data set.

    Args:
        dataset: The data set.
        known: Digests of files by path, to share among data sets; filled with what is missing.
    """

    def __init__(self, dataset: ViewDataset, known: dict[Path, bytes] | None = None) -> None:
        known = {} if known is None else known
        paths = [sample.path for sample in dataset.images.samples]
        new = [path for path in dict.fromkeys(paths) if path not in known]
        known.update(zip(new, digests(new), strict=True))
        self._dataset = dataset
        self._digests = [known[path] for path in paths]
        self._transform = _transform(dataset.identity)

    def __call__(self, index: int, view: int) -> bytes:
        """Return the name, :data:`KEY_BYTES` long, of one view of image ``index``."""
        seed = self._dataset.seed(index, view)
        digest = hashlib.blake2b(self._digests[index], digest_size=KEY_BYTES)
        digest.update(self._transform)
        digest.update(b"" if seed is None else str(seed).encode())
        return digest.digest()

    def of(self, views: Iterable[tuple[int, int]]) -> list[bytes]:
        """Return the name of each (image, view)."""
        return [self(index, view) for index, view in views]


def _transform(identity: Mapping[str, Any]) -> bytes:
    # Another release may decode or resample differently.
    libraries = {name: importlib.metadata.version(name) for name in ("pillow", "torchvision")}
    text = json.dumps({**identity, **libraries}, sort_keys=True)
    return hashlib.sha256(text.encode()).digest()
