"""Alike names: classes or groups that may be one, written in two ways.

Each spelling counts as a name of its own, because it may be one: letters come in two cases. A
notice names them, since otherwise two spellings of a class are trained apart without a word.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from decimal import Decimal

from siamkit.portable.folders import briefly
from siamkit.words import plural

_NUMBER = re.compile(r"[+-]?[0-9]{1,40}(\.[0-9]{1,40})?")


def alike_notices(noun: str, names: Iterable[str]) -> list[str]:
    """Return a notice about names that differ only in how they are written; none if none do.

    Names are compared without case, spaces, invisible characters, Unicode form (``é`` may be one
    character or two), and zeros around a number.

    Args:
        noun: The kind of the names: ``class`` or ``group``.
        names: The names; they may repeat.
    """
    spellings: dict[str, list[str]] = {}
    for name in sorted(set(names)):
        spellings.setdefault(_plain(name), []).append(name)
    alike = [some for some in spellings.values() if len(some) > 1]
    if not alike:
        return []
    which = briefly([" and ".join(_shown(some)) for some in alike])
    return [
        f"{plural(sum(map(len, alike)), noun)} have names that differ only in case, spaces, "
        f"Unicode form or zeros, but each counts as a {noun}; give one name to each {noun} that is "
        f"written in several ways: {which}"
    ]


def _plain(name: str) -> str:
    """Return what all spellings of a name have in common."""
    text = unicodedata.normalize("NFKC", name).casefold()
    text = "".join(c for c in text if not c.isspace() and unicodedata.category(c) != "Cf")
    text = unicodedata.normalize("NFKC", text)  # a fold can take a character apart
    if _NUMBER.fullmatch(text):
        number = format(Decimal(text).normalize(), "f")
        return "0" if number == "-0" else number
    return text


def _shown(names: list[str]) -> list[str]:
    """Return names in quotes; with escapes, if they would look the same."""
    looks = {unicodedata.normalize("NFC", name) for name in names}
    return [repr(name) if len(looks) == len(names) else ascii(name) for name in names]
