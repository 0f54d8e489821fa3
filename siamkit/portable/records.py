"""Records: reads dataclasses from JSON values, strictly.

A field accepts exactly the values of its type: no text for a number, no missing or unknown key, no
NaN, no number out of bounds. Pydantic would do this too, but siamkit-runtime does without it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields, is_dataclass
from functools import cache
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

T = TypeVar("T")


class Invalid(ValueError):
    """A value that a record does not accept.

    Args:
        key: The dotted key of the value; empty for the record itself.
        problem: What is wrong with the value.
    """

    def __init__(self, key: str, problem: str) -> None:
        self.key, self.problem = key, problem
        super().__init__(f"{key}: {problem}" if key else problem)


@dataclass(frozen=True)
class Within:
    """The bounds of a number, as an annotation: ``Annotated[int, Within(1)]``.

    Attributes:
        least: The smallest number.
        most: The largest number.
        above: A number that the value must exceed.
    """

    least: float = -math.inf
    most: float = math.inf
    above: float = -math.inf

    def check(self, value: Any, key: str) -> None:
        """Raise Invalid if a number is out of bounds."""
        if not (self.least <= value <= self.most and value > self.above):
            raise Invalid(key, f"is out of bounds: {value!r}")


@dataclass(frozen=True)
class Matches:
    """The pattern of a text, as an annotation: ``Annotated[str, Matches("[a-z]+")]``.

    Attributes:
        pattern: A regular expression for the whole text.
    """

    pattern: str

    def check(self, value: Any, key: str) -> None:
        """Raise Invalid if a text does not match."""
        if not re.fullmatch(self.pattern, value):
            raise Invalid(key, f"is malformed: {value!r}")


@dataclass(frozen=True)
class NotEmpty:
    """A list or a mapping has at least one item, as an annotation."""

    def check(self, value: Any, key: str) -> None:
        """Raise Invalid if there is no item."""
        if not value:
            raise Invalid(key, "is empty")


def record(kind: type[T], values: Any, key: str = "") -> T:
    """Return a dataclass from the JSON object of its fields.

    Types: None, bool, int, float, str, Literal, Any, unions, tuples, mappings from str,
    dataclasses, and these in ``Annotated`` with the checks of this module.

    Args:
        kind: The dataclass.
        values: The JSON object.
        key: The dotted key of the object, for errors.

    Raises:
        Invalid: A key is missing or unknown, or a value is not of the field's type.
    """
    if not isinstance(values, Mapping):
        raise Invalid(key, "is not an object")
    fields_of: Any = kind
    types, prefix = _types(fields_of), f"{key}." if key else ""
    if unknown := sorted(set(values) - set(types)):
        raise Invalid(f"{prefix}{unknown[0]}", "is an unknown key")
    given = {}
    for field in fields(fields_of):
        if field.name in values:
            inner = f"{prefix}{field.name}"
            given[field.name] = _value(types[field.name], values[field.name], inner)
        elif field.default is MISSING and field.default_factory is MISSING:
            raise Invalid(f"{prefix}{field.name}", "is missing")
    return kind(**given)


@cache
def _types(kind: Any) -> dict[str, Any]:
    hints = get_type_hints(kind, include_extras=True)
    return {field.name: hints[field.name] for field in fields(kind)}


def _value(kind: Any, value: Any, key: str) -> Any:
    origin, inner = get_origin(kind), get_args(kind)
    if origin is Annotated:
        result = _value(inner[0], value, key)
        for check in inner[1:]:
            check.check(result, key)
        return result
    if origin in (UnionType, Union):
        return _one_of(inner, value, key)
    if origin is Literal:
        if not any(value == one and type(value) is type(one) for one in inner):
            allowed = ", ".join(map(str, inner))
            raise Invalid(key, f"must be one of {allowed}, and is {value!r}")
        return value
    if origin is tuple:
        return _tuple(inner, value, key)
    if isinstance(origin, type) and issubclass(origin, Mapping):
        if not isinstance(value, Mapping):
            raise Invalid(key, "is not an object")
        return {name: _value(inner[1], one, f"{key}.{name}") for name, one in value.items()}
    if kind is Any:
        return value
    if is_dataclass(kind):
        return record(kind, value, key)  # type: ignore[arg-type]
    return _plain(kind, value, key)


def _plain(kind: Any, value: Any, key: str) -> Any:
    number = isinstance(value, int) and not isinstance(value, bool)
    if kind is float and (number or isinstance(value, float)):
        try:
            value = float(value)
        except OverflowError:
            value = math.inf
        if not math.isfinite(value):
            raise Invalid(key, "is not a finite number")
        return value
    if number if kind is int else kind is not float and isinstance(value, kind):
        return value
    names = {NoneType: "null", bool: "true or false", int: "a whole number", float: "a number",
             str: "text"}  # fmt: skip
    raise Invalid(key, f"must be {names[kind]}, and is {value!r}")


def _one_of(kinds: tuple[Any, ...], value: Any, key: str) -> Any:
    problems = []
    for kind in kinds:
        try:
            return _value(kind, value, key)
        except Invalid as problem:
            if kind is not NoneType:  # that it is not null, everybody sees
                problems.append(problem)
    raise problems[0]


def _tuple(inner: tuple[Any, ...], value: Any, key: str) -> tuple[Any, ...]:
    if not isinstance(value, list | tuple):
        raise Invalid(key, "is not a list")
    if len(inner) == 2 and inner[1] is Ellipsis:
        inner = (inner[0],) * len(value)
    if len(value) != len(inner):
        raise Invalid(key, f"must have {len(inner)} items, and has {len(value)}")
    return tuple(
        _value(kind, one, f"{key}.{number}")
        for number, (kind, one) in enumerate(zip(inner, value, strict=True))
    )
