"""The interval between the checkpoints of a run."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Self

_UNITS = {"s": 1, "m": 60, "h": 3600}
_TEXT = re.compile(r"([1-9][0-9]{0,8})(s|m|h|steps)")


@dataclass(frozen=True)
class Interval:
    """A time or a number of optimizer steps.

    Attributes:
        seconds: The time; None for a number of steps.
        steps: The number of steps; None for a time.
    """

    seconds: float | None = None
    steps: int | None = None

    @classmethod
    def parse(cls, text: str) -> Self:
        """Return the interval that a text such as ``90s``, ``5m``, ``1h`` or ``200steps`` names.

        Raises:
            ValueError: The text has another form.
        """
        found = _TEXT.fullmatch(text)
        if found is None:
            raise ValueError(
                "must be a time or a number of optimizer steps, such as 90s, 5m, 1h or 200steps"
            )
        number, unit = int(found[1]), found[2]
        return cls(steps=number) if unit == "steps" else cls(seconds=number * _UNITS[unit])

    def has_passed(self, seconds: float, steps: int) -> bool:
        """Return whether the interval is over after ``seconds`` and ``steps``."""
        if self.steps is not None:
            return steps >= self.steps
        return self.seconds is not None and seconds >= self.seconds
