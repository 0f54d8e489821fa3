"""The machine: the facts about this CPU that speeds depend on."""

from __future__ import annotations

import platform
from dataclasses import dataclass
from pathlib import Path

import torch

from siamkit.portable.cpu import described, has_int8


@dataclass(frozen=True)
class Machine:
    """A machine that speeds were measured on.

    Attributes:
        cpu: The name of the CPU.
        threads: The threads that each runner used.
        int8: Whether the CPU has instructions for int8 dot products (VNNI on x86); None if unknown.
    """

    cpu: str
    threads: int
    int8: bool | None


def this_machine(cpuinfo: Path = Path("/proc/cpuinfo")) -> Machine:
    """Return the facts about this machine.

    Args:
        cpuinfo: The file in which Linux describes the CPU.
    """
    facts = described(cpuinfo)
    return Machine(
        facts.get("model name") or platform.processor() or platform.machine(),
        torch.get_num_threads(),
        has_int8(facts),
    )
