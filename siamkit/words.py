"""Words: numbers with their nouns or units, and foreign text made safe to show."""

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


def short_count(number: int) -> str:
    """Return a count with three significant digits: ``999``, ``2.05 k``, ``23.5 M``."""
    return _scaled(number, _COUNT)


def data_size(number: int) -> str:
    """Return a number of bytes, in powers of 1000: ``0 B``, ``92.3 MB``."""
    return _scaled(number, _BYTES)


def _scaled(number: int, units: tuple[str, ...]) -> str:
    value, unit = float(number), 0
    # 999.5 rounds up to 1.00 of the next unit.
    while abs(value) >= (1000 if unit == 0 else 999.5) and unit < len(units) - 1:
        value, unit = value / 1000, unit + 1
    if unit == 0:
        return f"{number} {units[0]}".strip()
    decimals = 2 if abs(value) < 9.995 else 1 if abs(value) < 99.95 else 0
    return f"{value:.{decimals}f} {units[unit]}"


_COUNT = ("", "k", "M", "G", "T")
_BYTES = ("B", "kB", "MB", "GB", "TB")


def printable(text: object) -> str:
    """Return ``text`` with control characters (except newlines) escaped.

    The name of a file or a class may hold an escape sequence, which must not reach a terminal.
    """
    return "".join(
        c if c.isprintable() or c == "\n" else c.encode("unicode_escape").decode("ascii")
        for c in str(text)
    )


def readable(text: str) -> str:
    """Return ``text`` as valid Unicode: bytes of a file name that are not become escapes."""
    return text.encode(errors="backslashreplace").decode()


def inert(path: str) -> str:
    """Return a path that a spreadsheet program does not take for a formula: ``./=1+1.png``.

    The result leads to the same file. The leading characters that make a formula are from OWASP's
    page "CSV injection".
    """
    return f"./{path}" if path.startswith(_FORMULA) else path


_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")  # noqa: RUF001
