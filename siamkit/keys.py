"""The key of one view of one image: by it the data names what the engine's cache keeps."""

from __future__ import annotations

KEY_BYTES = 16
"""Bytes in a key."""
