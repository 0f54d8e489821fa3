"""Regular expressions of the user: compiled and searched for in bounded time and memory."""

from __future__ import annotations

import re
import time
from collections.abc import Iterable

import regex

from siamkit.errors import ConfigError

_SECONDS = 1.0  # limit of the search for one pattern in all names; it should take milliseconds

_LARGEST = 100_000  # compiling a pattern of this size takes up to a second and 100 MB

_TOKEN = re.compile(
    r"""(?P<open>\() | (?P<close>\)) | (?P<plus>\+)
    | \{\s*(?P<least>[0-9]*)\s*(?P<range>,?)\s*[0-9]*\s*\}
    | \\. | \[\^?\]?(?:\\.|[^\]\\])*\] | .""",
    re.VERBOSE | re.DOTALL,
)


def require_compilable(pattern: str) -> str:
    """Return a pattern that can be compiled in bounded time and memory.

    Raises:
        ValueError: The pattern is not a regular expression, or is too large.
    """
    try:
        if not (size := _size(pattern)) <= _LARGEST:  # true for nan, too
            raise ValueError(
                f"the pattern is too large: its repeats multiply to about {size:.2g} characters; "
                f"up to {_LARGEST:,} are allowed"
            )
        regex.compile(pattern)
    except (regex.error, RecursionError, OverflowError, MemoryError) as error:
        reason = "it needs too much memory" if isinstance(error, MemoryError) else str(error)
        raise ValueError(f"not a regular expression: {reason}") from None
    return pattern


def matching(pattern: str, names: Iterable[str], where: str) -> set[str]:
    """Return the names in which the pattern is found.

    Args:
        pattern: A pattern that :func:`require_compilable` accepts.
        names: The names.
        where: The key that holds the pattern, for messages.

    Raises:
        ConfigError: The search takes too long, since some patterns take exponential time.
    """
    compiled, end = regex.compile(pattern), time.monotonic() + _SECONDS
    found = set()
    for name in names:
        try:
            # A timeout of zero or less would mean no timeout.
            if compiled.search(name, timeout=max(end - time.monotonic(), 1e-3)):
                found.add(name)
        except TimeoutError:
            raise ConfigError(
                f"the pattern takes more than {_SECONDS:g} s to find in all parameter names",
                where=where,
                got=pattern,
                hint="avoid repeats within repeats, such as (a+)+",
            ) from None
    return found


def _size(pattern: str) -> float:
    """Return about how many characters a pattern has after its required repeats are written out.

    The engine writes them out when it compiles: of ``(ab+){3}``, at least ``abb*abb*abb*``.
    """
    sizes, last = [0.0], [0.0]  # of each open group, and of the last item in each
    for token in _TOKEN.finditer(pattern):
        if token["open"]:
            sizes.append(1.0)
            last.append(0.0)
        elif token["close"] and len(sizes) > 1:
            last.pop()
            last[-1] = sizes.pop()
            sizes[-1] += last[-1]
        elif token["plus"] or token["least"] is not None:
            times = 2.0 if token["plus"] else float("0" + token["least"]) + bool(token["range"])
            sizes[-1] += last[-1] * max(times - 1, 0)
            last[-1] *= max(times, 1)
        else:
            # A space may have no meaning: then a repeat counts for what stands before it.
            last[-1] = max(last[-1], 1.0) if token[0].isspace() else 1.0
            sizes[-1] += 1
    return sum(sizes)
