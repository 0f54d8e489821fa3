"""Tensor files: safetensors files, with the permissions of the umask and with siamkit's errors."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from siamkit.errors import CheckpointError
from siamkit.files import open_regular, reading, require_unicode

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor


def save_tensors(
    tensors: Mapping[str, Tensor], path: Path, metadata: dict[str, str] | None = None
) -> None:
    """Write tensors to a file in a folder that only this process writes to.

    Tensors that share memory are each written whole, because the format cannot express shared
    memory. In a network that loads the file, the same tensors share memory again.

    Raises:
        OSError: The disk is full or not writable.
    """
    from safetensors.torch import save_file

    with _saving(path):
        save_file(_apart(tensors), path, metadata)


def save_arrays(
    arrays: Mapping[str, NDArray[Any]], path: Path, metadata: dict[str, str] | None = None
) -> None:
    """Write contiguous arrays to a file in a folder that only this process writes to.

    Raises:
        OSError: The disk is full or not writable.
    """
    from safetensors.numpy import save_file

    with _saving(path):
        save_file(dict(arrays), path, metadata)


@contextmanager
def _saving(path: Path) -> Iterator[None]:
    from safetensors import SafetensorError

    # safetensors makes files of mode 0600. The mode of an empty file is what the umask allows.
    path.touch()
    mode = stat.S_IMODE(path.stat().st_mode)
    try:
        yield
    except SafetensorError as error:  # the errno of a full disk is in its text only
        number = re.search(r"os error (\d+)", str(error))
        if number is None:
            raise
        raise OSError(int(number[1]), os.strerror(int(number[1]))) from None
    path.chmod(mode)


def _apart(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return contiguous tensors on the CPU, no two of which share memory."""
    result: dict[str, Tensor] = {}
    known: set[int] = set()
    for name, tensor in tensors.items():
        plain = tensor.detach().cpu().contiguous()
        if plain.untyped_storage().data_ptr() in known:
            plain = plain.clone()
        known.add(plain.untyped_storage().data_ptr())
        result[name] = plain
    return result


def load_tensors(path: Path, device: str = "cpu") -> dict[str, Tensor]:
    """Return the tensors of a file, mapped into memory.

    While the tensors live, deleting the file does not free its disk space.

    Raises:
        CheckpointError: The file is missing, cannot be read, or is damaged.
        ConfigError: The path is not valid Unicode.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    require_unicode(path)

    try:
        with reading(path):
            open_regular(path).close()  # the library's error for a missing file has no number
            return load_file(path, device=device)
    except SafetensorError:
        raise CheckpointError("the file is damaged", where=str(path)) from None
