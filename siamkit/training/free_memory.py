"""Free memory: what a device, the system and the limits of control groups leave to this process."""

from __future__ import annotations

import gc
import os
from pathlib import Path
from typing import NamedTuple

import torch

from siamkit.model.device import free_memory_of
from siamkit.portable.control_groups import groups_of

_UNLIMITED = 2**63


class _Names(NamedTuple):
    """The files of a control group with its memory, and the cached files in its statistics."""

    limit: str
    used: str
    files: tuple[str, str]


_NAMES = {
    1: _Names(
        "memory.limit_in_bytes",
        "memory.usage_in_bytes",
        ("total_inactive_file", "total_active_file"),
    ),
    2: _Names("memory.max", "memory.current", ("inactive_file", "active_file")),
}
"""The names, by the version of the control groups."""


def free_bytes(device: torch.device) -> int:
    """Return the free memory of a device. On a CPU, the limit of a container counts too."""
    on_device = free_memory_of(device)
    return min(_available(), _left_in_container()) if on_device is None else on_device


def release_unused(device: torch.device) -> None:
    """Return the memory to the device that nothing uses, after an exception held it."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


def _available() -> int:
    try:
        text = Path("/proc/meminfo").read_text()
        line = next(line for line in text.splitlines() if line.startswith("MemAvailable:"))
        return int(line.split()[1]) * 1024
    except (OSError, StopIteration):  # not Linux: assume that half is free
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2


def _left_in_container() -> int:
    """Return what the limits of this process's control groups leave; huge without a limit."""
    groups = groups_of("memory")
    return min((_left(folder, _NAMES[version]) for folder, version in groups), default=_UNLIMITED)


def _left(folder: Path, names: _Names) -> int:
    """Return what a group's limit leaves. Cached files count as used, but give way."""
    try:
        limit, used = (int((folder / name).read_text()) for name in (names.limit, names.used))
        rows = (line.split() for line in (folder / "memory.stat").read_text().splitlines())
        files = sum(int(n) for name, n in rows if name in names.files)
    except (OSError, ValueError):  # no limit
        return _UNLIMITED
    return limit - max(used - files, 0)
