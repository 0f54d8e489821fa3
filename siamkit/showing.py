"""Reprs and progress: text in a terminal, HTML in a notebook."""

from __future__ import annotations

import io
import os
import sys
from contextlib import suppress
from html import escape
from types import TracebackType
from typing import IO, TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from rich.console import RenderableType

WIDTH = 100
"""Columns of a table in a repr."""


class TextRepr:
    """Shows an object's text repr in notebooks, with its line breaks."""

    def _repr_html_(self) -> str:
        return f"<pre>{escape(repr(self))}</pre>"


class RichRepr:
    """Shows an object's ``__rich__``: as text in its repr, and as HTML in notebooks."""

    def __rich__(self) -> RenderableType:
        """Return the renderable that rich prints."""
        raise NotImplementedError

    def __repr__(self) -> str:
        from rich.console import Console

        stream = io.StringIO()
        console = Console(
            file=stream, width=WIDTH, markup=False, highlight=False, emoji=False, color_system=None
        )
        console.print(self.__rich__(), crop=False)
        return "\n".join(line.rstrip() for line in stream.getvalue().rstrip().splitlines())

    def _repr_html_(self) -> str:
        from rich.console import Console

        console = Console(
            file=io.StringIO(), width=WIDTH, record=True, markup=False, highlight=False, emoji=False
        )
        console.print(self.__rich__(), crop=False)
        return console.export_html(inline_styles=True, code_format="<pre>{code}</pre>")


def mute(stream: IO[str]) -> None:
    """Discard further output to a stream whose reader has left (``| head``). This is no error."""
    with suppress(OSError, ValueError):  # a stream of a test may have no descriptor
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, stream.fileno())
        os.close(null)


def shown(progress: bool | None) -> bool:
    """Return whether to show progress. None means: in a terminal or a notebook."""
    if progress is not None:
        return progress
    return sys.stderr.isatty() or in_notebook()


def in_notebook() -> bool:
    """Return whether the code runs in a Jupyter kernel."""
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    return type(shell).__name__ == "ZMQInteractiveShell"


class Bar:
    """A progress bar over a number of images, as a context manager.

    Args:
        what: The text before the bar.
        visible: Whether to show the bar.
    """

    def __init__(self, what: str, visible: bool) -> None:
        self._what, self._visible = what, visible
        self._bar: Any = None

    def __call__(self, done: int, total: int) -> None:
        """Show that ``done`` of ``total`` images are complete."""
        if not self._visible:
            return
        if self._bar is None:
            self._bar = self._made()
            self._task = self._bar.add_task(self._what, total=total)
            self._bar.start()
        self._bar.update(self._task, completed=done, total=total)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    @staticmethod
    def _made() -> Any:
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            TextColumn,
            TimeRemainingColumn,
        )

        columns = (TextColumn("{task.description}", markup=False), BarColumn(bar_width=16),
                   MofNCompleteColumn(), TimeRemainingColumn())  # fmt: skip
        console = Console(stderr=True) if not in_notebook() else Console()
        return Progress(*columns, console=console, transient=True)
