"""The spelling of arguments and commands in messages: Python's, or the command line's.

A message that names an argument or a command asks these functions for its spelling, so that it
reads ``lr=0.001`` in Python and ``--lr 0.001`` on the command line. Python's spelling is the
default; the command line switches to its own while it runs.

A value in capitals, such as ``FILE``, is a placeholder that the user replaces.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

EVERYDAY: Mapping[str, str] = {
    "epochs": "train.epochs",
    "batch_size": "train.batch_size",
    "seed": "train.seed",
    "device": "train.device",
    "image_size": "data.image_size",
    "lr": "optimizer.lr",
    "run_dir": "run_dir",
}
"""The arguments of ``siamkit.fit`` that set one key of the config, each with its key."""

FUNCTIONS: Mapping[str, str] = {
    "train": "fit",
    "train --resume": "resume",
    "inspect": "inspect",
    "compare": "compare",
    "lr-find": "find_lr",
    "evaluate": "evaluate",
    "calibrate": "calibrate",
    "verify": "verify_pairs",
    "prune": "prune",
    "report": "write_report",
    "export": "export",
    "index": "build_index",
    "data check": "check_data",
    "list backbones": "list_backbones",
    "list freeze-policies": "list_freeze_policies",
    "list heads": "list_heads",
    "list losses": "list_losses",
    "list optimizers": "list_optimizers",
    "list schedulers": "list_schedulers",
    "list trackers": "list_trackers",
}
"""The function in ``siamkit`` for each command that has one."""

FlagOf = Callable[[str], str]
"""Returns the flag of a dotted config key, or the key itself if the key has no flag."""

_flag_of: FlagOf | None = None

_SPECIAL = re.compile(r"[\s'\"$&;|<>()`!#\\]")
"""Characters for which a value is quoted, so that the user's shell takes it as one word."""


@contextmanager
def command_line(flag_of: FlagOf) -> Iterator[None]:
    """Use the command line's spelling within the block.

    Args:
        flag_of: Returns the flag of a config key.
    """
    global _flag_of
    before, _flag_of = _flag_of, flag_of
    try:
        yield
    finally:
        _flag_of = before


def in_use() -> FlagOf | None:
    """Return the command line's spelling, to use it in another process; None for Python's."""
    return _flag_of


def on_command_line() -> bool:
    """Return whether messages are for a user of the command line, not of Python."""
    return _flag_of is not None


def setting(key: str, value: Any = None) -> str:
    """Return how the user sets a key of the config, such as ``--lr 0.001`` or ``lr=0.001``.

    Args:
        key: The dotted key, such as ``optimizer.lr``.
        value: The value to set; left out if None.
    """
    return settings({key: value})


def settings(values: Mapping[str, Any]) -> str:
    """Return how the user sets several keys of the config; see :func:`setting`."""
    if _flag_of is not None:
        return " ".join(_flag(_flag_of(key), key, value) for key, value in values.items())
    sections: dict[str, dict[str, Any]] = {}
    for key, value in values.items():
        section, _, inner = key.partition(".")
        sections.setdefault(section, {})[inner] = value
    return ", ".join(
        part for section, keys in sections.items() for part in _arguments(section, keys)
    )


def argument(name: str, value: Any = None, *, flag: str = "") -> str:
    """Return the spelling of a command's option, which is a function's argument in Python.

    Args:
        name: The argument's name in Python, such as ``output``.
        value: The value to give; left out if None.
        flag: The option; derived from ``name`` if left out.
    """
    if _flag_of is not None:
        return _flag(flag or f"--{name.replace('_', '-')}", name, value)
    return name if value is None else f"{name}={_literal(value)}"


def command(words: str, *values: Any, **options: Any) -> str:
    """Return how the user runs a command: ``'siamkit calibrate runs/a'`` in quotes, or a call.

    Args:
        words: The command, such as ``calibrate``. A command that is not among :data:`FUNCTIONS` is
            spelled as on the command line, even in Python.
        values: The command's positional arguments.
        options: The command's options, by their names in Python.
    """
    function = FUNCTIONS.get(words)
    if _flag_of is None and function is not None:
        given = [_literal(value) for value in values]
        given += [f"{name}={_literal(value)}" for name, value in options.items()]
        return f"siamkit.{function}({', '.join(given)})"
    parts = [words, *(shlex.quote(str(value)) for value in values)]
    parts += [_flag(f"--{name.replace('_', '-')}", name, v) for name, v in options.items()]
    return f"'siamkit {' '.join(parts)}'"


def python_argument(key: str) -> str:
    """Return the argument of ``siamkit.fit`` for a config key, such as ``loss={'margin': ...}``.

    Args:
        key: The dotted key of the config.
    """
    section, _, inner = key.partition(".")
    return _arguments(section, {inner: None})[0]


def _flag(flag: str, key: str, value: Any) -> str:
    if flag == key:
        return f"--set {key}" if value is None else f"--set {key}={_plain(value)}"
    if value is False:
        return flag.replace("--", "--no-", 1)
    return flag if value is None or value is True else f"{flag} {_plain(value)}"


def _arguments(section: str, keys: Mapping[str, Any]) -> list[str]:
    """Return the Python arguments for the keys of one section."""
    if set(keys) <= {"", "name", "path"}:
        return [section if value is None else f"{section}={_literal(value)}"
                for value in keys.values()]  # fmt: skip
    everyday = {path: name for name, path in EVERYDAY.items()}
    arguments, nested = [], []
    for key, value in keys.items():
        if (name := everyday.get(f"{section}.{key}")) is not None:
            arguments.append(name if value is None else f"{name}={_literal(value)}")
            continue
        *outer, last = key.split(".")
        shown = "..." if value is None else _literal(value)
        opening = "".join(f"{part!r}: {{" for part in outer)
        nested.append(f"{opening}{last!r}: {shown}{'}' * len(outer)}")
    if nested:
        arguments.append(f"{section}={{{', '.join(nested)}}}")
    return arguments


def _literal(value: Any) -> str:
    if isinstance(value, str) and value.isupper():
        return value
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_literal, value))}]"
    return repr(value if isinstance(value, bool | int | float | str | None) else str(value))


def _plain(value: Any) -> str:
    if isinstance(value, list | tuple):
        return f"[{','.join(map(_plain, value))}]"  # without spaces, as one word of the shell
    if isinstance(value, bool):
        return str(value).lower()
    text = str(value)
    return shlex.quote(text) if _SPECIAL.search(text) else text
