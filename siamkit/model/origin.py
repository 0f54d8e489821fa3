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
    """A backbone or a head by name.

    Attributes:
        name: Its name, such as ``timm:resnet18``.
        options: Its options.
        distribution: The distribution that registered it.
        version: That distribution's version; None where it is no installed one.
    """

    name: str
    options: Mapping[str, Any]
    distribution: str
    version: str | None

    @classmethod
    def of(cls, name: str, entry: Entry, options: BaseModel) -> NamedPart:
        """Return what was built by an entry with these options."""
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
        image_size: Pixels a side that were asked for; None for the backbone's own.
        weights: In words, where the backbone's weights came from; None where they were replaced.
    """

    backbone: NamedPart
    head: NamedPart
    image_size: int | None
    weights: str | None
