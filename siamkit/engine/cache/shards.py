"""Shards: immutable files of rows, streamed to a temporary name and published by a rename."""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from siamkit.engine.cache.layout import (
    DATA_START,
    KEY_BYTES,
    TEMPORARY,
    ShardHeader,
    StoreSpec,
    disk_hint,
)
from siamkit.files import fsync, open_regular, writing

Keys = NDArray[np.bytes_]
"""Keys `[N]` of dtype ``S16``. numpy ignores NULs at the end of a key, which is harmless because
all keys have the same length."""

_CHUNK = 1 << 20


def pack(keys: Sequence[bytes]) -> Keys:
    """Return keys as an array.

    Raises:
        ValueError: A key does not have ``KEY_BYTES`` bytes.
    """
    if any(len(key) != KEY_BYTES for key in keys):
        raise ValueError(f"a key must have {KEY_BYTES} bytes")
    return np.frombuffer(b"".join(keys), dtype=f"S{KEY_BYTES}")


@dataclass(eq=False)
class Shard:
    """A published shard (a file of cached rows): its keys are in memory, its rows are not."""

    path: Path
    header: ShardHeader
    keys: Keys
    verified: bool = False

    @classmethod
    def open(cls, path: Path, digest: str, spec: StoreSpec) -> Shard:
        """Read a shard's header and keys. Do not trust them before :meth:`verify`.

        Raises:
            ValueError: The file is not a shard of this store, or incomplete.
            OSError: The file cannot be read.
        """
        header = ShardHeader.read(path)
        if (header.store, header.dtype, header.shape) != (digest, spec.dtype, spec.shape):
            raise ValueError("it belongs to another store")
        with open_regular(path) as file:
            file.seek(DATA_START + header.rows_bytes)
            keys = file.read(header.count * KEY_BYTES)
        return cls(path, header, np.frombuffer(keys, dtype=f"S{KEY_BYTES}"))

    def verify(self) -> bool:
        """Return whether the file's content matches its checksum.

        A file that matched once is not read again.

        Raises:
            OSError: The system cannot read it now, which says nothing about its content.
        """
        if not self.verified:
            buffer = memoryview(bytearray(_CHUNK))
            digest = hashlib.sha256()
            with open_regular(self.path) as file:
                file.seek(DATA_START)
                while read := file.readinto(buffer):
                    digest.update(buffer[:read])
            self.verified = digest.hexdigest() == self.header.sha256
        return self.verified


class ShardWriter:
    """A file of cached rows that is being written. No reader sees it before :meth:`publish`.

    Rows are written to the file at once, so memory use does not depend on the size of the shard.
    """

    def __init__(self, folder: Path, digest: str, spec: StoreSpec) -> None:
        self._digest, self._spec = digest, spec
        self._sha = hashlib.sha256()
        self._keys: list[bytes] = []
        self._torn = False
        self._temporary = folder / f"{TEMPORARY}{uuid.uuid4().hex}"
        with writing(folder, disk_hint()):
            self._file = self._temporary.open("xb")
        self._write(b"\0" * DATA_START)

    @property
    def size(self) -> int:
        """The size of the rows so far."""
        return len(self._keys) * self._spec.row_bytes

    def add(self, keys: Sequence[bytes], rows: memoryview) -> None:
        """Append rows.

        Raises:
            ResourceError: The disk is full; the writer cannot be used any more.
        """
        self._write(rows)
        self._sha.update(rows)
        self._keys += keys
        self._torn = False

    def publish(self, folder: Path) -> Shard | None:
        """Publish the shard under its name; return None if there is nothing to publish.

        Raises:
            ResourceError: The disk is full; the writer cannot be used any more.
        """
        if self._torn or not self._keys:
            self.discard()
            return None
        keys = b"".join(self._keys)
        self._sha.update(keys)
        header = ShardHeader(
            self._digest,
            self._spec.dtype,
            self._spec.shape,
            len(self._keys),
            self._sha.hexdigest(),
        )
        path = folder / f"shard-{uuid.uuid4().hex}.safetensors"
        self._write(keys)
        try:
            with writing(folder, disk_hint()):
                self._file.seek(0)
                self._file.write(header.encode())
                self._file.close()
                fsync(self._temporary)
                self._temporary.rename(path)
                fsync(folder)
        except BaseException:
            self.discard()
            raise
        array = np.frombuffer(keys, dtype=f"S{KEY_BYTES}")
        return Shard(path, header, array, verified=True)

    def discard(self) -> None:
        """Remove the temporary file."""
        try:
            self._file.close()
        except OSError:  # closing flushes, and the disk may be full
            pass
        self._temporary.unlink(missing_ok=True)

    def _write(self, data: bytes | memoryview) -> None:
        # An interrupt in the middle of a row makes the whole shard unusable.
        self._torn = True
        try:
            with writing(self._temporary.parent, disk_hint()):
                self._file.write(data)
        except BaseException:
            self.discard()
            raise
