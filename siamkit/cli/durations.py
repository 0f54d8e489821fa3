"""Spans of time on the command line, such as ``30m``."""

from siamkit.errors import ConfigError


def seconds(text: str, flag: str) -> float:
    """Return the seconds of a span of time.

    Args:
        text: What the user typed after the flag.
        flag: The flag, for errors.

    Raises:
        ConfigError: The text is not a time.
    """
    from siamkit.config.interval import Interval

    try:
        found = Interval.parse(text).seconds
    except ValueError:
        found = None
    if not found:
        allowed = "such as 90s, 30m or 2h"
        raise ConfigError("must be a time", where=flag, got=text, allowed=allowed)
    return found
