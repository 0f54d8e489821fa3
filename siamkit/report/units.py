"""Human-readable numbers; JSON output keeps the exact ones."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

_CLOSE = 1.3  # an interval whose ends differ by less is shown as one number


def milliseconds(seconds: float) -> str:
    """Return a short time with three significant digits: ``0.75 ms``, ``46.1 ms``."""
    return f"{seconds * 1e3:.3g} ms"


def duration(seconds: float) -> str:
    """Return a span of time: ``0.4 s``, ``12 s``, ``3 min 05 s``, ``2 h 04 min``."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60:02d} min"


def left(least: float, most: float) -> str:
    """Return the time that is left, with its uncertainty: ``about 12 s left``."""
    low, high = duration(least), duration(most)
    if most <= _CLOSE * least or low == high:
        return f"about {duration((least + most) / 2)} left"
    return f"{low} to {high} left"


def percent(share: float) -> str:
    """Return a share in [0, 1] as a percentage: ``4.53 %``."""
    return f"{100 * share:.3g} %"


def percent_range(low: float, high: float) -> str:
    """Return two shares in [0, 1] as the ends of an interval: ``4.53 % to 6.1 %``."""
    return f"{percent(low)} to {percent(high)}"


def change(value: float) -> str:
    """Return a difference of two metrics with its sign, for pages: ``+0.033``, ``0.000``.

    A negative difference has U+2212 MINUS SIGN, which terminals may lack. A difference that rounds
    to zero has no sign.
    """
    text = f"{value:+.3f}"
    return text[1:] if float(text) == 0 else text.replace("-", "\N{MINUS SIGN}")


def rate(value: float) -> str:
    """Return a learning rate or a multiplier: ``0.001``, ``1e-05``."""
    return f"{value:.4g}"


def per_second(value: float) -> str:
    """Return a throughput: ``87 img/s``."""
    return f"{value:.0f} img/s" if value >= 10 else f"{value:.1f} img/s"


def finite(value: Any) -> Any:
    """Return ``value`` with NaN and infinity replaced by None, since JSON has neither."""
    if isinstance(value, Mapping):
        return {str(key): finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [finite(inner) for inner in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
