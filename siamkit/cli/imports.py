"""Faster imports of the heavy dependencies (torch, timm, scikit-learn)."""

import atexit
import gc
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any


def _say_loading(announced: bool) -> bool:
    """Print that torch and plugins are loading; return whether to erase this line later."""
    terminal = sys.stderr.isatty() and os.environ.get("TERM") != "dumb"
    if terminal or announced:
        end = "" if terminal else "\n"
        with suppress(OSError):  # a pipe that its reader has closed
            print("loading torch and the plugins ...", end=end, file=sys.stderr, flush=True)
    return terminal


@contextmanager
def heavy_imports(*, announced: bool = False) -> Iterator[None]:
    """Print that the imports of the block take a while, and pause the garbage collector meanwhile.

    Importing torch creates a million objects that live as long as the process. The collector
    would scan them repeatedly, during the import and again at exit, which takes a third of the
    whole import time.

    Args:
        announced: Print this also if stderr is not a terminal, for commands that log their work.
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


def api_of(model: Path) -> Any:
    """Return the module whose functions run a model: ``siamkit.api`` for a run.

    For an exported model, it is a module with the same functions, whose import needs no torch.
    """
    from siamkit.inference import exported

    return exported if exported.runs_here(model) else _api()


def api_of_index(index: Path, model: Path | None) -> Any:
    """Return the module whose ``search`` searches an index; see :func:`api_of`.

    Args:
        index: The index.
        model: The run or the exported model that the user gave; None for the one of the index.
    """
    from siamkit.inference import exported

    return exported if exported.searches(index, model) else _api()


def _api() -> Any:
    with heavy_imports():
        from siamkit import api
    return api
