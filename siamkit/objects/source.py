"""The source of functions: their text or compiled code, and the global names that they read."""

from __future__ import annotations

import ast
import dis
import inspect
import sys
import sysconfig
from functools import cache, lru_cache
from pathlib import Path
from types import CodeType
from typing import Any

_FRAMEWORK = ("torch", "siamkit")


@cache
def is_framework(module: str) -> bool:
    """Return whether a module belongs to Python, torch or siamkit. Its code is compared by name."""
    top = module.partition(".")[0]
    if top in _FRAMEWORK:
        return True
    if top not in sys.stdlib_module_names:
        return False
    file = getattr(sys.modules.get(top), "__file__", None)  # a script may have the same name
    return file is None or Path(file).is_relative_to(sysconfig.get_path("stdlib"))


def text_of(code: CodeType) -> str | None:
    """Return the source text of a function; None if it has none, as in an interactive session."""
    try:
        return _lambda(code) if code.co_name == "<lambda>" else inspect.getsource(code)
    except (OSError, TypeError, SyntaxError):
        return None


def _lambda(code: CodeType) -> str | None:
    """Return a lambda's text without the code around it; None if no lambda matches the code."""
    lines, _ = inspect.findsource(code)
    places = [place for place in code.co_positions() if None not in place and place[3]]
    if not places:
        return None
    matches = [
        node
        for node in ast.walk(_parsed("".join(lines)))
        if isinstance(node, ast.Lambda) and all(_within(place, node.body) for place in places)
    ]
    # The innermost one comes last.
    return ast.unparse(matches[-1]) if matches else None


@lru_cache(maxsize=8)
def _parsed(text: str) -> ast.Module:
    return ast.parse(text)


def _within(place: tuple[int | None, ...], node: ast.expr) -> bool:
    start, end, column, end_column = place
    first = (node.lineno, node.col_offset) <= (start, column)
    return first and (end, end_column) <= (node.end_lineno, node.end_col_offset)


def parts_of(code: CodeType) -> tuple[Any, ...]:
    """Return the parts of compiled code that define what it does, without its file and lines."""
    return (
        code.co_code, code.co_consts, code.co_names, code.co_varnames, code.co_freevars,
        code.co_cellvars, code.co_flags,
    )  # fmt: skip


def global_names(code: CodeType) -> frozenset[str]:
    """Return the names of the global variables that a function reads, also in inner functions."""
    names = {
        str(step.argval)
        for step in dis.get_instructions(code)
        if step.opname in ("LOAD_GLOBAL", "LOAD_NAME")
    }
    inner = (global_names(const) for const in code.co_consts if isinstance(const, CodeType))
    return frozenset(names.union(*inner))
