"""Faster imports of the heavy dependencies (torch, timm, scikit-learn)."""

from __future__ import annotations

import atexit
import gc
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress


def _say_loading(announced: bool) -> bool:
    """Say what takes the first seconds; return whether it must be wiped away later."""
    terminal = sys.stderr.isatty() and os.environ.get("TERM") != "dumb"
    if terminal or announced:
        end = "" if terminal else "\n"
        with suppress(OSError):  # a reader that has left
            print("loading torch and the plugins ...", end=end, file=sys.stderr, flush=True)
    return terminal


@contextmanager
def heavy_imports(*, announced: bool = False) -> Iterator[None]:
    """Say that a block of imports takes a while, and stop the garbage collector within it.

    Importing torch creates a million objects that live as long as the process. The collector
    would scan them repeatedly, during the import and again at exit, which takes a third of the
    whole import time.

    Args:
        announced: Say so in pipes too, for commands that log what they do.
    """
    if "torch" in sys.modules or not gc.isenabled():
        yield
        return
    gc.disable()
    shown = _say_loading(announced)
    try:
        yield
    finally:
        if shown:
            print("\r\033[K", end="", file=sys.stderr, flush=True)
        gc.enable()
        gc.freeze()
        atexit.register(gc.freeze)
