"""Cache keys: the size of the key by which the engine caches one view of one image."""

from __future__ import annotations

KEY_BYTES = 16
"""Bytes in a key."""
