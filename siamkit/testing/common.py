"""What the checks share: entries, what raises, random numbers, histories."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Literal

import torch
from pydantic import BaseModel, ValidationError

from siamkit import plugins
from siamkit.registry import Entry

Kind = Literal["backbones", "freeze_policies", "losses", "schedulers", "trackers"]
Values = Mapping[str, Any]


class Expect:
    """Raises ``AssertionError`` that says of what, what was expected, and what came."""

    def __init__(self, subject: str) -> None:
        self.subject = subject

    def __call__(self, holds: bool, expected: str, got: object) -> None:
        """Raise unless it holds."""
        if not holds:
            raise self.failure(expected, got)

    def within(self, detail: str) -> Expect:
        """Return one that says of which part, too."""
        return Expect(f"{self.subject}: {detail}")

    def failure(self, expected: str, got: object) -> AssertionError:
        """Return the error."""
        return AssertionError(f"{self.subject}: expected {expected}; got {got}")


def checked_entry(
    kind: Kind, singular: str, name: str, values: Values | None
) -> tuple[Entry, BaseModel, Expect]:
    """Return the entry, its options, which are checked too, and what raises for it."""
    entry = plugins.get().registries[kind].get(name)
    expect = Expect(f"{singular} {name!r} of {entry.distribution}")
    required = sorted(n for n, f in entry.options.model_fields.items() if f.is_required())
    missing = [option for option in required if option not in (values or {})]
    expect(
        not missing, f"options={{...}} with values for {required}, which have no defaults", values
    )
    validated = entry.validate(values or {}, name)
    config = entry.options.model_config
    shaped = config.get("frozen") is True and config.get("extra") == "forbid"
    expect(shaped, "options that are frozen and forbid extras: derive from siamkit.Options", config)
    text = validated.model_dump_json()
    try:
        same = type(validated).model_validate_json(text) == validated
    except ValidationError:
        same = False
    expect(same, "options that survive JSON, as resume and `train --config` need", text)
    return entry, validated, expect


@contextmanager
def seeded() -> Iterator[None]:
    """Draw the same numbers each time, and leave the caller's generator alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


def histories(epochs: int) -> dict[str, tuple[dict[str, float], ...]]:
    """Return validation histories of a run that gets better and of one that does not."""
    return {
        "rising": tuple({"recall@1": e / epochs, "map@r": e / epochs} for e in range(epochs)),
        "flat": tuple({"recall@1": 0.5, "map@r": 0.5} for _ in range(epochs)),
    }
