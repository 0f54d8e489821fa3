"""The choice of the tests for a changed line: those of its room that execute the line.

Code that runs at import runs before every test. So a line of it belongs to the tests that execute a
line with the name that it defines: a constant, a function, a class or a field.
"""

from __future__ import annotations

import ast
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from recording import Recording

# These tests look at all code, whatever the room: at its rules, and at the defaults, ranges and
# signatures that the reference states.
CONVENTIONS = "tests/test_conventions.py"
REFERENCE = "tests/test_reference.py"
# These read the signatures of a room's functions, which they do not call.
_SIGNATURES = {room: f"tests/{room}/test_defaults.py" for room in ("api", "cli")}
_LONG = 2.0  # seconds; longer tests run after all shorter ones


def room_of(file: str) -> str:
    """Return the room of a file of siamkit; the modules beside the rooms have none."""
    parts = Path(file).relative_to("siamkit").parts
    return parts[0] if len(parts) > 1 else ""


def mirrored(file: str, root: Path) -> set[str]:
    """Return the files of tests that have the name of a file of siamkit, or read its signatures."""
    inner = Path(file).relative_to("siamkit").with_suffix("").parts
    folder = root / "tests" / room_of(file)
    inner = inner[1:] if room_of(file) else inner
    paths = [folder / f"test_{'_'.join(inner)}.py", folder / f"test_{inner[-1]}.py"]
    paths.append(folder.joinpath(*inner[:-1], f"test_{inner[-1]}.py"))
    if (signatures := _SIGNATURES.get(room_of(file))) is not None:
        paths.append(root / signatures)
    return {str(path.relative_to(root)) for path in paths if path.is_file()}


@dataclass(frozen=True)
class Statement:
    """A statement of a module.

    Attributes:
        lines: Its lines; of a statement with a body, those before the body.
        function: The innermost function in whose body it stands, if any.
        names: The names that it defines, if it runs at import.
        body: The lines of its body, if it defines a function.
    """

    lines: range
    function: str | None
    names: frozenset[str] = frozenset()
    body: range = range(0)


@dataclass
class Code:
    """The code of the package.

    Attributes:
        files: The text of each file, by its path relative to the repository.
    """

    files: dict[str, str]
    _read: dict[str, dict[int, Statement]] = field(default_factory=dict)

    @classmethod
    def of(cls, tree: Path) -> Code:
        """Read the code of a repository."""
        files = sorted((tree / "siamkit").rglob("*.py"))
        return cls({str(p.relative_to(tree)): p.read_text(encoding="utf-8") for p in files})

    def statement(self, file: str, line: int) -> Statement:
        """Return the innermost statement at a line."""
        if file not in self._read:
            module = ast.parse(self.files[file])
            found = self._read[file] = {}
            for statement in _statements(module.body, None, frozenset()):
                found.update(dict.fromkeys(statement.lines, statement))
        return self._read[file].get(line, Statement(range(line, line + 1), None))

    @cached_property
    def _mentions(self) -> dict[str, set[tuple[str, int]]]:
        found: dict[str, set[tuple[str, int]]] = {}
        for file, text in self.files.items():
            for number, line in enumerate(text.splitlines(), 1):
                for name in re.findall(r"\w+", line):
                    found.setdefault(name, set()).add((file, number))
        return found

    def executed(self, file: str, line: int) -> set[tuple[str, int]]:
        """Return the lines of functions that depend on a line directly, by names or by execution.

        The lines of a statement in a function are the lines themselves.
        """
        found: set[tuple[str, int]] = set()
        seen: set[tuple[str, Statement]] = set()
        left = [(file, self.statement(file, line))]
        while left:
            where, statement = left.pop()
            if (where, statement) in seen:
                continue
            seen.add((where, statement))
            if statement.function is not None:
                found |= {(where, number) for number in statement.lines}
                continue
            found |= {(where, number) for number in statement.body}
            for name in statement.names:
                left += [(f, self.statement(f, n)) for f, n in self._mentions[name]]
        return found


def _statements(
    body: list[ast.stmt], function: str | None, names: frozenset[str]
) -> Iterator[Statement]:
    """Yield the statements of a body and of all bodies in it."""
    for node in body:
        inner = [
            child
            for part in ("body", "orelse", "finalbody", "handlers", "cases")
            for child in getattr(node, part, [])
        ]
        decorators = getattr(node, "decorator_list", [])
        start = min([node.lineno, *(d.lineno for d in decorators)])
        stop = min([child.lineno for child in inner if hasattr(child, "lineno")], default=0)
        lines = range(start, max(stop, node.lineno + 1) if inner else (node.end_lineno or 0) + 1)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            last = (node.end_lineno or 0) + 1
            yield Statement(lines, function, body=range(node.body[0].lineno, last))
            yield from _statements(node.body, node.name, frozenset())
        elif isinstance(node, ast.ClassDef):
            own = frozenset() if function else frozenset({node.name})
            yield Statement(lines, function, own)
            yield from _statements(node.body, function, own)
        else:
            targets = getattr(node, "targets", [getattr(node, "target", None)])
            assigned = frozenset(t.id for t in targets if isinstance(t, ast.Name))
            yield Statement(lines, function, frozenset() if function else assigned | names)
            for child in inner:
                if isinstance(child, ast.stmt):
                    yield from _statements([child], function, names)
                    continue
                head = getattr(child, "pattern", child).lineno  # of `case` or `except`
                yield Statement(range(head, child.body[0].lineno), function)
                yield from _statements(child.body, function, names)


def chosen(recording: Recording, code: Code, file: str, line: int, first: set[str]) -> list[str]:
    """Return the tests of a room that can notice the change of a line, in the order to run them.

    Args:
        recording: What the tests of the room execute.
        code: The code of the package.
        file: The changed file.
        line: The changed line.
        first: The files of tests that run first.

    Returns:
        The tests that execute the line, or that use what it defines. If the line runs at import
        and defines nothing that a test uses, the tests that execute the file, or else all tests.
    """
    tests = {
        test
        for where, number in code.executed(file, line)
        for test in recording.lines.get(where, {}).get(number, ())
    }
    statement = code.statement(file, line)
    if not tests and statement.function is None and not statement.body:
        own = recording.lines.get(file, {})
        tests = {
            test
            for number, executing in own.items()
            if code.statement(file, number).function is not None
            for test in executing
        } or set(recording.seconds)
    tests |= set(recording.failed)

    seconds: Counter[str] = Counter()
    for test in tests:
        seconds[_file(test)] += min(recording.seconds[test], _LONG)

    def order(test: str) -> tuple[bool, bool, float, str]:
        where = _file(test)
        return recording.seconds[test] > _LONG, where not in first, seconds[where], where

    return sorted((test for test in recording.seconds if test in tests), key=order)


def _file(test: str) -> str:
    return test.partition("::")[0]
