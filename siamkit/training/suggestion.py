"""The suggestion: the learning rate that the curves of a range test speak for."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Curve:
    """The loss by learning rate of one pass over the rates.

    Attributes:
        rates: The rate of each step, rising.
        losses: The loss before the first step, then after each step.
    """

    rates: tuple[float, ...]
    losses: tuple[float, ...]
