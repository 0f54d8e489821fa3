"""Files: paths that a user gives are checked, files are read without surprises and written at once.

Every file or folder that takes its place in one step is written by :func:`replacing`: in a private
folder beside the target, which is then moved there. A crash at any moment leaves either the old one
or the new one. The private folder is locked while its process lives, so the next writer can tell
what a killed process left, and removes it.
"""

from __future__ import annotations

import errno
import hashlib
import io
import os
import re
import secrets
import shutil
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from filelock import FileLock

from siamkit.errors import CheckpointError, ConfigError, ResourceError
from siamkit.spelling import setting

_PREFIX = ".siamkit-"
_UNLOCKED = f"{_PREFIX}new-"
_PLACE = re.compile(rf"({re.escape(_PREFIX)}|{re.escape(_UNLOCKED)})[0-9a-f]{{16}}")
_UNLOCKED_SECONDS = 3600.0
_LOCK, _NEW, _OLD = ".lock", "new", "old"
_IN_THE_WAY = {errno.EISDIR, errno.ELOOP, errno.ENOTEMPTY, errno.EINVAL}


def cache_home() -> Path:
    """Return the user's cache folder: ``$XDG_CACHE_HOME``, else ``~/.cache``."""
    # The XDG specification: a relative path is invalid and must be ignored.
    given = Path(os.environ.get("XDG_CACHE_HOME") or ".")
    return given if given.is_absolute() else Path("~/.cache").expanduser()


