"""Changes of metrics: gains and losses, in one place for the terminal and the page."""

from __future__ import annotations

from typing import Literal

_LOWER_IS_BETTER = frozenset({"eer"})
_DIGITS = 3  # as metrics are shown


def verdict(name: str, change: float) -> Literal["gain", "loss", ""]:
    """Return whether a change of a metric is for the better; empty if none can be seen."""
    shown = round(change, _DIGITS)
    if shown == 0:
        return ""
    return "gain" if (shown < 0) == (name in _LOWER_IS_BETTER) else "loss"
