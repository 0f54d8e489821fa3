"""The built-in image set: 60 emoji, each drawn by six hands, 64 px. See NOTICE for the artists."""

from __future__ import annotations

import atexit
import shutil
import tarfile
import tempfile
from functools import lru_cache
from hashlib import sha256
from importlib.resources import files
from io import BytesIO
from pathlib import Path

from siamkit.errors import ResourceError
from siamkit.files import cache_home

_ARCHIVE = "tiny_emoji60.tar.gz"


def sample_dir() -> Path:
    """Return the folder that holds the class folders of the built-in image set.

    The set is unpacked on first use into the user's cache (``$XDG_CACHE_HOME`` or ``~/.cache``),
    where every later run finds it. If the cache cannot be written, the set is unpacked into a
    temporary folder that is removed when the process ends. Missing or truncated files are unpacked
    again. Several processes may call this function at the same time.

    Raises:
        ResourceError: Neither folder can be written.
    """
    archive = files(__package__).joinpath(_ARCHIVE).read_bytes()
    name = f"sample-{sha256(archive).hexdigest()[:12]}"
    try:
        return _unpacked(archive, cache_home() / "siamkit" / name)
    except OSError:
        pass
    try:
        return _unpacked(archive, _temporary() / name)
    except OSError as error:
        raise ResourceError(
            f"cannot unpack the built-in images: {error.strerror}",
            where=error.filename,
            hint="set XDG_CACHE_HOME to a folder that can be written",
        ) from None


@lru_cache(maxsize=1)
def _temporary() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="siamkit-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def _unpacked(archive: bytes, target: Path) -> Path:
    """Unpack the archive into ``target`` if files are missing there, and return ``target``."""
    with tarfile.open(fileobj=BytesIO(archive)) as tar:
        members = tar.getmembers()
        # The content of the archive's one top folder goes directly into the target.
        sizes = {m.name.partition("/")[2]: m.size for m in members if m.isfile()}
        if _missing(target, sizes):
            target.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=target.parent, prefix=".unpack-") as folder:
                tar.extractall(folder, filter="data")
                _install(Path(folder, members[0].name.partition("/")[0]), target, sizes)
    return target


def _missing(target: Path, sizes: dict[str, int]) -> list[str]:
    """Return the names of the files that are missing in ``target`` or have another size."""

    def size(path: Path) -> int:
        try:
            return path.stat().st_size
        except OSError:
            return -1

    return [name for name, expected in sizes.items() if size(target / name) != expected]


def _install(unpacked: Path, target: Path, sizes: dict[str, int]) -> None:
    """Move the unpacked files to ``target`` so that other processes never find a file missing."""
    try:
        unpacked.rename(target)
    except OSError:
        # The target exists: another process was faster, or files are damaged. Replacing each file
        # atomically is right in both cases. Other processes may use the folder, so it stays.
        for name in _missing(target, sizes):
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            (unpacked / name).replace(target / name)
