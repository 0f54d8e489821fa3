"""The output of the command line: results on stdout, everything else on stderr."""

from __future__ import annotations

import io
import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, TextIO

import typer

from siamkit.showing import mute
from siamkit.words import printable

if TYPE_CHECKING:
    from rich.console import RenderableType

    from siamkit.errors import SiamkitError


_INTERVAL = 10.0  # seconds between two lines about progress

_reserved: TextIO | None = None


def stdout() -> TextIO:
    """Return the stream that results are written to."""
    return _reserved or sys.stdout


def reserve_stdout() -> None:
    """Redirect ``print`` to stderr, so that stdout holds only the object of ``--json``.

    Plugins and libraries may print. Their output on stdout would make the object unreadable.
    """
    global _reserved
    if _reserved is None:
        _reserved, sys.stdout = sys.stdout, sys.stderr


@contextmanager
def usable_streams() -> Iterator[None]:
    """Make stdout and stderr accept any text, even if they are closed.

    A character that the stream's encoding lacks is written as an escape, so that no result is lost.
    Output to a closed stream (a daemon's, or ``>&-``) is discarded. The descriptors of closed
    streams are opened on the null device. Otherwise the next file that is opened would get such a
    descriptor, and a library's message on stdout would be written into that file.
    """
    if any(stream is None for stream in (sys.stdin, sys.stdout, sys.stderr)):
        for descriptor in range(3):
            try:
                os.fstat(descriptor)
            except OSError:
                os.open(os.devnull, os.O_RDWR)  # takes the lowest free descriptor
    before = sys.stdout, sys.stderr
    with ExitStack() as opened:
        for name in ("stdout", "stderr"):
            stream = getattr(sys, name)
            if stream is None:
                null = opened.enter_context(Path(os.devnull).open("w", encoding="utf-8"))
                setattr(sys, name, null)
            elif isinstance(stream, io.TextIOWrapper):
                stream.reconfigure(errors="backslashreplace")
        try:
            yield
        finally:
            sys.stdout, sys.stderr = before


@contextmanager
def restored_stdout() -> Iterator[None]:
    """Undo :func:`reserve_stdout` when the block ends."""
    global _reserved
    try:
        yield
    finally:
        if _reserved is not None:
            sys.stdout, _reserved = _reserved, None


@contextmanager
def results() -> Iterator[TextIO]:
    """Yield the stream for results.

    The stream's reader may leave early (``| head``). This is no error and does not change the exit
    code.
    """
    stream = stdout()
    try:
        yield stream
        stream.flush()
    except BrokenPipeError:
        mute(stream)


@contextmanager
def texts() -> Iterator[IO[str]]:
    """Yield the stream for text from data. On a terminal, control characters are escaped."""
    with results() as stream:
        yield _Escaping(stream) if stream.isatty() else stream


class _Escaping(io.StringIO):
    """A stream that escapes the control characters of what is written to it."""

    def __init__(self, stream: TextIO) -> None:
        super().__init__()
        self._stream = stream

    def write(self, text: str, /) -> int:
        return self._stream.write(printable(text))


def emit_json(kind: str, body: Mapping[str, Any]) -> None:
    """Print the JSON object of ``--json``, with the name and version of the object's schema.

    The output is ASCII, whatever the encoding of stdout.
    """
    from siamkit.report.units import finite

    result = {"schema": f"siamkit.{kind}/1", **finite(body)}
    emit_text(json.dumps(result, indent=2, allow_nan=False) + "\n")


def emit_text(text: str) -> None:
    """Print a text to stdout."""
    with texts() as stream:
        stream.write(text)


def emit(result: RenderableType) -> None:
    """Print a human-readable result to stdout."""
    from siamkit.report.terminal import make_console

    with results() as stream:
        make_console(stream).print(result, crop=False)  # paths, for example, must not be cut off


@contextmanager
def progress(unit: str = "phase") -> Iterator[Callable[[str, int, int], None]]:
    """Yield a function that shows the progress of a task on stderr.

    The function takes the task's name, the number of finished units, and the number of all units.
    On a terminal, it draws a bar. Elsewhere, it prints a line at most every ten seconds.

    Args:
        unit: The name of a unit in the singular.
    """
    from siamkit.report.progress import TransientBar
    from siamkit.report.terminal import make_console

    console = make_console(sys.stderr)
    bar, latest = TransientBar(console), -_INTERVAL

    def show(step: str, done: int, total: int) -> None:
        nonlocal latest
        if console.is_terminal:
            bar.show(step, done, total, "")
        elif (now := time.monotonic()) - latest >= _INTERVAL:
            latest = now
            console.print(f"{step} {unit} {min(done + 1, total)} of {total} ...")

    try:
        yield show
    finally:
        bar.close()


def notice(text: str) -> None:
    """Print a notice to stderr: useful to know, but not an error."""
    say(text, "notice: ", fg="yellow")


def emit_error(error: SiamkitError, *, as_json: bool) -> None:
    """Print an error to stderr and, for ``--json``, as an object to stdout."""
    say(str(error), "error: ", fg="red", bold=True)
    if as_json:
        emit_json("error", {"error": error.to_dict()})


def say(text: str, kind: str = "", **style: Any) -> None:
    """Print a line to stderr: the prefix ``kind`` in a style, then ``text``."""
    try:
        typer.secho(kind, err=True, nl=False, **style)
        print(printable(text), file=sys.stderr)
    except BrokenPipeError:
        mute(sys.stderr)
