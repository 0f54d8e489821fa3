"""Changes of metrics: which ones are gains, and their colour."""

from __future__ import annotations

_LOWER_IS_BETTER = frozenset({"eer"})


def is_loss(name: str, change: float) -> bool:
    """Return whether a change of a metric is for the worse."""
    return change > 0 if name in _LOWER_IS_BETTER else change < 0
