"""Control groups: where Linux limits the memory and the cores of this process."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

_ROOT = Path("/sys/fs/cgroup")
_OWN = Path("/proc/self/cgroup")


def groups_of(controller: str) -> Iterator[tuple[Path, int]]:
    """Yield the folder of each group that may limit this process, and the version of the groups.

    The process's own group comes first, and the root last. In a container, the root is that of the
    container. Without control groups there are none.

    Args:
        controller: What the groups limit: ``memory`` or ``cpu``.
    """
    try:
        lines = _OWN.read_text().splitlines()
    except OSError:  # not Linux
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if not controllers:
            root, version = _ROOT, 2
        elif controller in controllers.split(","):
            root, version = _ROOT / controller, 1
        else:
            continue
        own = root / path.lstrip("/")
        for folder in (own, *own.parents):
            if folder.is_relative_to(root):
                yield folder, version
