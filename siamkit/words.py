"""Words: a number with its noun, in the singular or the plural."""

from __future__ import annotations


def plural(number: int, noun: str, nouns: str = "") -> str:
    """Return a number and its noun: ``1 epoch``, ``2 epochs``, ``0 classes``.

    Args:
        number: The number.
        noun: The noun in the singular.
        nouns: The noun in the plural; derived from ``noun`` if left out.
    """
    return f"{number} {noun if number == 1 else nouns or plural_of(noun)}"


def plural_of(noun: str) -> str:
    """Return the plural of a regular noun: ``class`` is ``classes``, ``entry`` is ``entries``."""
    if noun.endswith(("s", "x", "tch", "sh")):
        return f"{noun}es"
    if noun.endswith("y") and noun[-2:-1] not in "aeiou":
        return f"{noun[:-1]}ies"
    return f"{noun}s"
