"""Options: the base of every plugin's options. Importing it does not import torch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, get_args

from pydantic import BaseModel, ConfigDict, ValidationInfo, field_validator


class Checked(BaseModel):
    """Base class of models of user values. They refuse NaN, infinity and booleans as numbers."""

    model_config = ConfigDict(frozen=True, validate_default=True, allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _no_boolean_as_a_number(cls, value: Any, info: ValidationInfo) -> Any:
        # pydantic reads true as 1. It converts text and whole floats exactly, so these are allowed.
        types = set(types_in(cls.model_fields[info.field_name or ""].annotation))
        if types & {int, float} and bool not in types and _holds_boolean(value):
            raise ValueError("must be a number, not true or false")
        return value


class Options(Checked):
    """Base class of a plugin's options. They are immutable, and unknown keys are errors."""

    model_config = ConfigDict(extra="forbid")


def types_in(annotation: Any) -> Iterator[Any]:
    """Yield an annotation and the annotations in it, such as ``int`` in ``list[int] | None``."""
    yield annotation
    for inner in get_args(annotation):
        yield from types_in(inner)


def _holds_boolean(value: Any) -> bool:
    if isinstance(value, Mapping):
        return any(map(_holds_boolean, value.values()))
    if isinstance(value, list | tuple):
        return any(map(_holds_boolean, value))
    return type(value).__name__ == "bool"  # numpy's too
