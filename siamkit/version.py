"""The version of siamkit, stated once (the build reads it here), and what a result is made with."""

from __future__ import annotations

import importlib.metadata

VERSION = "0.1.0"


def versions() -> dict[str, str]:
    """Return the versions that are kept with a result: of siamkit, torch and timm."""
    return {
        "siamkit": VERSION,
        **{name: importlib.metadata.version(name) for name in ("torch", "timm")},
    }
