"""The version of siamkit, stated only here (the build reads it), and the versions in results."""

from __future__ import annotations

VERSION = "0.1.0"


def versions() -> dict[str, str]:
    """Return the versions of siamkit, torch and timm, to be kept with a result."""
    import importlib.metadata  # slow to import, and --help needs VERSION only

    return {
        "siamkit": VERSION,
        **{name: importlib.metadata.version(name) for name in ("torch", "timm")},
    }
