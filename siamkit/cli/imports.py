"""Faster imports of the heavy dependencies (torch, timm, scikit-learn)."""

from __future__ import annotations

import atexit
import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def heavy_imports() -> Iterator[None]:
    """Stop the garbage collector during a block of imports, and exempt the imported objects.

    Importing torch creates a million objects that live as long as the process. The collector
    would scan them repeatedly, during the import and again at exit, which takes a third of the
    whole import time.
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
