"""The layout of a store: the names and formats of its files."""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from siamkit.files import cache_home, open_regular, read_bytes
from siamkit.json_files import parsed
from siamkit.keys import KEY_BYTES as KEY_BYTES
from siamkit.spelling import command, setting

DATA_START = 4096
"""The offset of a shard's rows. The header has a fixed size, so that rows can be written first."""

STORE_FILE, FILL_LOCK, USERS = "store.json", ".fill.lock", "users"
MEASUREMENTS = "kernels"
"""The folder beside the stores with what was measured about kernels."""

GRAPHS = "int8"
"""The folder beside the stores with the int8 graphs of earlier runs."""

TEMPORARY = ".tmp-"
_SCHEMA = "siamkit.store/1"
_STORE = re.compile(r"[0-9a-f]{32}")
_SHARD = re.compile(r"shard-[0-9a-f]{32}\.safetensors")
_OURS = re.compile(rf"{_SHARD.pattern}|\.tmp-[0-9a-f]{{32}}|store\.json|\.fill\.lock")
_ITEM_BYTES = {"F32": 4, "F16": 2, "BF16": 2}


def disk_hint() -> str:
    """Return the hint of errors that say that the cache cannot be written."""
    return (
        f"free some space ({command('cache prune', max_gb='N')}), set SIAMKIT_CACHE_DIR to another "
        f"folder, or turn the cache off ({setting('engine.cache', 'off')}); cached features are "
        "intact, and a resumed run takes engine.cache and engine.cache_dir from its config.yaml"
    )


def default_root() -> Path:
    """Return the default folder of all stores.

    It is ``$SIAMKIT_CACHE_DIR``, else ``$XDG_CACHE_HOME/siamkit/features``, else
    ``~/.cache/siamkit/features``.
    """
    if own := os.environ.get("SIAMKIT_CACHE_DIR"):
        return Path(own).expanduser()
    return cache_home() / "siamkit" / "features"


@dataclass(frozen=True)
class StoreSpec:
    """The specification of a store (a folder of cached rows). Equal ones mean the same store.

    Attributes:
        description: The facts that determine the rows, as JSON values.
        dtype: ``F32``, ``F16`` or ``BF16``, as in safetensors.
        shape: The shape of a row.
    """

    description: Mapping[str, Any]
    dtype: str
    shape: tuple[int, ...]

    @property
    def digest(self) -> str:
        """The name of the store: 32 hex digits of the SHA-256 of the spec."""
        text = json.dumps(self._values(), sort_keys=True, separators=(",", ":"), allow_nan=False)
        return hashlib.sha256(text.encode()).hexdigest()[:32]

    @property
    def row_bytes(self) -> int:
        """The size of a row in bytes."""
        return _ITEM_BYTES[self.dtype] * math.prod(self.shape)

    def to_json(self) -> str:
        """Return the text of ``store.json``."""
        return json.dumps(self._values(), indent=2, allow_nan=False) + "\n"

    def _values(self) -> dict[str, Any]:
        return {
            "schema": _SCHEMA,
            "dtype": self.dtype,
            "shape": list(self.shape),
            "description": dict(self.description),
        }

    @classmethod
    def read(cls, store: Path) -> StoreSpec | None:
        """Return the spec in a store's folder, or None if the folder has no readable spec."""
        try:
            return cls.parse(read_bytes(store / STORE_FILE).decode())
        except (OSError, ValueError):
            return None

    @classmethod
    def parse(cls, text: str) -> StoreSpec | None:
        """Return the spec in a text of :meth:`to_json`, or None for any other text."""
        try:
            values = parsed(text)
            if values["schema"] != _SCHEMA:
                return None
            return cls(dict(values["description"]), values["dtype"], tuple(values["shape"]))
        except (ValueError, KeyError, TypeError):
            return None


@dataclass(frozen=True)
class ShardHeader:
    """The header of a shard: a safetensors file of cached ``rows`` and, after them, their ``keys``.

    Attributes:
        store: The digest of the store that the shard belongs to.
        dtype: The type of the rows: ``F32``, ``F16`` or ``BF16``.
        shape: The shape of a row.
        count: The number of rows.
        sha256: The hash of everything after the header.
    """

    store: str
    dtype: str
    shape: tuple[int, ...]
    count: int
    sha256: str

    @property
    def rows_bytes(self) -> int:
        """The size of all rows."""
        return self.count * _ITEM_BYTES[self.dtype] * math.prod(self.shape)

    @property
    def file_bytes(self) -> int:
        """The size of the file."""
        return DATA_START + self.rows_bytes + self.count * KEY_BYTES

    def encode(self) -> bytes:
        """Return the first ``DATA_START`` bytes of the file."""
        end = self.rows_bytes + self.count * KEY_BYTES
        text = json.dumps(
            {
                "__metadata__": {"store": self.store, "sha256": self.sha256},
                "rows": {
                    "dtype": self.dtype,
                    "shape": [self.count, *self.shape],
                    "data_offsets": [0, self.rows_bytes],
                },
                "keys": {
                    "dtype": "U8",
                    "shape": [self.count, KEY_BYTES],
                    "data_offsets": [self.rows_bytes, end],
                },
            }
        ).encode()
        # safetensors allows a header to be padded with spaces.
        return (DATA_START - 8).to_bytes(8, "little") + text.ljust(DATA_START - 8)

    @classmethod
    def read(cls, path: Path) -> ShardHeader:
        """Read the header of a file and check it against the file's size.

        Raises:
            ValueError: The file is not a shard, or incomplete.
            OSError: The file cannot be read.
        """
        with open_regular(path) as file:
            raw = file.read(DATA_START)
            size = os.fstat(file.fileno()).st_size
        if len(raw) < DATA_START or int.from_bytes(raw[:8], "little") != DATA_START - 8:
            raise ValueError("it is not a file of cached rows")
        try:
            values = parsed(raw[8:])
            rows, tags = values["rows"], values["__metadata__"]
            count, *shape = rows["shape"]
            if any(type(number) is not int for number in (count, *shape)):
                raise ValueError
            header = cls(tags["store"], rows["dtype"], tuple(shape), count, tags["sha256"])
            canonical = header.encode()
        except (ValueError, KeyError, TypeError, AttributeError):
            raise ValueError("its header is damaged") from None
        if canonical != raw:
            raise ValueError("its header is damaged")
        if size != header.file_bytes:
            raise ValueError(f"it has {size} bytes instead of {header.file_bytes}")
        return header


def is_shard_name(name: str) -> bool:
    """Return whether a file's name is that of a shard (a file of cached rows)."""
    return _SHARD.fullmatch(name) is not None


def is_our_name(name: str) -> bool:
    """Return whether siamkit makes files of this name in a store."""
    return _OURS.fullmatch(name) is not None


def is_store(path: Path) -> bool:
    """Return whether a folder is certainly a store of siamkit, so that it may be deleted."""
    if not _STORE.fullmatch(path.name) or path.is_symlink() or not path.is_dir():
        return False
    try:
        names = [file.name for file in path.iterdir()]
    except OSError:  # another user's folder
        return False
    return StoreSpec.read(path) is not None or any(map(is_shard_name, names))
