"""Checks of the arguments of Python functions, for arguments that are not part of a config."""

from __future__ import annotations

import operator
from collections.abc import Mapping
from typing import Any

from .errors import ConfigError
from .spelling import argument


def whole_number(value: Any, where: str, least: int | None = None) -> int:
    """Check a whole number that a user gave, and return it.

    Args:
        value: The number.
        where: The name of the argument, for errors.
        least: The smallest number that is allowed; None: any.

    Raises:
        ConfigError: ``value`` is no whole number, or too small.
    """
    try:
        number = None if isinstance(value, bool) else operator.index(value)
    except (TypeError, ValueError, RuntimeError):  # a tensor raises errors of its own
        number = None
    if number is None or (least is not None and number < least):
        raise ConfigError(
            "must be a whole number",
            where=where,
            got="None" if value is None else value,
            allowed=None if least is None else f"{least} or more",
        )
    return number


def optional_text(value: Any, where: str) -> str | None:
    """Check an optional text that a user gave, and return it.

    Args:
        value: The text, or None.
        where: The name of the argument, for errors.

    Raises:
        ConfigError: ``value`` is neither None nor text, or is blank.
    """
    if value is not None and not (isinstance(value, str) and value.strip()):
        raise ConfigError("must be text that is not blank", where=where, got=value)
    return value


def require_unused(given: Mapping[str, Any], beside: str) -> None:
    """Refuse arguments that would have no effect.

    Args:
        given: The arguments by name, as the user spells them. None means that an argument was not
            given.
        beside: The other argument, which makes these useless. It ends the message ``cannot be used
            with ...``: for example, ``an embedder, which has its network``.

    Raises:
        ConfigError: One of them was given.
    """
    if names := [name for name, value in given.items() if value is not None]:
        raise ConfigError(
            f"cannot be used with {beside}",
            where=", ".join(names),
            hint="leave it out" if len(names) == 1 else "leave them out",
        )


def require_pair_or_list(
    a: object | None, b: object | None, pairs: object | None, output: object | None
) -> None:
    """Check the arguments of the command ``verify``: two images, or a list of pairs.

    Args:
        a: The first image; None without one.
        b: The second image; None without one.
        pairs: The list of pairs; None without one.
        output: The file for the verdicts; None without one.

    Raises:
        ConfigError: Images and a list are given, or neither; only one image is given; or an output
            file is given without a list.
    """
    both, neither = a is not None and b is not None, a is None and b is None
    if not ((both and pairs is None) or (neither and pairs is not None)):
        raise ConfigError(
            f"needs either two images, A and B, or a list of pairs: {argument('pairs', 'FILE')}"
        )
    if output is not None and pairs is None:
        raise ConfigError(
            "works only with a list of pairs",
            where=argument("output"),
            hint=f"add {argument('pairs', 'FILE')}",
        )
