"""Reprs, and whether and where progress is shown."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
from rich.table import Table

from siamkit.showing import Bar, RichRepr, TextRepr, in_notebook, mute, shown


def shell_of(name: str) -> SimpleNamespace:
    """Return a module ``IPython`` whose shell has this class."""
    return SimpleNamespace(get_ipython=type(name, (), {}))


NOTEBOOK = "ZMQInteractiveShell"


@pytest.mark.parametrize("terminal", [True, False])
@pytest.mark.parametrize("notebook", [True, False])
def test_progress_is_shown_in_a_terminal_or_a_notebook(
    monkeypatch: pytest.MonkeyPatch, terminal: bool, notebook: bool
) -> None:
    name = NOTEBOOK if notebook else "TerminalInteractiveShell"
    monkeypatch.setitem(sys.modules, "IPython", shell_of(name))  # type: ignore[misc]
    monkeypatch.setattr(sys.stderr, "isatty", lambda: terminal, raising=False)
    assert in_notebook() is notebook
    assert shown(None) is (terminal or notebook)
    assert shown(True) is True and shown(False) is False


@pytest.mark.parametrize("notebook", [True, False])
def test_a_bar_is_drawn_on_stderr_or_in_a_notebooks_output(
    monkeypatch: pytest.MonkeyPatch, notebook: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "IPython", shell_of(NOTEBOOK if notebook else "None"))  # type: ignore[misc]
    monkeypatch.setenv("FORCE_COLOR", "1")  # rich takes both streams for terminals
    monkeypatch.setenv("TERM", "xterm")
    with Bar("embed", visible=True) as bar:
        bar(0, 40)
        bar(30, 40)
    out, err = capsys.readouterr()
    drawn, other = (out, err) if notebook else (err, out)
    assert "embed" in drawn and "30/40" in drawn and not other
    assert drawn.rindex("\x1b[?25h") > drawn.rindex("\x1b[?25l"), "the cursor is shown again"


def test_a_bar_that_is_not_visible_or_never_begins_draws_nothing(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    with Bar("embed", visible=False) as bar:
        bar(3, 4)
    with Bar("embed", visible=True):
        pass
    assert capsys.readouterr() == ("", "")


class Words(TextRepr):
    def __repr__(self) -> str:
        return "a < b\n[red]c"


class Rows(RichRepr):
    def __rich__(self) -> Table:
        table = Table("[b]name", "x" * 80)
        table.add_row(":smile:", "1")
        return table


def test_an_object_is_text_in_a_terminal_and_escaped_in_a_notebook() -> None:
    assert Words()._repr_html_() == "<pre>a &lt; b\n[red]c</pre>"
    text, page = repr(Rows()), Rows()._repr_html_()
    assert "[b]name" in text and ":smile:" in text and "\x1b" not in text
    assert all(line == line.rstrip() for line in text.splitlines()) and "x" * 80 in text
    assert page.startswith("<pre>") and "[b]name" in page and "x" * 80 in page


def test_a_table_that_is_wider_than_a_terminal_is_not_cut_at_its_width(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    assert max(map(len, repr(Rows()).splitlines())) <= 100
    assert "x" * 80 in repr(Rows())


@pytest.mark.parametrize("open_stream", [io.StringIO, None], ids=["none", "a file's"])
def test_a_muted_stream_swallows_what_comes(
    tmp_path: Path, open_stream: Callable[[], io.StringIO] | None
) -> None:
    if open_stream is not None:
        mute(open_stream())  # has no descriptor, and nothing happens
        return
    path = tmp_path / "out"
    with path.open("w") as stream:
        stream.write("before")
        stream.flush()
        mute(stream)
        stream.write("after")
    assert path.read_text() == "before"
