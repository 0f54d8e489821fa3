"""The CPU's instructions that a network's sums depend on."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

_INT8 = {"avx512_vnni", "avx_vnni", "asimddp", "i8mm"}  # Linux's names of CPU features


def described(cpuinfo: Path = Path("/proc/cpuinfo")) -> Mapping[str, str]:
    """Return the facts of Linux's description of the CPU, by name; empty if there is none.

    Args:
        cpuinfo: The file in which Linux describes the CPU.
    """
    try:
        lines = [line.partition(":") for line in cpuinfo.read_text(errors="replace").splitlines()]
    except OSError:
        return {}
    return {key.strip(): value.strip() for key, _, value in lines}


def has_int8(facts: Mapping[str, str]) -> bool | None:
    """Return whether a CPU has instructions for int8 dot products (VNNI on x86); None if unknown.

    Args:
        facts: What :func:`described` returns.
    """
    features = facts.get("flags", facts.get("Features"))
    return None if features is None else bool(_INT8 & set(features.split()))
