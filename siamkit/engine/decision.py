"""The phase decision: how a phase is computed, and the numbers behind it.

The decision is part of a run's state, so that a resumed run continues in the same way.
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
        reason: The reason, in a few words.
        boundary: The last stage or block of the prefix; None if ``whole``.
        module: The boundary's module; None if ``whole``.
        rejected_boundaries: The reasons why deeper boundaries are not used.
        kernel: The kernel that runs the prefix; None while nothing must be computed.
        kernels: Seconds per image of each measured kernel.
        setup_seconds: Seconds for building and first running each measured kernel.
        rejected: The reason why each other kernel was not tried or not used.
        views: Views per training image; None for a new view in every epoch.
        dtype: Type of the cached rows; None if ``whole``.
        rows: Number of rows that the rest of the phase reads.
        missing: Number of those rows that the cache did not hold.
        row_bytes: Bytes per row.
        bytes: Bytes of all ``rows``.
        decode_seconds: Seconds to load an image.
        prefix_seconds: Seconds per image in the prefix.
        suffix_seconds: Seconds per image in the suffix, backward included.
        live: Estimated seconds for the rest of the phase without a cache.
        cached: Estimated seconds for the rest of the phase with a cache.
        spread: The relative uncertainty of both estimates.
    """

    mode: Mode
    reason: str
    boundary: str | None = None
    module: str | None = None
    rejected_boundaries: tuple[str, ...] = ()
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
    spread: float = 0.0

    @property
    def keeps_exact_rows(self) -> bool:
        """Whether the phase is cached in float32, so that rows are as exact as the network."""
        return self.mode == "cached" and self.dtype == "float32"

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> PhaseDecision:
        """Return the decision that :meth:`to_json` described; unknown keys are ignored."""
        known = {f.name: values[f.name] for f in fields(cls) if f.name in values}
        known["rejected_boundaries"] = tuple(known.get("rejected_boundaries", ()))
        return cls(**known)

    def to_json(self) -> dict[str, Any]:
        """Return the fields as JSON values."""
        return {**asdict(self), "rejected_boundaries": list(self.rejected_boundaries)}

    def falling_back(self, mode: Mode, reason: str) -> PhaseDecision:
        """Return the decision to compute the rest of the phase in a simpler mode."""
        if mode == "whole":
            return PhaseDecision(mode, reason, views=self.views)
        return replace(self, mode=mode, reason=reason)
