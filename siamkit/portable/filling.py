"""The filling of a ``.npy`` file with embeddings, which loses only seconds of work if killed.

The file grows in a hidden folder beside its target. ``progress.json`` records the number of rows
that are safe on disk, a digest of these rows, a digest of their images, and the network. The work
continues only if the rows, the images and the network are still the same.
"""

from __future__ import annotations

import hashlib
import io
import os
import shutil
import stat
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from io import RawIOBase
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ..errors import CheckpointError, DataError, ResourceError
from ..files import LOCK, FolderLock, open_regular, sweep, writing
from ..json_files import read_sealed, write_sealed
from ..spelling import argument
from ..words import plural
from .cosine import directions
from .embedding import BATCH_SIZE, Embeds
from .signals import interrupted

OnProgress = Callable[[int, int], None]
"""Called with the number of finished images and the number of all images."""

FORMAT = 2
HINT = "free some space, or choose another place; the finished part is kept"
_PART = 1 << 24  # bytes of finished rows that are read at once
_SAFE_EVERY = 5.0  # seconds between two records of safe rows
_CHANGED = {
    "format": "siamkit",
    "model": "the run's network",
    "numerics": "the device or its precision",
    "dim": "the width of the embeddings",
    "normalized": "the kind of output",
}


class _Done(NamedTuple):
    """The finished rows: their number, a digest of their images, and a digest of their bytes."""

    rows: int
    images: hashlib._Hash
    content: hashlib._Hash


_NOTHING = _Done(0, hashlib.sha256(), hashlib.sha256())  # copied before each update


def workplace(target: Path) -> Path:
    """Return the path of the hidden folder in which ``target`` is made."""
    return target.with_name(f".{target.name}.partial")


@contextmanager
def working(target: Path) -> Iterator[Path]:
    """Make and lock the :func:`workplace` of ``target``; remove the folder at the end if empty.

    Raises:
        ResourceError: Another process works on the same target, or the disk is not writable.
    """
    folder = workplace(target)
    with writing(folder, HINT):
        folder.parent.mkdir(parents=True, exist_ok=True)
        sweep(folder.parent)
        folder.mkdir(mode=0o700, exist_ok=True)
        _require_own(folder)
        try:
            lock = FolderLock(folder)
        except (BlockingIOError, PermissionError):  # the latter on Windows
            raise ResourceError(
                "another process is writing the same output",
                where=str(target),
                hint="wait for it to end",
            ) from None
    try:
        yield folder
    finally:
        lock.release()
        if folder.is_dir() and {path.name for path in folder.iterdir()} <= {LOCK}:
            shutil.rmtree(folder)


def _require_own(folder: Path) -> None:
    """Check that ``folder`` is a folder of this user, not a link.

    In a folder that somebody else made, files could be links to other files of this user.

    Raises:
        ResourceError: The folder is a link or belongs to another user.
    """
    status = folder.lstat()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != getattr(os, "geteuid", lambda: 0)():
        raise ResourceError(
            "is in the way: it is not a folder, or belongs to another user",
            where=str(folder),
            hint="remove it, or choose another place",
        )


def fill(
    folder: Path,
    embedder: Embeds,
    paths: Sequence[Path],
    *,
    normalize: bool = False,
    batch_size: int = BATCH_SIZE,
    anew: bool = False,
    progress: OnProgress | None = None,
) -> tuple[Path, int]:
    """Write the embeddings of images to a file in ``folder``, continuing unfinished work there.

    Args:
        folder: A :func:`workplace`, locked by this process.
        embedder: The embedder.
        paths: The images.
        normalize: Whether to L2-normalise the embeddings.
        batch_size: The number of images per forward pass.
        anew: Whether to discard unfinished work of another network or other images. Otherwise, such
            work raises an error.
        progress: Called with the number of finished images and the number of all images.

    Returns:
        The ``.npy`` file, float32 ``[N, E]``, and the number of rows that earlier calls finished.

    Raises:
        CheckpointError: The unfinished work is of another network or of other images.
        DataError: An image is missing or cannot be decoded. The finished part is kept.
        Interrupted: Ctrl-C was pressed, or SIGTERM arrived. The finished part is kept.
        ResourceError: The disk is full.
    """
    about = {
        "format": FORMAT,
        "model": embedder.fingerprint,
        "numerics": embedder.numerics,
        "dim": embedder.embedding_dim,
        "normalized": normalize,
    }
    file = GrowingFile(folder, about, paths, anew)
    file.require_space()
    before = file.done
    report = progress or (lambda done, total: None)
    report(before, len(paths))
    with file.opened():
        try:
            for part in embedder.stream(paths[before:], batch_size=batch_size):
                vectors = np.asarray(part.embeddings)
                file.append(directions(vectors) if normalize else vectors)
                report(file.done, len(paths))
        except KeyboardInterrupt as error:
            done = f" after {file.done} of {plural(len(paths), 'image')}, which are kept"
            raise interrupted(error, done, "the same command continues from there") from None
    return file.path, before


