"""Imports of the heavy half of siamkit (torch, timm, scikit-learn) in less time."""

from __future__ import annotations

import atexit
import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def heavy_imports() -> Iterator[None]:
    """Keep the garbage collector out of a block of imports, and of what they leave for good.

    Importing torch makes a million objects that live as long as the process. Looking through them
    again and again, while they are made and once more as the process ends, takes a third of the
    time that all of it takes.
    """
    if "torch" in sys.modules or not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
        gc.freeze()
        atexit.register(gc.freeze)
