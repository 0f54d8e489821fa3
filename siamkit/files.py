"""Files: paths that a user gives are checked, and files are written atomically.

A crash at any moment leaves either the old file or the new one.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from siamkit.errors import ConfigError, ResourceError
from siamkit.spelling import setting

_ENVIRONMENT = {
    errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOTDIR,
    errno.ENOENT, errno.EEXIST, errno.EFBIG,
}  # fmt: skip


def path_of(value: Any, where: str, what: str = "a file or a folder") -> Path:
    """Return a path that a user gave.

    Args:
        value: The path, as text or as an object.
        where: The argument, for errors.
        what: What the path must lead to, for errors, such as ``a run's directory``.

    Raises:
        ConfigError: It is no path, or empty, for example from an unset variable.
    """
    if isinstance(value, os.PathLike):
        value = os.fspath(value)
    if not isinstance(value, str):
        kind = "None" if value is None else type(value).__name__
        raise ConfigError(
            f"must be the path of {what}", where=where, got=kind, allowed="text or a pathlib.Path"
        )
    if not value or "\0" in value:
        problem = "hold a NUL character" if value else "be empty"
        raise ConfigError(f"must be the path of {what}, and not {problem}", where=where, got=value)
    return Path(value)


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def fsync(path: Path) -> None:
    """Flush a file, or a folder's entries, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_atomic(path: Path, text: str, hint: str | None = None) -> None:
    """Replace a text file in one step.

    Args:
        path: The file.
        text: Its new content.
        hint: The next step if the file cannot be written; see :func:`full_disk_is_ours`.

    Raises:
        ResourceError: The disk is full, over quota, or not writable.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    with full_disk_is_ours(path, hint):
        try:
            temporary.write_text(text, encoding="utf-8")
            fsync(temporary)
            temporary.replace(path)
        except BaseException:
            with suppress(OSError):
                temporary.unlink()  # an incomplete file would only take up space
            raise
        fsync(path.parent)


def write_json(path: Path, value: Any) -> None:
    """Write JSON atomically."""
    write_atomic(path, json.dumps(value, indent=2, allow_nan=False) + "\n")


@contextmanager
def full_disk_is_ours(path: Path, hint: str | None = None) -> Iterator[None]:
    """Turn the system's errors about a full or read-only disk into errors with a next step.

    Args:
        path: The file or folder that is being written, for the message.
        hint: The next step, for the message; by default, the one for a file of a run.

    Raises:
        ResourceError: The disk is full, over quota, or not writable.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in _ENVIRONMENT:
            raise
        raise ResourceError(
            f"cannot write: {os.strerror(error.errno or 0)}",
            where=str(path),
            hint=hint
            or f"free some space or choose another {setting('run_dir')}; earlier files are intact",
        ) from None
