"""Keeping the chatter of exporters and compilers away from the user's streams."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Drop warnings, log records below errors, and whatever is printed, while this lasts.

    The libraries talk about their own internals here. What matters to the user is whether the
    kernel runs and agrees with the network, and that is checked.
    """
    before = logging.root.manager.disable
    logging.disable(max(before, logging.WARNING))
    sink = io.StringIO()
    try:
        with (
            warnings.catch_warnings(),
            contextlib.redirect_stdout(sink),
            contextlib.redirect_stderr(sink),
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
