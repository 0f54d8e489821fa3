"""What siamkit imports is what its ``pyproject.toml`` declares."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def canonical(requirement: str) -> str:
    """Return the name in a requirement, spelled as the registries compare it."""
    name = re.match(r"[\w.-]+", requirement)
    assert name
    return re.sub(r"[-_.]+", "-", name[0]).lower()


CORE = {canonical(requirement) for requirement in PROJECT["dependencies"]}
EXTRAS = {
    canonical(requirement)
    for name, requirements in PROJECT["optional-dependencies"].items()
    if name not in ("dev", "bench")
    for requirement in requirements
}


def imports(tree: ast.AST, *, always: bool) -> Iterator[str]:
    """Yield the names of the top-level packages that a module imports.

    Args:
        tree: The module.
        always: Only what is imported whenever the module is, and not within a function.
    """
    for node in ast.iter_child_nodes(tree):
        if always and isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        if isinstance(node, ast.If) and _last_name(node.test) == "TYPE_CHECKING":
            for other in node.orelse:
                yield from imports(ast.Module([other], []), always=always)
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            yield node.module.partition(".")[0]
        elif isinstance(node, ast.Call) and _last_name(node.func) == "import_module":
            named = node.args[0]
            if isinstance(named, ast.Constant) and isinstance(named.value, str):
                yield named.value.partition(".")[0]
        yield from imports(node, always=always)


def _last_name(node: ast.expr) -> str | None:
    return getattr(node, "attr", None) or getattr(node, "id", None)


@cache
def distributions() -> Mapping[str, list[str]]:
    return packages_distributions()


@cache
def foreign(*, always: bool) -> dict[str, set[str]]:
    """Return the packages that siamkit imports, and where, without the standard library's."""
    result: dict[str, set[str]] = {}
    for path in sorted((ROOT / "siamkit").rglob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for name in imports(tree, always=always):
            if name != "siamkit" and name not in sys.stdlib_module_names:
                result.setdefault(name, set()).add(str(path.relative_to(ROOT)))
    return result


def undeclared(found: dict[str, set[str]], declared: Iterable[str]) -> dict[str, set[str]]:
    # Of a package that is not installed, the distribution is taken to have its name.
    known, declared = distributions(), set(declared)
    return {
        name: files
        for name, files in found.items()
        if not {canonical(dist) for dist in known.get(name, [name])} & declared
    }


def test_whatever_is_imported_is_declared():
    assert undeclared(foreign(always=False), CORE | EXTRAS) == {}


def test_what_is_always_imported_is_no_extra():
    assert undeclared(foreign(always=True), CORE) == {}


def test_what_is_declared_is_imported():
    known = distributions()
    used = {canonical(dist) for name in foreign(always=False) for dist in known.get(name, ())}
    assert CORE - used == set()


@pytest.mark.parametrize("name", ["scipy", "sklearn", "huggingface_hub", "faiss"])
def test_a_missing_declaration_would_be_noticed(name):
    found = foreign(always=False)
    assert name in found
    own = {canonical(dist) for dist in distributions()[name]}
    assert set(undeclared(found, (CORE | EXTRAS) - own)) == {name}


def test_imports_are_seen_wherever_they_stand():
    text = (
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import a\nelse:\n    import b\n"
        "try:\n    import c.d\nexcept ImportError:\n    from . import e\n"
        "def f():\n    from g.h import i\n    importlib.import_module('j.k')\n"
        "class L:\n    import m\n"
    )
    tree = ast.parse(text)
    assert set(imports(tree, always=False)) == {"typing", "b", "c", "g", "j", "m"}
    assert set(imports(tree, always=True)) == {"typing", "b", "c", "m"}


@pytest.mark.slow
def test_the_environment_fits_together():
    result = subprocess.run(
        [sys.executable, "-m", "pip", "check"], capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stdout
