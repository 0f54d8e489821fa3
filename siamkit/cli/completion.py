"""Shell completion of values. No function here imports torch or loads a plugin."""

import io
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import typer

Values = list[tuple[str, str]]
"""Pairs of a value and its meaning."""

_BREAKS = "=:"
"""Characters at which bash splits a word, besides blanks."""


def choices(*values: str) -> Callable[[], list[str]]:
    """Return a completion function that offers fixed values."""
    return lambda: list(values)


def entries(section: str) -> Callable[[str], Values]:
    """Return a completion function that offers the names registered for a config section."""

    def complete(incomplete: str) -> Values:
        return named(section, incomplete)

    return complete


def named(section: str, incomplete: str) -> Values:
    """Return the names registered for a config section; after ``timm:``, timm's models."""
    index = _index()
    values = list(index.get("entries", {}).get(section, {}).items())
    if section == "backbone" and incomplete.startswith("timm:"):
        values = [(f"timm:{name}", "") for name in index.get("timm", [])]
    return values


def presets() -> list[str]:
    """Return the names of the presets."""
    return list(_index().get("presets", []))


def assignments(ctx: typer.Context, incomplete: str) -> Values:
    """Return completions of ``--set``: keys of the config; after ``=``, values of the key."""
    index = _index()
    keys = dict(index.get("keys", {}))
    for section, default in index.get("chosen", {}).items():
        chosen = _given(ctx, f"{section}.name") or default
        chosen = chosen if ":" not in chosen else chosen.partition(":")[0] + ":"
        options = index["options"][section].get(chosen, {})
        keys |= {f"{section}.{option}": about for option, about in options.items()}
    key, equals, value = incomplete.partition("=")
    if not equals:
        return [(f"{name}=", meaning) for name, (meaning, _) in keys.items()]
    section, _, last = key.partition(".")
    if last == "name":
        return [(f"{key}={name}", meaning) for name, meaning in named(section, value)]
    return [(f"{key}={value}", "") for value in keys.get(key, ["", []])[1]]


def _index() -> dict[str, Any]:
    from siamkit.cli import names  # hashing and file locks are slow to import

    return names.read()


def _given(ctx: typer.Context, key: str) -> str | None:
    from siamkit.cli.flag_keys import KEYS

    flag = next(name for name, of in KEYS.items() if of == key)
    return ctx.params.get(flag)


def runs(incomplete: str) -> list[str]:
    """Return the run directories whose path begins with ``incomplete``.

    If a folder at that level is not a run, its subfolders are searched instead.
    """
    head, tail = os.path.split(incomplete)
    return [
        str(run)
        for folder in _folders(Path(head), tail)
        for run in ([folder] if _is_run(folder) else filter(_is_run, _folders(folder)))
    ]


def _folders(parent: Path, beginning: str = "") -> Iterator[Path]:
    try:
        found = sorted(parent.expanduser().iterdir())
    except OSError:
        return
    for folder in found:
        hidden = folder.name.startswith(".") and not beginning
        if folder.name.startswith(beginning) and folder.is_dir() and not hidden:
            yield parent / folder.name


def _is_run(folder: Path) -> bool:
    return (folder.expanduser() / "config.yaml").is_file()


# --- answering the shell ------------------------------------------------------------------------


def answer(command: Any, name: str) -> None:
    """Print completions for the command line that the shell passes in environment variables."""
    cut = _glue_words()
    stream = io.StringIO()
    with redirect_stdout(stream):
        try:
            command.main([], prog_name=name)
        except SystemExit:
            pass
    for line in stream.getvalue().splitlines():
        print(line.removeprefix(cut))


def _glue_words() -> str:
    """Undo bash's splits of words at ``=`` and ``:``; return the prefix to cut off completions.

    bash splits ``--set loss.margin=0`` at ``=`` too, and replaces only the part after ``=``. So
    each completion must begin after the ``=``.
    """
    text, place = os.environ.get("COMP_WORDS"), os.environ.get("COMP_CWORD")
    if text is None or place is None or not place.isdigit():
        return ""
    split = text.split("\n") if "\n" in text else text.split(" ")
    words, index, cut = glued(split, int(place))
    os.environ["COMP_WORDS"] = "\n".join(words)
    os.environ["COMP_CWORD"] = str(index)
    return cut


def glued(words: Sequence[str], index: int) -> tuple[list[str], int, str]:
    """Return the words that bash split at ``=`` and ``:``, joined again, and the cursor's place.

    Args:
        words: The words as bash splits them.
        index: The index of the word at the cursor; ``len(words)`` for a new word at the end.

    Returns:
        The joined words; the index of the word at the cursor; the beginning of this word up to and
        including the last ``=`` or ``:`` at which bash split it, empty if bash did not.
    """
    result: list[str] = []
    at, cut = index, ""
    for number, word in enumerate([*words, ""] if index == len(words) else words):
        breaks = bool(word) and not word.strip(_BREAKS)
        joins = result and (breaks or (number > 0 and _is_break(words, number - 1)))
        if number == index:
            before = result[-1] if joins else ""
            at, cut = len(result) - bool(joins), before + (word if breaks else "")
            cut = cut if joins else ""
        if joins:
            result[-1] += word
        else:
            result.append(word)
    return result, at, cut


def _is_break(words: Sequence[str], number: int) -> bool:
    word = words[number]
    return bool(word) and not word.strip(_BREAKS)
