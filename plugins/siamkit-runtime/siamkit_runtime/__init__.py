"""siamkit-runtime: runs models that siamkit exported, without PyTorch.

::

    from siamkit_runtime import load

    model = load("my-model")
    verdict = model.verify("one.jpg", "other.jpg")

Most modules of this package are siamkit's own: they are packed from siamkit's folder, unchanged.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from .version import VERSION as __version__

if TYPE_CHECKING:
    from pathlib import Path

    from .errors import SiamkitError
    from .portable.calibration import Calibration, Verdict
    from .portable.gallery import Gallery, Neighbours
    from .portable.model import ExportedModel

__all__ = [
    "Calibration",
    "ExportedModel",
    "Gallery",
    "Neighbours",
    "SiamkitError",
    "Verdict",
    "__version__",
    "load",
]

_HOME = {
    "Calibration": "portable.calibration",
    "ExportedModel": "portable.model",
    "Gallery": "portable.gallery",
    "Neighbours": "portable.gallery",
    "SiamkitError": "errors",
    "Verdict": "portable.calibration",
}


def load(folder: str | Path, *, threads: int | None = None) -> ExportedModel:
    """Return the exported model in a folder, after a check of every file.

    Args:
        folder: A folder that ``siamkit export`` wrote, for ONNX or OpenVINO.
        threads: The threads of one forward pass; None: as many as cores may be used.

    Raises:
        ConfigError: There is no exported model in the folder, or a package is missing.
        CheckpointError: A file is damaged, was edited, or is of another version or export.
    """
    from .portable.model import ExportedModel

    return ExportedModel(folder, threads=threads)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'siamkit_runtime' has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_HOME[name]}", __name__), name)


def __dir__() -> list[str]:
    return __all__
