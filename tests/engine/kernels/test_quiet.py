from __future__ import annotations

import logging
import sys
import warnings

import pytest

from siamkit.engine.kernels.quiet import quiet


def test_nothing_gets_out_but_errors(capsys: pytest.CaptureFixture[str]) -> None:
    logger = logging.getLogger("an.exporter")
    handler = logging.StreamHandler(sys.stderr)  # as torch's do, it holds the stream of before
    logger.addHandler(handler)
    try:
        with quiet():
            print("exporting")
            print("exporting", file=sys.stderr)
            warnings.warn("an internal matter", stacklevel=1)
            logger.warning("an internal matter")
            logger.error("this matters")
    finally:
        logger.removeHandler(handler)
    assert capsys.readouterr() == ("", "this matters\n")


def test_everything_is_as_before_afterwards(capsys: pytest.CaptureFixture[str]) -> None:
    before = logging.root.manager.disable
    with pytest.raises(ZeroDivisionError), quiet():
        _ = 1 / 0
    assert logging.root.manager.disable == before
    print("heard")
    assert capsys.readouterr().out == "heard\n"
    with pytest.warns(UserWarning, match="heard"):
        warnings.warn("heard", stacklevel=1)
