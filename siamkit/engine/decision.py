"""The phase decision: how a phase is computed, and the numbers that decided it.

It is part of a run's state, so that a resumed run goes on as it began.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any, Literal

Mode = Literal["cached", "live", "whole"]


@dataclass(frozen=True)
class PhaseDecision:
    """How a phase is computed.

    Attributes:
        mode: ``cached``, ``live`` (the prefix runs for every batch) or ``whole`` (no cut).
        reason: Why, in a few words.
        boundary: The last stage or block of the prefix; None if ``whole``.
        module: The boundary's module; None if ``whole``.
        passed_over: Why deeper boundaries are not used.
        kernel: The kernel that runs the prefix; None while nothing has to be computed.
        kernels: Seconds per image of each kernel that was measured.
        setup_seconds: Seconds that building and first running each of them took.
        rejected: Why each kernel that was not tried or not used was left out.
        views: Views per training image; None for a new one every epoch.
        dtype: Type of the cached rows; None if ``whole``.
        rows: Rows that the rest of the phase reads.
        missing: Those of ``rows`` that the cache did not hold.
        row_bytes: Bytes per row.
        bytes: Bytes of all ``rows``.
        decode_seconds: Seconds to load an image.
        prefix_seconds: Seconds per image in the prefix.
        suffix_seconds: Seconds per image in the suffix, backward included.
        live: Estimated seconds for the rest of the phase without a cache.
        cached: The same with it.
    """

    mode: Mode
    reason: str
    boundary: str | None = None
    module: str | None = None
    passed_over: tuple[str, ...] = ()
    kernel: str | None = None
    kernels: Mapping[str, float] = field(default_factory=dict)
    setup_seconds: Mapping[str, float] = field(default_factory=dict)
    rejected: Mapping[str, str] = field(default_factory=dict)
    views: int | None = None
    dtype: str | None = None
    rows: int = 0
    missing: int = 0
    row_bytes: int = 0
    bytes: int = 0
    decode_seconds: float = 0.0
    prefix_seconds: float = 0.0
    suffix_seconds: float = 0.0
    live: float = 0.0
    cached: float = 0.0

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> PhaseDecision:
        """Return the decision that :meth:`to_json` gave; keys that it doesn't know are left out."""
        known = {f.name: values[f.name] for f in fields(cls) if f.name in values}
        known["passed_over"] = tuple(known.get("passed_over", ()))
        return cls(**known)

    def to_json(self) -> dict[str, Any]:
        """Return the fields as JSON values."""
        return {**asdict(self), "passed_over": list(self.passed_over)}

    def falling_back(self, mode: Mode, reason: str) -> PhaseDecision:
        """Return the decision to compute the rest of the phase in a plainer way."""
        if mode == "whole":
            return PhaseDecision(mode, reason, views=self.views)
        return replace(self, mode=mode, reason=reason)
