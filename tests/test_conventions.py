"""Rules that all code keeps. Exceptions are listed here, so that each one is meant.

They are read from the code itself, since no single behaviour shows them: a dataclass that is not
frozen works, until somebody changes a value that two places share.
"""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent / "siamkit"
CODE = {
    path.relative_to(ROOT).as_posix(): ast.parse(path.read_text(encoding="utf-8"))
    for path in sorted(ROOT.rglob("*.py"))
}

# They collect what happens, or hold what a run replaces.
MUTABLE = {
    "engine/cache/shards.py Shard",
    "engine/phase.py CutPhase",
    "engine/phase.py Execution",
    "engine/recording.py TracedCalls",
    "portable/cells.py Cells",
    "portable/folders.py _Walk",
    "registry.py Registry",
    "training/build.py Setup",
    "training/state.py RunState",
}
# There is one object per image, so their size counts.
SLOTTED = {
    "data/images.py Sample",
    "data/leaks.py Member",
    "data/overlap.py Content",
    "portable/looking.py Facts",
}
# Their parameters cannot be named: another class defines the method, or takes any keyword.
UNNAMED = {
    "cli/output.py write",
    "testing/subjects.py run",
}
# How many `zip` of a file take iterables of different lengths.
UNEQUAL = {
    "data/sources.py": 1,
    "engine/dataflow.py": 1,
    "evaluation/retrieval.py": 1,
    "portable/gallery.py": 1,
    "report/sheet/png.py": 1,
}


def _keywords(call: ast.expr) -> dict[str, object]:
    """Return the keywords of a call that are given as constants."""
    if not isinstance(call, ast.Call):
        return {}
    values = [(k.arg, k.value) for k in call.keywords]
    return {name: v.value for name, v in values if name and isinstance(v, ast.Constant)}


def _called(node: ast.expr) -> str:
    return ast.unparse(node.func if isinstance(node, ast.Call) else node)


def _dataclasses() -> Iterator[tuple[str, dict[str, object]]]:
    """Yield each dataclass, as ``file name``, with the keywords of its decorator."""
    for file, module in CODE.items():
        for node in ast.walk(module):
            for decorator in getattr(node, "decorator_list", []):
                if isinstance(node, ast.ClassDef) and _called(decorator) == "dataclass":
                    yield f"{file} {node.name}", _keywords(decorator)


@pytest.mark.parametrize(
    ("rule", "exceptions"),
    [
        (lambda keywords: keywords.get("frozen") is True, MUTABLE),
        (lambda keywords: keywords.get("slots") is not True, SLOTTED),
    ],
    ids=["frozen", "without slots"],
)
def test_dataclasses(rule: Callable[[dict[str, object]], bool], exceptions: set[str]) -> None:
    assert {name for name, keywords in _dataclasses() if not rule(keywords)} == exceptions


def test_what_is_zipped_has_equal_lengths() -> None:
    loose = Counter(
        file
        for file, module in CODE.items()
        for node in ast.walk(module)
        if isinstance(node, ast.Call) and _called(node) == "zip"
        and _keywords(node).get("strict") is not True
    )  # fmt: skip
    assert loose == UNEQUAL


def test_every_parameter_can_be_given_by_its_name() -> None:
    found = {
        f"{file} {node.name}"
        for file, module in CODE.items()
        for node in ast.walk(module)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.args.posonlyargs
    }
    assert found == UNNAMED
