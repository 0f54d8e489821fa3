"""Whether progress is shown."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import pytest

from siamkit.showing import in_notebook, shown


@pytest.mark.parametrize("terminal", [True, False])
@pytest.mark.parametrize("notebook", [True, False])
def test_progress_is_shown_in_a_terminal_or_a_notebook(
    monkeypatch: pytest.MonkeyPatch, terminal: bool, notebook: bool
) -> None:
    shell = type("ZMQInteractiveShell" if notebook else "TerminalInteractiveShell", (), {})()
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: shell))  # type: ignore[misc]
    monkeypatch.setattr(sys.stderr, "isatty", lambda: terminal, raising=False)
    assert in_notebook() is notebook
    assert shown(None) is (terminal or notebook)
    assert shown(True) is True and shown(False) is False
