"""Quiet: suppresses the output of exporters and compilers."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Suppress warnings, log records below errors, and printed text within the block.

    Such output is about the libraries' internals. The user only needs to know whether the kernel
    runs and agrees with the network, which is checked.
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
