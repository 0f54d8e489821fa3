"""Turns pydantic's validation errors into siamkit's ConfigError."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial
from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError

from siamkit.errors import ConfigError, did_you_mean

Namer = Callable[[str], str]
"""Returns where the user can change a dotted key: ``--lr``, for example, for ``optimizer.lr``."""

# Replacements for pydantic's words, applied in this order.
_WORDING = (
    (re.compile(r"^Value error, "), ""),
    (re.compile(r"^[A-Z][\w-]* should "), "must "),
    (re.compile(r", (unable to (parse|interpret)|got a number) [^,]*"), ""),
    (re.compile(r"\ba valid (?=[aeiou])"), "an "),
    (re.compile(r"\ba valid "), "a "),
    (re.compile(r"\btuple\b"), "list"),  # YAML has no tuples
)


def config_error(
    error: ValidationError, model: type[BaseModel], where: str | Namer, of: str | None = None
) -> ConfigError:
    """Return the ConfigError for a validation error.

    The error names every wrong field, and suggests the nearest name for an unknown key.

    Args:
        error: The validation error.
        model: The model that was validated.
        where: The text before a key, such as ``run.yaml:`` or ``loss``; or a function that
            returns where the user can change a dotted key.
        of: The thing that the values belong to, such as ``loss 'triplet'``.
    """
    name = where if callable(where) else partial(_join, where)
    problems: dict[str, ConfigError] = {}
    # A union reports the problems of each of its members.
    for members in _by_key(error, model).values():
        path, known = _locate(model, members[0]["loc"])
        key = ".".join(path)
        problems[key] = _problem(members, path, known, name(key) or None, of)
    return ConfigError.of_all(list(problems.values()))


def _by_key(error: ValidationError, model: type[BaseModel]) -> dict[str, list[Any]]:
    """Return the problems by dotted key; of a value and of a part of it, those of the part."""
    found: dict[str, list[Any]] = {}
    for problem in error.errors(include_url=False, include_context=False):
        path, _ = _locate(model, problem["loc"])
        found.setdefault(".".join(path), []).append(problem)
    return {
        key: problems
        for key, problems in found.items()
        if not any(other.startswith(f"{key}.") for other in found if key)
    }


def _join(where: str, path: str) -> str:
    if not where or not path:
        return where or path
    return f"{where}{' ' if where.endswith(':') else '.'}{path}"


def _problem(
    members: list[Any], path: list[str], known: list[str], where: str | None, of: str | None
) -> ConfigError:
    problem = members[0]
    kind, message, got = problem["type"], problem["msg"], problem["input"]
    if kind == "extra_forbidden":
        return ConfigError(
            "unknown key",
            where=where,
            of=of,
            allowed=", ".join(sorted(known)) or "none",
            hint=did_you_mean(path[-1], known) or None,
        )
    if kind == "missing":
        return ConfigError("must be given", where=where, of=of)
    what = _any_of([reword(member["msg"]) for member in members])
    if kind == "string_unicode":  # it is a string, but has bytes that are no UTF-8
        what = "must be valid Unicode"
    if kind in ("model_type", "model_attributes_type", "dict_type"):
        what = "must be a mapping of keys to values"
    if got is None:
        what += ", got null"
    hint = None
    if kind == "literal_error" and isinstance(got, str):
        hint = did_you_mean(got, re.findall(r"'([^']+)'", message)) or None
    # If a validator checks a whole section, pydantic reports the whole section as the input, which
    # is too long to print. The validator's message names the conflict.
    whole = kind == "value_error" and isinstance(got, dict | BaseModel)
    return ConfigError(what, where=where, got=None if whole else got, of=of, hint=hint)


def _any_of(messages: list[str]) -> str:
    """Return one message for a value that breaks the rules of each member of a union."""
    first, *others = dict.fromkeys(messages)
    return ", or ".join([first, *(re.sub("^must (be )?", "", message) for message in others)])


def reword(message: str) -> str:
    """Return one of pydantic's messages in siamkit's words: ``must be an integer``."""
    for pattern, words in _WORDING:
        message = pattern.sub(words, message)
    return message


def _locate(model: type[BaseModel], loc: tuple[int | str, ...]) -> tuple[list[str], list[str]]:
    """Return the keys in ``loc`` that the user wrote, and the keys known where ``loc`` ends.

    ``loc`` may also hold the member of a union that pydantic tried (``views.int``), which the user
    did not write. For an unknown last key, the known keys are those allowed in its place.
    """
    path: list[str] = []
    known = list(model.model_fields)
    annotation: Any = model
    for part in loc:
        members = [a for a in _members(annotation) if a is not NoneType]
        inner = members[0] if len(members) == 1 else None
        if len(members) > 1 and not isinstance(part, int):
            annotation, known = None, []
            continue
        path.append(str(part))
        known, annotation = [], None
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            known = list(inner.model_fields)
            if str(part) in inner.model_fields:
                annotation = inner.model_fields[str(part)].annotation
                known = _keys(annotation)
    return path, known


def _members(annotation: Any) -> tuple[Any, ...]:
    return get_args(annotation) if get_origin(annotation) in (Union, UnionType) else (annotation,)


def _keys(annotation: Any) -> list[str]:
    models = [a for a in _members(annotation) if isinstance(a, type) and issubclass(a, BaseModel)]
    return [key for m in models for key in m.model_fields]
