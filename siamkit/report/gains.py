"""The verdict on a metric's change, gain or loss, for the terminal and the HTML report."""

from __future__ import annotations

from typing import Literal

_LOWER_IS_BETTER = frozenset({"eer"})
_DIGITS = 3  # as metrics are shown


def verdict(name: str, change: float) -> Literal["gain", "loss", ""]:
    """Return whether a metric's change is a gain or a loss; empty if the change rounds to 0."""
    shown = round(change, _DIGITS)
    if shown == 0:
        return ""
    return "gain" if (shown < 0) == (name in _LOWER_IS_BETTER) else "loss"
