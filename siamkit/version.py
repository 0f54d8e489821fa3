"""The version of siamkit, which the build reads too, and the versions that results record."""

from __future__ import annotations

VERSION = "0.1.0"


def versions() -> dict[str, str]:
    """Return the versions of siamkit, torch and timm. Results record them."""
    import importlib.metadata  # slow to import, and --help needs VERSION only

    return {
        "siamkit": VERSION,
        **{name: importlib.metadata.version(name) for name in ("torch", "timm")},
    }