class GrowingFile:
    """A growing file of embeddings, and the record of the rows that are safe on disk.

    Args:
        folder: The folder of the file.
        about: The properties of the network and of the output.
        paths: The images of all rows, including rows that are not yet written.
        anew: Whether to discard unfinished work with other properties or images. Otherwise, such
            work raises an error.

    Raises:
        CheckpointError: The unfinished work has other properties or images.
        DataError: An image is missing.
    """

    def __init__(
        self, folder: Path, about: Mapping[str, Any], paths: Sequence[Path], anew: bool
    ) -> None:
        self.path = folder / "embeddings.npy"
        self._record = folder / "progress.json"
        self._about, self._paths = about, paths
        self._row_bytes: int = 4 * about["dim"]
        # The state is one value, so that Ctrl-C cannot come when only a part of it is updated.
        self._state = _NOTHING
        self._saved = 0.0
        noted = self._read()
        if noted is None:
            return
        changed = [_CHANGED[key] for key in about if noted.get(key) != about[key]]
        count = min(noted["rows"], self._whole_rows())
        if count == noted["rows"] and not changed:
            self._note(paths[:count], self._content(count))
            if self._state.images.hexdigest() != noted["images"]:
                changed = ["the images"]
            elif self._state.content.hexdigest() != noted["content"]:
                count = -1  # damaged rows are computed again
        if changed and not anew:
            raise CheckpointError(
                f"cannot continue after the {plural(noted['rows'], 'embedding')} of an earlier "
                f"command: {' and '.join(changed)} changed since",
                where=str(folder),
                hint="undo the change and run the command again, or start over with "
                f"{argument('force', True)}",
            )
        if changed or count != noted["rows"]:
            self._state = _NOTHING

    @property
    def done(self) -> int:
        """The number of finished rows."""
        return self._state.rows

    def _read(self) -> dict[str, Any] | None:
        """Return the record of safe rows; None if there is no intact record, and so no safe row.

        The result is also None if the file has a second hard link: then it belongs to an index.
        """
        try:
            if self.path.stat().st_nlink > 1:
                return None
            noted = read_sealed(self._record)
            return noted if noted.get("format") == FORMAT else None
        except (OSError, CheckpointError):
            return None

    def _content(self, rows: int) -> Iterator[bytes]:
        """Yield the bytes of the first rows, in parts: the file may be larger than the memory."""
        left = rows * self._row_bytes
        with open_regular(self.path) as file:
            file.seek(len(self._header()))
            while left and (part := file.read(min(left, _PART))):
                left -= len(part)
                yield part

    def _whole_rows(self) -> int:
        size = self.path.stat().st_size if self.path.is_file() else 0
        return min(max(size - len(self._header()), 0) // self._row_bytes, len(self._paths))

    def _header(self) -> bytes:
        """Return the file's header. numpy pads it, so its length is the same for any shape."""
        stream = io.BytesIO()
        shape = (len(self._paths), self._about["dim"])
        np.lib.format.write_array_header_1_0(
            stream, {"descr": "<f4", "fortran_order": False, "shape": shape}
        )
        return stream.getvalue()

    def _note(self, paths: Sequence[Path], content: Iterable[bytes]) -> None:
        images, rows = self._state.images.copy(), self._state.content.copy()
        for part in content:
            rows.update(part)
        for path in paths:
            try:
                stat = path.stat()
            except OSError as error:
                raise DataError(
                    f"cannot read the image: {error.strerror}", where=str(path)
                ) from None
            line = f"{path}\0{stat.st_size}\0{stat.st_mtime_ns}\n"
            images.update(line.encode(errors="surrogatepass"))
        self._state = _Done(self._state.rows + len(paths), images, rows)

    def require_space(self) -> None:
        """Check that there is enough disk space for the missing rows.

        Raises:
            ResourceError: There is not enough space.
        """
        needed = (len(self._paths) - self.done) * self._row_bytes
        free = shutil.disk_usage(self.path.parent).free
        if free < needed:
            raise ResourceError(
                f"not enough disk space: {needed / 1e9:.1f} GB needed, {free / 1e9:.1f} GB free",
                where=str(self.path.parent.parent),
                hint="free some space, or choose another place",
            )

    @contextmanager
    def opened(self) -> Iterator[None]:
        """Open the file for :meth:`append`. At the end of the block, all rows are safe on disk.

        This also holds if the block raises an error.
        """
        header = self._header()
        with writing(self.path, HINT):
            if not self.done:
                self.path.unlink(missing_ok=True)
            # Without a buffer, closing the file cannot retry a write that a full disk refused.
            self._file: RawIOBase = self.path.open("r+b" if self.done else "xb", buffering=0)
            self._write(header)
            self._file.truncate(len(header) + self.done * self._row_bytes)
            self._file.seek(0, os.SEEK_END)
        try:
            yield
        finally:
            with self._file:
                self._save()

    def _write(self, data: bytes | memoryview) -> None:
        left = memoryview(data)
        while left:
            left = left[self._file.write(left) or 0 :]

    def append(self, vectors: np.ndarray[Any, Any]) -> None:
        """Append the embeddings ``[B, E]`` of the next images."""
        content = np.ascontiguousarray(vectors, dtype="<f4").tobytes()
        with writing(self.path, HINT):
            self._write(content)
        self._note(self._paths[self.done : self.done + len(vectors)], [content])
        if time.monotonic() - self._saved >= _SAFE_EVERY:
            self._save()

    def _save(self) -> None:
        with writing(self.path, HINT):
            os.fsync(self._file.fileno())
        done = self._state
        images, content = done.images.hexdigest(), done.content.hexdigest()
        record = {**self._about, "rows": done.rows, "images": images, "content": content}
        write_sealed(self._record, record, HINT)
        self._saved = time.monotonic()
