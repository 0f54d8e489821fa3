"""The recording of tests: which lines each of them executes, in all its processes and fixtures."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("coverage")

CODE = """\
def one():
    return 1

def two():
    return 2

def three():
    return 3
"""
TESTS = """\
import subprocess, sys
import pytest
from siamkit import code

@pytest.fixture(scope="module")
def shared():
    return code.two()

def test_alone():
    assert code.one() == 1

def test_first(shared):
    pass

def test_second(shared):
    assert False

def test_process():
    subprocess.run([sys.executable, "-c", "from siamkit.code import three; three()"], check=True)
"""
RECORD = """\
import sys
from pathlib import Path
tree, folder = map(Path, sys.argv[1:3])
sys.path[:0] = [sys.argv[3], str(tree)]
from recording import record
args = ["-q", "-p", "no:cacheprovider", "-p", "no:xdist", str(tree / "tests")]
record(tree, args, folder).write(tree / "found.json")
"""


@pytest.mark.slow
def test_each_line_has_the_tests_that_execute_it(tmp_path: Path) -> None:
    from recording import Recording

    for name, text in {
        "siamkit/__init__.py": "", "siamkit/code.py": CODE, "tests/test_code.py": TESTS,
        "pytest.ini": "[pytest]", "record.py": RECORD,
    }.items():  # fmt: skip
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    (tmp_path / "traced").mkdir()
    here = str(Path(__file__).parent)
    arguments = [str(tmp_path / "record.py"), str(tmp_path), str(tmp_path / "traced"), here]
    subprocess.run(
        [sys.executable, *arguments], check=True, cwd=tmp_path, capture_output=True,
        env={"PYTHONPATH": str(tmp_path), "PATH": ""},
    )  # fmt: skip
    found = Recording.read(tmp_path / "found.json")
    lines = {
        line: {test.partition("::")[2].removeprefix("test_") for test in tests}
        for line, tests in found.lines["siamkit/code.py"].items()
    }
    assert {line: lines.get(line) for line in (2, 5, 8)} == {
        2: {"alone"}, 5: {"first", "second"}, 8: {"process"},
    }  # fmt: skip
    assert [test.partition("::")[2] for test in found.failed] == ["test_second"]
    assert len(found.seconds) == 4 and json.loads((tmp_path / "found.json").read_text())
