"""The phase decision: how the engine computes a phase, and the numbers behind it.

A phase is a span of epochs with one freeze plan. The decision is part of a run's state, so that a
resumed run continues in the same way.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any, Literal

Mode = Literal["cached", "live", "whole"]


@dataclass(frozen=True)
class PhaseDecision:
    """How a phase is computed.

    The *prefix* is the frozen first part of the network, and a *row* is its output for one image in
    one view (augmented version). A *kernel* is an implementation of the prefix.

    Attributes:
        mode: ``cached`` (the prefix's outputs are stored and read), ``live`` (the prefix runs for
            every batch) or ``whole`` (the network is not split).
        reason: The reason for the mode, in a few words.
        boundary: The last stage or block of the prefix; None if ``whole``.
        module: The module whose output ends the prefix; None if ``whole``.
        rejected_boundaries: The reasons why the prefix does not reach deeper.
        kernel: The name of the kernel that runs the prefix; None while no row must be computed.
        kernels: Seconds per image of each measured kernel.
        setup_seconds: Seconds for building and first running each measured kernel.
        rejected: The reason why each other kernel was not tried or not used.
        views: Views per training image; None for a new view in every epoch.
        dtype: Type of the cached rows; None if ``whole``.
        rows: Number of different rows that the rest of the phase needs.
        missing: Number of these rows that the cache does not hold when the decision is made.
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
