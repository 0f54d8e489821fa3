"""The pixel budget: bounds how many pixels the threads of a process decode at the same time."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from typing import TypeVar

from PIL import Image

from .preprocessing import MAX_PIXELS

R = TypeVar("R")

Claim = Callable[[Image.Image], None]
"""Waits until there is room for the pixels of an opened image."""


class PixelBudget:
    """A number of pixels that threads share.

    Threads get their share in the order in which they ask, so a large image is not kept waiting by
    the small images behind it.

    Args:
        pixels: The most pixels in use at the same time. An image that has more is alone.
    """

    def __init__(self, pixels: int) -> None:
        self._pixels = pixels
        self._reset()
        if hasattr(os, "register_at_fork"):  # not on Windows
            # The threads of the parent do not exist in the child, so nobody would give back theirs.
            os.register_at_fork(after_in_child=self._reset)

    def _reset(self) -> None:
        self._turn, self._changed, self._used = threading.Lock(), threading.Condition(), 0

    def share(self, work: Callable[[Claim], R]) -> R:
        """Return what ``work`` returns, and then give its share back.

        A function, not a ``with`` block, whose variables would outlive the share: Pillow's WebP
        decoder blocks all threads, so the next image could be decoded before the last one is freed.

        Args:
            work: Opens an image, calls the function that it is given with the image, and then
                decodes and uses the image. If it calls the function again, only the last image
                counts. It must not share again, which could wait for itself.
        """
        claimed = 0

        def claim(image: Image.Image) -> None:
            nonlocal claimed
            pixels = min(image.width * image.height, self._pixels)
            with self._changed:
                self._used -= claimed
                claimed = 0
                self._changed.notify_all()
            with self._turn, self._changed:
                self._changed.wait_for(lambda: self._used + pixels <= self._pixels)
                self._used += pixels
                claimed = pixels

        try:
            return work(claim)
        finally:
            with self._changed:
                self._used -= claimed
                self._changed.notify_all()


decoded_at_once = PixelBudget(MAX_PIXELS)
"""The pixels that are decoded at the same time. They take up to 2 GB."""

# glibc keeps the freed memory of each thread, except of blocks above 32 MB. Pillow divides images
# into blocks of 16 MB, so each thread would keep the memory of its largest image.
Image.core.set_block_size(64 << 20)  # type: ignore[attr-defined]
