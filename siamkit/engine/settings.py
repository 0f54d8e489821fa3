"""Settings of the engine: what it may do, and where."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from siamkit.engine.kernels.base import Precision

Emit = Callable[[str, Mapping[str, Any]], None]
"""Receives each event: its name, and its data as JSON values."""


@dataclass(frozen=True)
class EngineSettings:
    """What the engine may do.

    Attributes:
        device: Where the network runs.
        precision: Autocast type of training.
        cut: ``auto`` cuts the network where that is exact; ``off`` runs it whole.
        cache: ``auto`` keeps the prefix's output where that saves time; ``off`` never, ``always``
            wherever the budget allows.
        root: The folder of all caches.
        budget: Bytes that they may take together.
        dtype: Type of cached feature maps; pooled features are always float32.
        kernel: The kernel that runs the prefix, or ``auto`` for the fastest.
        views: Views per training image; None leaves the number open.
    """

    device: torch.device
    root: Path
    budget: int
    precision: Precision = "fp32"
    cut: Literal["auto", "off"] = "auto"
    cache: Literal["auto", "off", "always"] = "auto"
    dtype: torch.dtype = torch.float16
    kernel: str = "auto"
    views: int | None = None


@dataclass(frozen=True)
class Reports:
    """Callbacks of long work.

    Attributes:
        emit: Receives events: how far the work is, and notices.
        check: Called now and then; may raise to stop.
    """

    emit: Emit
    check: Callable[[], None]
