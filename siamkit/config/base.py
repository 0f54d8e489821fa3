"""The base classes of the sections of a configuration."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    BeforeValidator,
    ConfigDict,
    model_validator,
)

from siamkit.files import is_too_long
from siamkit.options import Checked

SAMPLE = "sample"
"""The data path that stands for the built-in image set."""

Values = dict[str, Any]


def expanded(path: Path) -> Path:
    """Return a path with ``~`` replaced by the home directory; an unknown ``~user`` stays.

    Raises:
        ValueError: The path contains a NUL character or is too long.
    """
    if "\0" in str(path):
        raise ValueError("must not contain a NUL character")
    if is_too_long(path):
        raise ValueError("must not be longer than the system allows")
    return Path(os.path.expanduser(path))  # noqa: PTH111 - pathlib raises for an unknown ~user


def absolute(path: Path) -> Path:
    """Return ``path`` as an absolute path, which does not depend on the current folder.

    Raises:
        ValueError: The path contains a NUL character or is too long.
    """
    return Path(os.path.normpath(expanded(path).absolute()))


def _given(path: Any) -> Any:
    if path == "":  # an unset shell variable gives "", which would mean the current folder
        raise ValueError("must not be empty")
    return path


GivenPath = Annotated[Path, BeforeValidator(_given)]

AbsolutePath = Annotated[GivenPath, AfterValidator(absolute)]


class Section(Checked):
    """The base class of config sections. Sections are immutable, and unknown keys are errors."""

    model_config = ConfigDict(extra="forbid")


class Component(Checked):
    """The base class of sections such as ``loss``: a registered name and the options for it."""

    model_config = ConfigDict(extra="allow")

    name: str

    @model_validator(mode="before")
    @classmethod
    def _from_string(cls, value: Any) -> Any:
        return {"name": value} if isinstance(value, str) else value

    @property
    def options(self) -> Values:
        """The options for the registered name: the keys that are not fields of the section."""
        return dict(self.model_extra or {})
