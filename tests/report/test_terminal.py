import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from siamkit.report.terminal import make_console, make_table, whole
from siamkit.words import printable

from .conftest import Terminal


@pytest.mark.parametrize("text", ["[bold]x[/bold]", "[/bold]", "[task1]", ":smile:", "a \\[b]"])
def test_a_console_reads_no_markup(text):
    for stream in (io.StringIO(), Terminal()):
        console = make_console(stream)
        console.print(text)
        table = make_table(text)
        table.add_row(text)
        console.print(table)
        assert stream.getvalue().count(text) == 3


@pytest.mark.parametrize("kind", [io.StringIO, Terminal])
def test_numbers_and_paths_get_no_colour_of_their_own(monkeypatch, kind):
    monkeypatch.setenv("FORCE_COLOR", "1")
    stream = kind()
    make_console(stream).print("epoch 3 of runs/a: True")
    assert stream.getvalue() == "epoch 3 of runs/a: True\n"


def test_a_pipe_is_as_wide_as_it_must_be_unless_columns_says(monkeypatch):
    long = "x" * 500
    console = make_console(io.StringIO())
    console.print(long)
    assert console.file.getvalue() == long + "\n"
    monkeypatch.setenv("COLUMNS", "40")
    assert make_console(io.StringIO()).width == 40
    monkeypatch.setenv("COLUMNS", "nonsense")
    assert make_console(io.StringIO()).width > 500


@given(st.text())
def test_what_is_printable_has_no_control_characters_and_stays_readable(text):
    shown = printable(text)
    assert all(c.isprintable() or c == "\n" for c in shown)
    if all(c.isprintable() or c == "\n" for c in text):
        assert shown == text


def test_a_pipe_gets_no_blanks_at_the_ends_of_lines():
    stream = io.StringIO()
    table = make_table("name", "meaning")
    table.add_row("a", "b")
    table.add_row("a longer name", "and a longer meaning")
    make_console(stream).print(table)
    assert "a longer name   and a longer meaning" in stream.getvalue()
    assert all(line == line.rstrip() for line in stream.getvalue().splitlines())


def test_a_line_with_a_path_is_never_broken():
    path = "runs/" + "a" * 200
    for stream in (io.StringIO(), Terminal()):
        make_console(stream).print(whole(f"written to {path}"), crop=False)
        assert path in stream.getvalue()
