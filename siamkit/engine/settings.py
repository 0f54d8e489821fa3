"""Settings of the engine, and the callbacks during its long work."""

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
    """Settings of the engine.

    Attributes:
        device: The device that the network runs on.
        root: The folder of all caches.
        budget: Bytes that all caches may take together.
        precision: The type that autocast computes in during training.
        cut: ``auto`` cuts the network if the cut is exact; ``off`` runs it whole.
        cache: ``auto`` caches the prefix's output if that saves time; ``off`` never caches it;
            ``always`` caches it if it fits the budget.
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
    """Callbacks during long work.

    Attributes:
        emit: Receives events: the progress of the work, and notices.
        check: Called regularly; may raise to stop.
    """

    emit: Emit
    check: Callable[[], None]
