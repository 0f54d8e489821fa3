"""Reads and writes JSON files. A file that decides a result is sealed with a SHA-256.

A sealed object holds the SHA-256 of its other values under the key ``sha256``. The digest covers
the values, not the text: the file may be reformatted, but a changed value is an error.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from .errors import CheckpointError
from .files import read_bytes, reading, write_atomic

SEAL = "sha256"


def parsed(text: str | bytes) -> Any:
    """Return the value of a JSON text.

    Raises:
        ValueError: The text is not JSON, not UTF-8, or nested too deeply.
    """
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def digest_of(value: Any) -> str:
    """Return the SHA-256 of a JSON value, independent of the order of keys and of the layout."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def sealed(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return a copy of an object with the digest of its values added."""
    plain = parsed(json.dumps(dict(values)))  # as it will be read back: tuples become lists
    return {**plain, SEAL: digest_of(plain)}


def unsealed(values: Any, where: str, hint: str | None = None) -> dict[str, Any]:
    """Check the digest of a sealed object, and return the object without the digest.

    Args:
        values: The sealed object.
        where: The file or line that the object comes from, for the message.
        hint: The next step, for the message.

    Raises:
        CheckpointError: ``values`` is no sealed object, or a value changed.
    """
    if isinstance(values, dict):
        plain = {key: value for key, value in values.items() if key != SEAL}
        with suppress(RecursionError):  # json can read deeper nesting than it can write
            if values.get(SEAL) == digest_of(plain):
                return plain
    raise CheckpointError("the file is damaged or was edited", where=where, hint=hint)


def read_json(path: Path, hint: str | None = None) -> Any:
    """Return the value of a JSON file.

    Raises:
        CheckpointError: The file is missing, cannot be read, or is not JSON.
    """
    with reading(path, hint):
        content = read_bytes(path)
    try:
        return parsed(content)
    except ValueError:
        raise CheckpointError("the file is damaged", where=str(path), hint=hint) from None


def read_sealed(path: Path, hint: str | None = None) -> dict[str, Any]:
    """Return the object in a file that :func:`write_sealed` wrote.

    Raises:
        CheckpointError: The file is missing, cannot be read, or was changed.
    """
    return unsealed(read_json(path, hint), str(path), hint)


def write_json(path: Path, value: Any, hint: str | None = None) -> None:
    """Write JSON atomically, with the errors of :func:`siamkit.files.write_atomic`."""
    write_atomic(path, json.dumps(value, indent=2, allow_nan=False) + "\n", hint)


def write_sealed(path: Path, values: Mapping[str, Any], hint: str | None = None) -> None:
    """Write an object with its digest, with the errors of :func:`write_json`."""
    write_json(path, sealed(values), hint)
