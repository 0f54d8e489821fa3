"""Reprs of results: text in a terminal, HTML in a notebook."""

from __future__ import annotations

import io
from html import escape
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import RenderableType

WIDTH = 100
"""Columns of a table in a repr."""


class TextRepr:
    """Shows an object's text repr in notebooks too, in its own lines."""

    def _repr_html_(self) -> str:
        return f"<pre>{escape(repr(self))}</pre>"


class RichRepr:
    """Shows an object by its ``__rich__``: as text in a repr, as HTML in notebooks."""

    def __rich__(self) -> RenderableType:
        """Return what rich prints."""
        raise NotImplementedError

    def __repr__(self) -> str:
        from rich.console import Console

        stream = io.StringIO()
        console = Console(
            file=stream, width=WIDTH, markup=False, highlight=False, emoji=False, color_system=None
        )
        console.print(self.__rich__())
        return "\n".join(line.rstrip() for line in stream.getvalue().rstrip().splitlines())

    def _repr_html_(self) -> str:
        from rich.console import Console

        console = Console(
            file=io.StringIO(), width=WIDTH, record=True, markup=False, highlight=False, emoji=False
        )
        console.print(self.__rich__())
        return console.export_html(inline_styles=True, code_format="<pre>{code}</pre>")
