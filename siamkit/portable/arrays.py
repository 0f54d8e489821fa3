"""Arrays in files: maps ``.npy`` files into memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from ..errors import CheckpointError
from ..files import reading


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
