"""Files: checks users' paths, reads regular files only, and replaces files and folders at once.

:func:`replacing` writes a new file or folder inside a private folder beside the target, then moves
it to the target. After a crash, the old target or the new one is there. There is one exception: a
folder is replaced by two moves, and after a crash between them the target is missing. The next
writer then moves the old folder back, and so does a reader that calls :func:`put_back`. A process
locks its private folder while it lives, so the next writer recognises the private folders of killed
processes and removes them.
"""

from __future__ import annotations

import errno
import hashlib
import io
import os
import re
import shutil
import stat
import sys
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from .errors import CheckpointError, ConfigError, ResourceError
from .spelling import argument, setting

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl

_PREFIX = ".siamkit-"
_UNLOCKED = f"{_PREFIX}new-"
_PLACE = re.compile(rf"({re.escape(_PREFIX)}|{re.escape(_UNLOCKED)})[0-9a-f]{{16}}")
_UNLOCKED_SECONDS = 3600.0
_NEW, _OLD = "new", "old"
LOCK = ".lock"
"""The name of the lock's file in a private folder."""

_GITS = {".git", ".gitattributes"}
_IN_THE_WAY = {errno.EISDIR, errno.ELOOP, errno.ENOTEMPTY, errno.EINVAL}


def cache_home() -> Path:
    """Return the user's cache folder: ``$XDG_CACHE_HOME``, else ``~/.cache``."""
    # The XDG specification: a relative path is invalid and must be ignored.
    given = Path(os.environ.get("XDG_CACHE_HOME") or ".")
    return given if given.is_absolute() else Path("~/.cache").expanduser()


def path_of(value: Any, where: str, what: str = "a file or a folder") -> Path:
    """Check a path that a user gave, and return it.

    Args:
        value: The path: text, or an object such as a ``pathlib.Path``.
        where: The name of the argument, for errors.
        what: The expected kind of file or folder, for errors, such as ``a run's directory``.

    Raises:
        ConfigError: ``value`` is no path, is too long, is empty (for example, an unset shell
            variable), or holds a NUL character.
    """
    if isinstance(value, os.PathLike):
        value = os.fspath(value)
    if not isinstance(value, str):
        kind = "None" if value is None else type(value).__name__
        raise ConfigError(
            f"must be the path of {what}", where=where, got=kind, allowed="text or a pathlib.Path"
        )
    if not value or "\0" in value:
        problem = "contains a NUL character" if value else "is empty"
        raise ConfigError(f"must be the path of {what}, but {problem}", where=where, got=value)
    if is_too_long(value):
        raise ConfigError(
            f"must be the path of {what}, but is longer than the system allows",
            where=where,
            got=f"{value[:40]}...",
        )
    return Path(value)


def require_unicode(path: Path, what: str = "files of tensors") -> None:
    """Refuse a path that is not valid Unicode, which the library of some files cannot open.

    Args:
        path: The path.
        what: The files, for the message.

    Raises:
        ConfigError: The path has bytes that are no UTF-8.
    """
    try:
        str(path).encode()
    except UnicodeEncodeError:
        raise ConfigError(
            f"the path is not valid Unicode, and {what} cannot have such a path",
            where=str(path),
            hint="choose another path, or rename the file or folder",
        ) from None


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
    """Return whether anything is at a path, even a broken link or an unreadable file.

    ``Path.exists`` is False for a broken link, so that the link would count as missing.

    Raises:
        OSError: A folder on the path cannot be read.
    """
    try:
        os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return False
    return True


