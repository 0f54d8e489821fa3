"""Row keys: identify views (prepared or augmented images) in the feature cache.

A key is a hash of the file's bytes, the box, the transform and the seed. It does not depend on the
folder of the data. So the same data in another folder has the same
keys, and a changed file, box, transform or seed gives another key.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from siamkit.errors import DataError
from siamkit.keys import KEY_BYTES
from siamkit.portable.threads import in_threads

if TYPE_CHECKING:
    from siamkit.data.loader import ViewDataset


@dataclass(frozen=True)
class FileDigest:
    """The digest of a file's content, and facts that show later whether the file has changed.

    Attributes:
        sha256: The SHA-256 of the file's bytes.
        size: The file's size in bytes.
        mtime_ns: The time of the file's last change, in nanoseconds since 1970.
    """

    sha256: bytes
    size: int
    mtime_ns: int


def digests(paths: Sequence[Path], check: Callable[[], None] = lambda: None) -> list[FileDigest]:
    """Return the digest of each file.

    Args:
        paths: The files.
        check: Called after each file; may raise to stop.

    Raises:
        DataError: A file cannot be read.
    """
    result: list[FileDigest] = []
    for digest in each_digest(paths):
        result.append(digest)
        check()
    return result


def each_digest(paths: Sequence[Path]) -> Iterator[FileDigest]:
    """Yield the digest of each file, in order.

    Raises:
        DataError: A file cannot be read.
    """
    return in_threads(_digest, paths)  # hashing releases the interpreter's lock


def _digest(path: Path) -> FileDigest:
    try:
        with path.open("rb") as file:
            written = os.fstat(file.fileno())
            sha256 = hashlib.file_digest(file, "sha256").digest()
    except OSError as error:
        raise DataError(f"cannot read the image: {error.strerror}", where=str(path)) from None
    return FileDigest(sha256, written.st_size, written.st_mtime_ns)


class RowKeys:
    """Computes the keys of the views of one data set; see the module.

    Args:
        dataset: The views.
        known: The digests of files by path. Digests that are missing are computed and added, so
            that several data sets can share one mapping. None to compute all digests.
        check: Called after each file that is read; may raise to stop.
    """

    def __init__(
        self,
        dataset: ViewDataset,
        known: dict[Path, FileDigest] | None = None,
        check: Callable[[], None] = lambda: None,
    ) -> None:
        known = {} if known is None else known
        self._paths = [sample.path for sample in dataset.images.samples]
        new = [path for path in dict.fromkeys(self._paths) if path not in known]
        known.update(zip(new, digests(new, check), strict=True))
        self._dataset = dataset
        self._digests = [known[path] for path in self._paths]
        self._boxes = [sample.box for sample in dataset.images.samples]
        self._transform = _transform(dataset.identity)

    def __call__(self, index: int, view: int) -> bytes:
        """Return the key, of :data:`KEY_BYTES` bytes, of view ``view`` of image ``index``."""
        seed = self._dataset.seed(index, view)
        digest = hashlib.blake2b(self._digests[index].sha256, digest_size=KEY_BYTES)
        digest.update(self._transform)
        digest.update(b"" if seed is None else str(seed).encode())
        if (box := self._boxes[index]) is not None:
            digest.update(f"box {box}".encode())
        return digest.digest()

    def of(self, view: int) -> list[bytes]:
        """Return the keys of view ``view`` of all images, in order."""
        return [self(index, view) for index in range(len(self._paths))]

    def require_unchanged(self, indices: Iterable[int]) -> None:
        """Check that the files of images have not changed since their keys were computed.

        Raises:
            DataError: A file changed or cannot be read. The message names the file.
        """
        for index in indices:
            path, digest = self._paths[index], self._digests[index]
            try:
                now = path.stat()
            except OSError as error:
                reason = f"cannot read the image: {error.strerror}"
                raise DataError(reason, where=str(path)) from None
            if (now.st_size, now.st_mtime_ns) != (digest.size, digest.mtime_ns):
                raise DataError(
                    "the image changed while the run read it",
                    where=str(path),
                    hint="start again, and do not change the files during the run",
                )


def _transform(identity: Mapping[str, Any]) -> bytes:
    # Another release of these libraries may decode or resample images differently.
    libraries = {name: importlib.metadata.version(name) for name in ("pillow", "torchvision")}
    text = json.dumps({**identity, **libraries}, sort_keys=True)
    return hashlib.sha256(text.encode()).digest()
