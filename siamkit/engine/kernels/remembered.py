"""Remembered measurements: how fast kernels ran a prefix on this machine in an earlier run.

Measuring the kernels of a ResNet-50 takes seconds, and gives much the same each time. So the
measurements are kept beside the cached rows, one small file per machine, prefix and shape.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from siamkit.engine.cache.layout import MEASUREMENTS
from siamkit.errors import SiamkitError
from siamkit.json_files import digest_of, read_sealed, write_sealed

_OLD = (
    30 * 86_400
)  # seconds after which kernels are measured again, because drivers and systems change


@dataclass(frozen=True)
class Measurements:
    """The measurements of one choice of a kernel.

    Attributes:
        count: The number of images that the kernels were chosen for. A kernel with a long setup is
            not measured for few images.
        seconds_per_image: Seconds per image of each measured kernel, by name.
        setup_seconds: Seconds for building and first running each measured kernel, by name.
    """

    count: int
    seconds_per_image: Mapping[str, float]
    setup_seconds: Mapping[str, float]

    def fastest(self, count: int) -> str:
        """Return the name of the kernel that takes the least time for ``count`` images.

        The plain network (``eager``) needs no setup.
        """

        def seconds(name: str) -> float:
            setup = 0.0 if name == "eager" else self.setup_seconds[name]
            return setup + count * self.seconds_per_image[name]

        return min(self.seconds_per_image, key=seconds)


@dataclass(frozen=True)
class Memory:
    """The remembered measurements of one prefix.

    Attributes:
        root: The folder of all caches.
        facts: What the speeds depend on, as JSON values: the machine, the libraries, the prefix's
            structure, and the shape of its input.
    """

    root: Path
    facts: Mapping[str, Any]

    @property
    def _path(self) -> Path:
        return self.root / MEASUREMENTS / f"{digest_of(self.facts)}.json"

    def read(self) -> Measurements | None:
        """Return the measurements; None if there are none, or if they are damaged or too old."""
        try:
            values = read_sealed(self._path)
            age = time.time() - values.pop("time")
            found = Measurements(**values)
            times = [*found.seconds_per_image.values(), *found.setup_seconds.values()]
            whole = found.seconds_per_image.keys() == found.setup_seconds.keys()
            sound = whole and times and found.count > 0 and all(0 < t < _OLD for t in times)
            return found if sound and 0 <= age < _OLD else None
        except (SiamkitError, KeyError, TypeError, AttributeError):
            return None

    def write(self, measurements: Measurements) -> None:
        """Keep measurements. Nothing is kept if the folder is not writable."""
        with suppress(SiamkitError, OSError):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            write_sealed(self._path, {"time": time.time(), **asdict(measurements)})