def open_regular(path: Path) -> io.BufferedReader:
    """Open a regular file for reading. Refuse anything else at once, because a FIFO would block.

    Raises:
        OSError: The file cannot be opened, or ``path`` is no regular file.
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

    If a crash cut off the file's last line, the new line still starts on a line of its own.

    Raises:
        OSError: The file cannot be written, or ``path`` is no regular file.
    """
    flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | _unblocked()
    descriptor = os.open(path, flags, 0o666)
    with os.fdopen(descriptor, "r+b", buffering=0) as file:
        _require_regular(os.fstat(descriptor).st_mode, path)
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - 1))
        start = b"" if file.read(1) in (b"", b"\n") else b"\n"
        content = start + line.encode() + b"\n"
        if file.write(content) != len(content):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))


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
    """Turn an OSError of the block, which reads a run or an index, into a CheckpointError.

    Args:
        path: The file or folder that is being read. The message names it if the OSError names no
            file.
        hint: The next step, for the message.

    Raises:
        CheckpointError: A file is missing, or the system refuses to read it.
    """
    try:
        yield
    except OSError as error:
        if error.errno is None:  # raised by a library, not by the system
            raise
        where = error.filename if isinstance(error.filename, str) else str(path)
        missing = error.errno == errno.ENOENT
        what = "the file is missing" if missing else f"cannot read: {_reason(error)}"
        raise CheckpointError(what, where=where, hint=hint) from None


def refused_by_system(error: BaseException) -> ResourceError | None:
    """Return a ResourceError for an OSError about a full disk or a refused file; otherwise None."""
    if not isinstance(error, OSError) or error.errno is None:
        return None
    if error.errno == errno.ENOSPC:
        return ResourceError("no space left on disk", where=error.filename, hint="free some space")
    if error.filename is None:
        return None
    denied = error.errno in (errno.EACCES, errno.EPERM)
    return ResourceError(
        f"cannot be used: {_reason(error)}",
        where=str(error.filename),
        hint="check its permissions" if denied else None,
    )


def _reason(error: OSError) -> str:
    return error.strerror or os.strerror(error.errno or 0)


# --- writing -------------------------------------------------------------------------------------


