"""Faster imports of the heavy dependencies (torch, timm, scikit-learn)."""

import atexit
import gc
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any

HUGE_PAGES = "THP_MEM_ALLOC_ENABLE"
"""The environment variable of torch that asks Linux for huge pages for tensors of 2 MB or more."""


def _say_loading(announced: bool) -> bool:
    """Print that torch and plugins are loading; return whether to erase this line later."""
    terminal = sys.stderr.isatty() and os.environ.get("TERM") != "dumb"
    if terminal or announced:
        end = "" if terminal else "\n"
        with suppress(OSError):  # a pipe that its reader has closed
            print("loading torch and the plugins ...", end=end, file=sys.stderr, flush=True)
    return terminal


@contextmanager
def heavy_imports(*, announced: bool = False, quiet: bool = False) -> Iterator[None]:
    """Run the block's imports, then import all of siamkit.api, with the garbage collector paused.

    Meanwhile, a line on a terminal says that torch and the plugins are loading. On Linux, torch
    will ask for huge pages for its tensors, unless the user's environment says otherwise. It will
    compute with as many threads as there are free cores, or as the user asked for.

    Importing torch creates a million objects that live as long as the process. The collector
    would scan them repeatedly, during the import and again at exit, which takes a third of the
    whole import time.

    Args:
        announced: Whether to print the line even if stderr is not a terminal, for commands that
            log their work.
        quiet: Whether to say nothing about the number of threads.
    """
    if "torch" in sys.modules or not gc.isenabled():
        yield
        return
    # torch reads this before its first tensor. With huge pages, the system clears the memory of a
    # new tensor with far fewer interruptions.
    os.environ.setdefault(HUGE_PAGES, "1")
    from siamkit import api
    from siamkit.cli.cores import set_threads
    from siamkit.portable.cores import Usage

    before = Usage.now()
    gc.disable()
    shown = _say_loading(announced)
    try:
        yield
        api.load_all()
    finally:
        if shown:
            print("\r\033[K", end="", file=sys.stderr, flush=True)
        gc.enable()
        gc.freeze()
        atexit.register(gc.freeze)
    set_threads(before, quiet=quiet)


def api_of(model: Path) -> Any:
    """Return ``siamkit.api``, to run a model. Import torch now if the model needs it.

    Args:
        model: The directory of a run, which needs torch, or of an exported model, which needs it
            only in the formats torch and timm.
    """
    from siamkit.inference import exported

    return _api(torch=not exported.runs_here(model))


def api_of_index(index: Path, model: Path | None) -> Any:
    """Return ``siamkit.api``, to search an index. Import torch now if the model needs it.

    Args:
        index: The folder of the index.
        model: The run or the exported model that the user gave; None: the one that built the index.
    """
    from siamkit.inference import exported

    return _api(torch=not exported.searches(index, model))


def _api(*, torch: bool) -> Any:
    with heavy_imports() if torch else nullcontext():
        from siamkit import api
    return api
