"""A deliberately wrong plugin, as its author might have written it in good faith."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from pydantic import BaseModel

from siamkit.interfaces import Options


@dataclass(frozen=True)
class Mutant:
    """One wrong plugin.

    Attributes:
        name: Short and unique.
        kind: The registry it belongs to.
        build: Its build function.
        wrong: What its author got wrong.
        says: A part of the message that the kit gives; empty where it cannot be caught.
        options: Its options.
        check: Keyword arguments of the check.
    """

    name: str
    kind: str
    build: Callable[..., Any]
    wrong: str
    says: str
    options: type[BaseModel] = Options
    check: Mapping[str, Any] = field(default_factory=dict)
