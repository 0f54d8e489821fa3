"""Arrays: reads them from tensors, and maps files into memory."""

from __future__ import annotations

import mmap
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import CheckpointError
from ..files import open_regular, reading

if TYPE_CHECKING:
    from numpy.typing import NDArray


def array_of(values: Any) -> NDArray[Any]:
    """Return an array, or the values of a tensor as one; floats of less than 32 bits get 32."""
    if not is_tensor(values):
        return np.asarray(values)
    if values.is_floating_point() and values.element_size() < 4:  # numpy has no bfloat16
        values = values.float()
    array: NDArray[Any] = values.detach().cpu().numpy()
    return array


def is_tensor(values: Any) -> bool:
    """Return whether an object is a tensor of torch."""
    return hasattr(values, "is_floating_point") and hasattr(values, "detach")


def mapped(path: Path, hint: str) -> np.ndarray[Any, Any]:
    """Return the array in a ``.npy`` file, mapped into memory, read-only.

    Args:
        path: The file.
        hint: The next step if the file is damaged.

    Raises:
        CheckpointError: The file is missing or damaged.
    """
    with reading(path, hint):
        try:
            return np.lib.format.open_memmap(path, mode="r")
        except (OSError, MemoryError):
            raise
        except Exception:  # numpy parses the header as Python code, which can raise many errors
            raise CheckpointError("the file is damaged", where=str(path), hint=hint) from None


def mapped_bytes(path: Path, hint: str) -> bytes | mmap.mmap:
    """Return the content of a file, mapped into memory, read-only.

    Args:
        path: The file.
        hint: The next step if the file cannot be read.

    Raises:
        CheckpointError: The file is missing or cannot be read.
    """
    with reading(path, hint), open_regular(path) as file:
        if not os.fstat(file.fileno()).st_size:  # nothing to map, which mmap refuses
            return b""
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