def path_of(value: Any, where: str, what: str = "a file or a folder") -> Path:
    """Return a path that a user gave.

    Args:
        value: The path, as text or as an object.
        where: The argument, for errors.
        what: What the path must lead to, for errors, such as ``a run's directory``.

    Raises:
        ConfigError: It is no path, or too long, or empty, for example from an unset variable.
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
    if is_too_long(value):
        raise ConfigError(
            f"must be the path of {what}, and is longer than the system allows",
            where=where,
            got=f"{value[:40]}...",
        )
    return Path(value)


def is_too_long(path: str | Path) -> bool:
    """Return whether the system refuses a path because of its length."""
    try:
        os.lstat(path)
    except OSError as error:
        return error.errno == errno.ENAMETOOLONG
    except ValueError:  # a NUL character, or text that has no bytes
        return False
    return False


# --- reading -------------------------------------------------------------------------------------


def is_there(path: Path) -> bool:
    """Return whether a path leads to anything, a broken link or an unreadable file included.

    ``Path.is_file`` would hide these, so that a file which cannot be read would count as missing.

    Raises:
        OSError: A folder on the way cannot be read.
    """
    try:
        os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return False
    return True


def open_regular(path: Path) -> io.BufferedReader:
    """Open a regular file to read. Anything else is refused at once; a FIFO would block.

    Raises:
        OSError: It cannot be opened, or is no regular file.
    """
    descriptor = os.open(path, os.O_RDONLY | _unblocked())
    try:
        _require_regular(os.fstat(descriptor).st_mode, path)
    except BaseException:
        os.close(descriptor)
        raise
    return os.fdopen(descriptor, "rb")


def append_line(path: Path, line: str) -> None:
    """Append a line to a text file, which is created if it does not exist.

    Raises:
        OSError: It cannot be written, or is no regular file.
    """
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | _unblocked()
    descriptor = os.open(path, flags, 0o666)
    with os.fdopen(descriptor, "wb") as file:
        _require_regular(os.fstat(descriptor).st_mode, path)
        file.write(line.encode() + b"\n")


def _unblocked() -> int:
    return getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)


def _require_regular(mode: int, path: Path) -> None:
    if not stat.S_ISREG(mode):
        if stat.S_ISDIR(mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
        raise OSError(errno.EINVAL, "Not a regular file", str(path))


def read_bytes(path: Path) -> bytes:
    """Return the content of a regular file, with the errors of :func:`open_regular`."""
    with open_regular(path) as file:
        return file.read()


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a regular file's bytes, with the errors of :func:`open_regular`."""
    with open_regular(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def reading(path: Path, hint: str | None = None) -> Iterator[None]:
    """Turn the system's errors while a run, an index or a part of them is read into ours.

    Args:
        path: The file or folder that is being read, for errors that do not name their file.
        hint: The next step, for the message.

    Raises:
        CheckpointError: A file is missing, or the system refuses to read it.
    """
    try:
        yield
    except OSError as error:
        if error.errno is None:  # not the system's: a library's own
            raise
        where = error.filename if isinstance(error.filename, str) else str(path)
        missing = error.errno == errno.ENOENT
        what = "the file is missing" if missing else f"cannot read: {_reason(error)}"
        raise CheckpointError(what, where=where, hint=hint) from None


def _reason(error: OSError) -> str:
    return error.strerror or os.strerror(error.errno or 0)


# --- writing -------------------------------------------------------------------------------------


@contextmanager
def writing(path: Path, hint: str | None = None) -> Iterator[None]:
    """Turn the system's errors while something is written into errors with a next step.

    Args:
        path: The file or folder that is being written, for the message.
        hint: The next step, for the message; by default, the one for a file of a run.

    Raises:
        ResourceError: The disk is full, over quota or not writable, or the path is unusable.
    """
    try:
        yield
    except OSError as error:
        if error.errno is None:  # not the system's: a library's own
            raise
        if error.errno in _IN_THE_WAY:
            hint = "move away what is in its place"
        raise ResourceError(
            f"cannot write: {_reason(error)}",
            where=str(path),
            hint=hint
            or f"free some space or choose another {setting('run_dir')}; earlier files are intact",
        ) from None


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
        hint: The next step if the file cannot be written; see :func:`writing`.

    Raises:
        ResourceError: The disk is full, over quota, or not writable.
    """
    with replacing(path, hint) as new, new.open("xb") as file:
        file.write(text.encode())


@contextmanager
def replacing(target: Path, hint: str | None = None) -> Iterator[Path]:
    """Yield the path of a new file or folder, which takes the place of ``target`` at the end.

    The block makes it. It lies in a private folder beside the target, of a name that nobody can
    guess, so nobody can plant a link there. If the block raises, the target stays as it was. A
    folder that is replaced passes its hidden entries, such as ``.git``, on to the new one.

    Args:
        target: A file or a folder; its own folder must exist.
        hint: The next step if it cannot be written; see :func:`writing`.

    Raises:
        ResourceError: It cannot be written, or something else is in its place.
    """
    with writing(target, hint):
        _require_replaceable(target)
        sweep(target.parent)
        place, lock = _claimed(target.parent)
        try:
            new = place / _NEW / target.name
            new.parent.mkdir()
            yield new
            _flush(new)
            _publish(new, target, place / _OLD)
        finally:
            _settle(place)
            shutil.rmtree(place, ignore_errors=True)
            lock.release()


def _require_replaceable(target: Path) -> None:
    """Refuse a device, such as /dev/null, and a FIFO: others rely on what they are."""
    if is_there(target):
        mode = os.lstat(target).st_mode
        if not (stat.S_ISDIR(mode) or stat.S_ISLNK(mode)):
            _require_regular(mode, target)


def is_leftover(path: Path) -> bool:
    """Return whether a path is a private folder of a writer, which may have been killed."""
    return _PLACE.fullmatch(path.name) is not None


def sweep(folder: Path) -> None:
    """Remove what killed writers left in a folder; whatever a living process writes stays."""
    for place in folder.glob(f"{_PREFIX}*"):
        if not is_leftover(place) or place.is_symlink():
            continue
        with suppress(OSError):  # in use (a Timeout), another user's, or gone meanwhile
            if place.name.startswith(_UNLOCKED):
                if time.time() - place.stat().st_mtime < _UNLOCKED_SECONDS:
                    continue  # its writer is about to lock it
            lock = FileLock(place / _LOCK)
            lock.acquire(timeout=0)
            _settle(place)
            shutil.rmtree(place, ignore_errors=True)
            lock.release()


def _claimed(folder: Path) -> tuple[Path, FileLock]:
    """Return a new private folder in ``folder``, and its lock, which this process holds.

    It gets the name by which :func:`sweep` finds it after it is locked, so no other process can
    take it for a killed writer's.
    """
    token = secrets.token_hex(8)
    unlocked, place = folder / f"{_UNLOCKED}{token}", folder / f"{_PREFIX}{token}"
    unlocked.mkdir(mode=0o700)
    lock = FileLock(unlocked / _LOCK)
    lock.acquire(timeout=0)
    unlocked.rename(place)
    return place, lock


def _flush(path: Path) -> None:
    if path.is_dir():
        for entry in path.iterdir():
            _flush(entry)
    fsync(path)


def _publish(new: Path, target: Path, old: Path) -> None:
    if new.is_dir() and target.is_dir():
        old.mkdir()
        target.rename(old / target.name)
    new.replace(target)
    fsync(target.parent)


def _settle(place: Path) -> None:
    """Put a folder that was moved away back, or pass its hidden entries on to the new one."""
    for old in (place / _OLD).glob("*"):
        target = place.parent / old.name
        with suppress(OSError):
            if not is_there(target):
                old.rename(target)
                continue
            for hidden in () if old.is_symlink() else old.glob(".*"):
                if not is_there(target / hidden.name):
                    hidden.rename(target / hidden.name)
