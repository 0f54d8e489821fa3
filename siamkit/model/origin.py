"""The origin of a network: the registered entries and the options that it was built from."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel

from siamkit.registry import Entry


@dataclass(frozen=True)
class NamedPart:
    """A backbone or a head that a registered entry built.

    Attributes:
        name: The entry's name, such as ``timm:resnet18``.
        options: The options of the backbone or head.
        distribution: The distribution that registered the entry.
        version: The version of the distribution; None if no such distribution is installed.
    """

    name: str
    options: Mapping[str, Any]
    distribution: str
    version: str | None

    @classmethod
    def of(cls, name: str, entry: Entry, options: BaseModel) -> NamedPart:
        """Return the record of a backbone or head that ``entry`` built with ``options``."""
        version = None
        with suppress(importlib.metadata.PackageNotFoundError):
            version = importlib.metadata.version(entry.distribution)
        return cls(name, options.model_dump(mode="json"), entry.distribution, version)


@dataclass(frozen=True)
class Origin:
    """The names and options that a network was built from.

    Attributes:
        backbone: The backbone.
        head: The head.
        image_size: The requested image size in pixels per side; None for the backbone's own size.
        weights: A text about the origin of the backbone's weights; None if they were replaced.
    """

    backbone: NamedPart
    head: NamedPart
    image_size: int | None
    weights: str | None
