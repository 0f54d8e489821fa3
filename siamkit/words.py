"""Words: numbers with their nouns, and foreign text made safe to show."""

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


def printable(text: object) -> str:
    """Return ``text`` with control characters (except newlines) escaped.

    The name of a file or a class may hold an escape sequence, which must not reach a terminal.
    """
    return "".join(
        c if c.isprintable() or c == "\n" else c.encode("unicode_escape").decode("ascii")
        for c in str(text)
    )


def inert(path: str) -> str:
    """Return a path that a spreadsheet program does not take for a formula: ``./=1+1.png``.

    The result leads to the same file. The leading characters that make a formula are from OWASP's
    page "CSV injection".
    """
    return f"./{path}" if path.startswith(_FORMULA) else path


_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")  # noqa: RUF001
