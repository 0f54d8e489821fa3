"""The source of functions."""

from __future__ import annotations

import importlib
import json
import linecache
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from siamkit.objects.source import global_names, is_framework, parts_of, text_of

PAIR = [lambda x: x + 1, lambda x: x * 2]
NESTED = lambda x: lambda y: y - x  # noqa: E731
SPREAD = [
    lambda x: (
        x
        # a comment
        + 3
    )
]  # fmt: skip


def plain(value: int) -> int:
    """Return a value."""
    return value


@pytest.mark.parametrize(
    ("function", "text"),
    [
        (PAIR[0], "lambda x: x + 1"),
        (PAIR[1], "lambda x: x * 2"),
        (NESTED, "lambda x: lambda y: y - x"),
        (NESTED(1), "lambda y: y - x"),
        (SPREAD[0], "lambda x: x + 3"),
    ],
)
def test_a_lambda_is_its_own_text_without_the_code_around_it(
    function: Callable[..., Any], text: str
) -> None:
    assert text_of(function.__code__) == text


def test_a_function_is_the_text_of_its_definition() -> None:
    assert text_of(plain.__code__) == textwrap.dedent(
        '''\
        def plain(value: int) -> int:
            """Return a value."""
            return value
        '''
    )


def test_code_without_a_file_has_no_text_but_parts() -> None:
    made: dict[str, Any] = {}
    exec("def one(x): return x + 1\ntwo = lambda x: x + 1\ndef three(x): return x + 2", made)
    assert text_of(made["one"].__code__) is None and text_of(made["two"].__code__) is None
    first, third = (parts_of(made[name].__code__) for name in ("one", "three"))
    assert first != third
    exec("\n\ndef one(x): return x + 1", made)
    assert parts_of(made["one"].__code__) == first, "the line does not count"


def test_the_globals_of_inner_functions_count_too() -> None:
    def outer() -> Any:
        def inner() -> Any:
            return json, PAIR

        return inner, len

    assert global_names(outer.__code__) == {"json", "PAIR", "len"}


@pytest.mark.parametrize(
    ("module", "known"),
    [
        ("torch.nn.modules", True), ("siamkit", True), ("siamkit.objects", True), ("json", True),
        ("collections.abc", True), ("builtins", True), ("sys", True), ("numpy", False),
        ("timm.models", False), ("torchvision", False), ("tests.objects", False),
    ],
)  # fmt: skip
def test_code_of_python_torch_and_siamkit_is_known_by_name(module: str, known: bool) -> None:
    assert is_framework(module) is known


def test_a_file_that_is_no_longer_python_gives_no_text(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "changed_module.py"
    path.write_text("one = lambda x: x + 1\n")
    monkeypatch.syspath_prepend(tmp_path)
    module = importlib.import_module("changed_module")
    assert text_of(module.one.__code__) == "lambda x: x + 1"
    path.write_text("one = lambda x: (\n")
    linecache.clearcache()
    assert text_of(module.one.__code__) is None