@contextmanager
def writing(path: Path, hint: str | None = None) -> Iterator[None]:
    """Turn an OSError of the block, which writes a file or folder, into a ResourceError.

    Args:
        path: The file or folder that is being written, for the message.
        hint: The next step, for the message; None: a hint for a file in a run's directory.

    Raises:
        ResourceError: The disk is full, over quota or not writable, or the path is unusable.
    """
    try:
        yield
    except OSError as error:
        if error.errno is None:  # raised by a library, not by the system
            raise
        if error.errno in _IN_THE_WAY:
            hint = "move away what is at this path"
        raise ResourceError(
            f"cannot write: {_reason(error)}",
            where=str(path),
            hint=hint
            or "check the free space and the permissions, or choose another "
            f"{setting('run_dir')}; earlier files are intact",
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
        text: The file's new content.
        hint: The next step if the file cannot be written; see :func:`writing`.

    Raises:
        ResourceError: The disk is full, over quota, or not writable.
    """
    with replacing(path, hint) as new, new.open("xb") as file:
        file.write(text.encode())


@contextmanager
def replacing(target: Path, hint: str | None = None) -> Iterator[Path]:
    """Yield the path of a new file or folder, which replaces ``target`` when the block ends.

    The block must create the file or folder. Its path lies in a private folder beside the target,
    with a random name that nobody can guess, so nobody can plant a link there. If the block raises,
    the target stays as it was. Hidden entries of a replaced folder, such as ``.git``, move to the
    new folder.

    Args:
        target: The file or folder to replace or create; its parent folder must exist.
        hint: The next step if ``target`` cannot be written; see :func:`writing`.

    Raises:
        ResourceError: ``target`` cannot be written, or is a device or a FIFO.
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


def require_free_folder(
    path: Path, what: str, own: Callable[[Path], Collection[str] | None], force: bool
) -> None:
    """Check that a folder may be written without the loss of other files.

    The path must not exist, or be an empty folder. With ``force``, it may also be a folder of the
    same kind, if it holds no entries but its own and those of git.

    Args:
        path: The folder to write.
        what: The kind of the folder, for messages, such as ``an index``.
        own: Returns the names of the entries that such a folder has, or None if the folder that
            lies there is of no such kind. It raises a CheckpointError if this cannot be known.
        force: Whether the user asked to replace what is there.

    Raises:
        ConfigError: Something else is at the path.
        CheckpointError: The path cannot be read.
    """
    where, other = str(path), f"choose another {argument('output')}"
    put_back(path)  # or the next writer would, and then replace it
    with reading(path):
        if not is_there(path) or (path.is_dir() and not any(path.iterdir())):
            return
        if not path.is_dir():
            raise ConfigError("is a file, not a folder", where=where, hint=other)
        names = {entry.name for entry in path.iterdir()}
    try:
        known = own(path)
    except CheckpointError as error:
        raise ConfigError(
            f"looks like {what}, but is damaged or of another version, so it is not replaced: "
            f"{error.what}",
            where=where,
            hint=f"remove it yourself, or {other}",
        ) from None
    if known is None:
        raise ConfigError(
            f"already exists and is not {what}, so it is not replaced", where=where, hint=other
        )
    if not force:
        raise ConfigError(
            f"already holds {what}",
            where=where,
            hint=f"{other}, or replace it with {argument('force', True)}",
        )
    if foreign := sorted(names - set(known) - _GITS):
        raise ConfigError(
            f"holds more than {what}: {', '.join(foreign[:5])}",
            where=where,
            hint=f"{other}, or move these files away",
        )


def _require_replaceable(target: Path) -> None:
    """Refuse to replace a device, such as /dev/null, or a FIFO, because other programs use them."""
    if is_there(target):
        mode = os.lstat(target).st_mode
        if not (stat.S_ISDIR(mode) or stat.S_ISLNK(mode)):
            _require_regular(mode, target)


def is_leftover(path: Path) -> bool:
    """Return whether a path is named like a writer's private folder. The writer may still run."""
    return _PLACE.fullmatch(path.name) is not None


def sweep(folder: Path) -> None:
    """Remove the private folders that killed writers left in a folder.

    The private folders of running writers stay. If a killed writer had moved a folder away to
    replace it, that folder is put back first.
    """
    for place in folder.glob(f"{_PREFIX}*"):
        if not is_leftover(place) or place.is_symlink():
            continue
        with suppress(OSError):  # in use, another user's, or gone meanwhile
            if place.name.startswith(_UNLOCKED):
                if time.time() - place.stat().st_mtime < _UNLOCKED_SECONDS:
                    continue  # its writer is about to lock it
            lock = FolderLock(place)
            _settle(place)
            shutil.rmtree(place, ignore_errors=True)
            lock.release()


def put_back(target: Path) -> None:
    """Put a folder back if a killed process had moved it away to replace it. Readers call this."""
    with suppress(OSError):  # if this fails, the reader reports that the target is missing
        if not is_there(target):
            sweep(target.parent)


def _claimed(folder: Path) -> tuple[Path, FolderLock]:
    """Return a new private folder in ``folder``, and its lock, which this process holds.

    Before the private folder is locked, another process could take it for the folder of a killed
    writer. So it first has a name that :func:`sweep` leaves alone for an hour.
    """
    token = os.urandom(8).hex()
    unlocked, place = folder / f"{_UNLOCKED}{token}", folder / f"{_PREFIX}{token}"
    unlocked.mkdir(mode=0o700)
    lock = FolderLock(unlocked)
    unlocked.rename(place)
    return place, lock


class FolderLock:
    """The lock of a private folder, which the system releases when its process dies.

    The package filelock has the same kind of lock, but siamkit-runtime does not depend on it.

    Args:
        place: The private folder.

    Raises:
        OSError: Another process holds the lock, or the system refuses it.
    """

    def __init__(self, place: Path) -> None:
        self._file = (place / LOCK).open("wb")
        try:
            self._set(True)
        except OSError:
            self._file.close()
            raise

    def release(self) -> None:
        """Release the lock, also for forked processes, which share it."""
        with self._file:
            self._set(False)

    def _set(self, on: bool) -> None:
        if sys.platform == "win32":
            msvcrt.locking(self._file.fileno(), msvcrt.LK_NBLCK if on else msvcrt.LK_UNLCK, 1)
        else:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB if on else fcntl.LOCK_UN)


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
    """Put back a folder that was moved away; if there is a new one, give it the hidden entries."""
    for old in (place / _OLD).glob("*"):
        target = place.parent / old.name
        with suppress(OSError):
            if not is_there(target):
                old.rename(target)
            elif not old.is_symlink():
                for hidden in old.glob(".*"):
                    if not is_there(target / hidden.name):
                        hidden.rename(target / hidden.name)
