"""The tests that are chosen for a changed line."""

from __future__ import annotations

from pathlib import Path

import pytest
from recording import Recording
from selecting import Code, chosen, mirrored, room_of

A = """\
LIMIT = 3
UNUSED = 4

def small(x, most=LIMIT):
    try:
        if (x <
                most):
            return x
    except ValueError:
        return 0
    match x:
        case 7:
            return most

@decorated
class Thing:
    size: int = 5

    def grow(self, by=1):
        self.size += by
"""
B = """\
def use():
    thing = Thing()
    return thing

def other():
    return LIMIT
"""
FILES = {"siamkit/room/a.py": A, "siamkit/room/b.py": B}
TESTS = {
    "tests/room/test_a.py::small": {"siamkit/room/a.py": [5, 6, 8]},
    "tests/room/test_a.py::wrong": {"siamkit/room/a.py": [5, 6, 9, 10]},
    "tests/room/test_a.py::seven": {"siamkit/room/a.py": [5, 6, 11, 12, 13]},
    "tests/room/test_b.py::use": {"siamkit/room/b.py": [2, 3]},
    "tests/room/test_b.py::other": {"siamkit/room/b.py": [6], "siamkit/room/a.py": [20]},
    "tests/room/test_c.py::nothing": {},
}


def recording(
    seconds: dict[str, float] | None = None, failed: list[str] | None = None
) -> Recording:
    lines: dict[str, dict[int, list[str]]] = {file: {} for file in FILES}
    for test, executed in TESTS.items():
        for file, numbers in executed.items():
            for number in numbers:
                lines[file].setdefault(number, []).append(test)
    return Recording({**dict.fromkeys(TESTS, 0.1), **(seconds or {})}, lines, failed or [])


def names(line: int, file: str = "siamkit/room/a.py", **about: object) -> list[str]:
    found = chosen(recording(**about), Code(FILES), file, line, {"tests/room/test_a.py"})
    return [test.partition("::")[2] for test in found]


@pytest.mark.parametrize(
    ("line", "tests"),
    [
        (8, {"small"}),
        (7, {"small", "wrong", "seven"}),  # of the statement that starts a line earlier
        (9, {"wrong"}),
        (10, {"wrong"}),
        (12, {"seven"}),
        (13, {"seven"}),
        (20, {"other"}),
    ],
)
def test_a_line_of_a_function_has_the_tests_that_execute_its_statement(line, tests) -> None:
    assert set(names(line)) == tests


def test_what_runs_at_import_has_the_tests_that_use_what_it_defines() -> None:
    assert set(names(1)) == {"small", "wrong", "seven", "other"}, "a constant, also by a default"
    assert set(names(4)) == {"small", "wrong", "seven"}, "a default of a function"
    assert set(names(15)) == {"use"}, "the decorator of a class"
    assert "use" in names(17), "a field of a class"
    assert names(19) == ["other"], "a default of a method"


def test_without_a_use_there_are_the_tests_of_the_file() -> None:
    assert set(names(2)) == {"small", "wrong", "seven", "other"}


def test_a_line_that_no_test_executes_has_no_tests() -> None:
    assert names(3, "siamkit/room/b.py") == ["use"]
    file = "siamkit/room/c.py"
    unused = Code({file: "def f(x=1):\n    return x\n"})
    assert chosen(recording(), unused, file, 1, set()) == []
    assert chosen(recording(), unused, file, 2, set()) == []


def test_mirrored_tests_come_first_and_long_ones_last() -> None:
    seconds = {"tests/room/test_b.py::other": 0.01, "tests/room/test_a.py::small": 5.0}
    assert names(1, seconds=seconds) == ["wrong", "seven", "other", "small"]


def test_a_test_that_failed_while_it_was_recorded_always_runs() -> None:
    assert set(names(8, failed=["tests/room/test_c.py::nothing"])) == {"small", "nothing"}


def test_a_recording_is_read_as_it_was_written(tmp_path: Path) -> None:
    before = recording(failed=["tests/room/test_b.py::use"])
    before.write(tmp_path / "room.json")
    assert Recording.read(tmp_path / "room.json") == before


def test_each_file_has_its_room_and_its_tests() -> None:
    root = Path(__file__).resolve().parents[2]
    assert (room_of("siamkit/words.py"), room_of("siamkit/report/html/head.py")) == ("", "report")
    assert mirrored("siamkit/words.py", root) == {"tests/test_words.py"}
    assert mirrored("siamkit/report/console.py", root) == {"tests/report/test_console.py"}
    assert mirrored("siamkit/report/html/facts.py", root) == {"tests/report/test_html_facts.py"}
    signatures = "tests/cli/test_defaults.py"
    assert mirrored("siamkit/cli/report.py", root) == {"tests/cli/test_report.py", signatures}
    store = "tests/engine/cache/test_store.py"
    assert mirrored("siamkit/engine/cache/store.py", root) == {store}


def test_a_draw_is_limited_to_rooms_in_their_order() -> None:
    pytest.importorskip("cosmic_ray")
    from drawing import Mutant, in_rooms

    files = ["siamkit/data/a.py", "siamkit/words.py", "siamkit/data/b.py", "siamkit/api/c.py"]
    mutants = [Mutant(file, 1, "core/AddNot", 0) for file in files]
    assert in_rooms(mutants, None) == mutants
    assert [m.file for m in in_rooms(mutants, ["modules", "data"])] == [
        "siamkit/words.py", "siamkit/data/a.py", "siamkit/data/b.py",
    ]  # fmt: skip
