"""Descriptions of a pydantic model's fields: type, default, bounds, meaning."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from siamkit.config import Component

_BOUNDS = {
    "gt": "> {}",
    "ge": ">= {}",
    "lt": "< {}",
    "le": "<= {}",
    "multiple_of": "multiple of {}",
    "min_length": "at least {} long",
    "max_length": "at most {} long",
}


def describe_options(model: type[BaseModel]) -> list[dict[str, Any]]:
    """Return a description of each field of ``model``, as JSON values."""
    defaults = model.model_construct().model_dump(mode="json", warnings=False)
    return [
        {
            "name": name,
            "type": type_name(field.annotation),
            "required": field.is_required(),
            "default": defaults.get(name),
            "bounds": bounds(field),
            "meaning": field.description or "",
        }
        for name, field in model.model_fields.items()
    ]


def bounds(field: FieldInfo) -> str:
    """Return the limits of a field's values, such as ``> 0, <= 1``."""
    limits = [
        text.format(value)
        for constraint in field.metadata
        for key, text in _BOUNDS.items()
        if (value := getattr(constraint, key, None)) is not None
    ]
    return ", ".join(limits)


def type_name(annotation: Any) -> str:
    """Return a type as a user would write its values: ``float``, ``all | hard``, ``int | null``."""
    origin, args = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return type_name(args[0])
    if origin is Literal:
        return " | ".join("null" if a is None else str(a) for a in args)
    if origin in (Union, UnionType):
        return " | ".join(type_name(a) for a in args)
    if origin in (tuple, list, set, frozenset) or annotation in (tuple, list):
        inner = [type_name(a) for a in args if a is not Ellipsis]
        one_kind = origin is not tuple or Ellipsis in args
        return f"list of {inner[0]}" if one_kind and inner else f"[{', '.join(inner)}]"
    if origin is not None:
        return "mapping"
    if annotation in (None, NoneType):
        return "null"
    if isinstance(annotation, type) and issubclass(annotation, Component):
        return "name"
    if isinstance(annotation, type) and issubclass(annotation, Enum):
        return " | ".join(str(member.value) for member in annotation)
    plain = {bool: "true | false", str: "text", Path: "path"}
    return str(plain.get(annotation) or getattr(annotation, "__name__", annotation))
