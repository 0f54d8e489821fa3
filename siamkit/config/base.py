"""What every section of the configuration is made of."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    model_validator,
)

SAMPLE = "sample"
"""The data path that stands for the built-in image set."""

Values = dict[str, Any]


def expanded(path: Path) -> Path:
    """Put the home directory in the place of ``~``; ``~nobody`` stays a name like others."""
    if "\0" in str(path):
        raise ValueError("must not hold a NUL character")
    return Path(os.path.expanduser(path))  # noqa: PTH111 - pathlib's raises for ~nobody


def absolute(path: Path) -> Path:
    """Make a path independent of where the config is read next."""
    return Path(os.path.normpath(expanded(path).absolute()))


AbsolutePath = Annotated[Path, AfterValidator(absolute)]


class Section(BaseModel):
    """Base of every section: immutable, unknown keys, NaN and infinity are errors."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", validate_default=True, allow_inf_nan=False
    )


class Component(BaseModel):
    """A registered name and that entry's options."""

    model_config = ConfigDict(
        frozen=True, extra="allow", validate_default=True, allow_inf_nan=False
    )

    name: str

    @model_validator(mode="before")
    @classmethod
    def _from_string(cls, value: Any) -> Any:
        return {"name": value} if isinstance(value, str) else value

    @property
    def options(self) -> Values:
        """The entry's options: every key that isn't the section's own."""
        return dict(self.model_extra or {})
