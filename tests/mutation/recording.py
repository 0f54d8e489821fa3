"""The recording of a room: which tests execute which lines of siamkit, and how long they take.

Coverage.py traces the tests once, with the unchanged code. A process that a test starts is traced
too, and its lines count for the test. The lines of a fixture that is set up once for many tests
count for all tests that use it.
"""

from __future__ import annotations

import json
import os
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pytest

# Each process that a test starts reads this, so its lines are recorded under the test's name.
_CONFIG = """
[run]
source = {tree}/siamkit
data_file = {folder}/data
parallel = true
concurrency = thread,multiprocessing
context = ${{SIAMKIT_MUTATION}}
disable_warnings = module-not-imported,module-not-measured,no-data-collected,already-imported
"""


@dataclass(frozen=True)
class Recording:
    """What the tests of a room execute.

    Attributes:
        seconds: For each test, the seconds that it took, in the order in which the tests ran.
        lines: For each file of siamkit, relative to the repository, for each line that a test
            executes, the tests that execute it.
        failed: The tests that failed while they were recorded. Their lines are incomplete.
    """

    seconds: dict[str, float]
    lines: dict[str, dict[int, list[str]]]
    failed: list[str]

    def write(self, path: Path) -> None:
        """Write the recording to a JSON file, in which each test has a number."""
        number = {test: i for i, test in enumerate(self.seconds)}
        lines = {
            file: {line: [number[test] for test in tests] for line, tests in of_file.items()}
            for file, of_file in self.lines.items()
        }
        path.write_text(json.dumps({**asdict(self), "lines": lines}), encoding="utf-8")

    @classmethod
    def read(cls, path: Path) -> Recording:
        """Read a recording from a JSON file."""
        values = json.loads(path.read_text(encoding="utf-8"))
        tests = list(values["seconds"])
        lines = {
            file: {int(line): [tests[i] for i in numbers] for line, numbers in of_file.items()}
            for file, of_file in values["lines"].items()
        }
        return cls(values["seconds"], lines, values["failed"])


def record(tree: Path, args: list[str], folder: Path) -> Recording:
    """Run tests and record them, in this process, which must not have imported siamkit.

    Args:
        tree: The repository.
        args: The arguments of pytest.
        folder: An empty folder for the files of coverage.py.
    """
    import coverage

    config = str(folder / ".coveragerc")
    Path(config).write_text(_CONFIG.format(tree=tree, folder=folder), encoding="utf-8")
    os.environ.update(SIAMKIT_MUTATION="", COVERAGE_RCFILE=config)
    tracer = coverage.Coverage(config_file=config)
    tracer.start()
    os.environ["COVERAGE_PROCESS_START"] = config
    watcher = _Watcher(tracer.switch_context)
    pytest.main(args, plugins=[watcher])
    tracer.stop()
    tracer.save()

    traced = coverage.Coverage(config_file=config)
    traced.combine([str(folder)])
    data = traced.get_data()
    lines: dict[str, dict[int, list[str]]] = {}
    for file in data.measured_files():
        of_file = lines[str(Path(file).relative_to(tree))] = {}
        for line, contexts in data.contexts_by_lineno(file).items():
            tests = {test for context in contexts for test in watcher.tests.get(context, ())}
            if tests:
                of_file[line] = [test for test in watcher.seconds if test in tests]
    return Recording(dict(watcher.seconds), lines, sorted(watcher.failed))


class _Watcher:
    """A plugin of pytest that tells coverage.py which test, or fixture of many tests, is running.

    Attributes:
        tests: For each context of coverage.py, the tests for which its lines count.
        seconds: For each test, the seconds that it took.
        failed: The tests that failed.
    """

    def __init__(self, switch: Callable[[str], object]) -> None:
        self._switch = switch
        self._context = ""
        self._names: dict[object, str] = {}
        self.tests: dict[str, list[str]] = defaultdict(list)
        self.seconds: dict[str, float] = {}
        self.failed: set[str] = set()

    @contextmanager
    def _running(self, what: object) -> Iterator[None]:
        before, self._context = self._context, self._name(what)
        self._tell()
        try:
            yield
        finally:
            self._context = before
            self._tell()

    def _name(self, what: object) -> str:
        return self._names.setdefault(what, str(len(self._names) + 1))

    def _tell(self) -> None:
        os.environ["SIAMKIT_MUTATION"] = self._context
        self._switch(self._context)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Iterator[None]:
        definitions = item._fixtureinfo.name2fixturedefs.values()
        shared = [d for several in definitions for d in several if d.scope != "function"]
        for what in (item.nodeid, *shared):
            self.tests[self._name(what)].append(item.nodeid)
        started = time.monotonic()
        with self._running(item.nodeid):
            result = yield
        self.seconds[item.nodeid] = round(time.monotonic() - started, 2)
        return result

    @pytest.hookimpl(wrapper=True)
    def pytest_fixture_setup(self, fixturedef: pytest.FixtureDef[Any]) -> Iterator[None]:
        if fixturedef.scope == "function":
            return (yield)
        with self._running(fixturedef):
            return (yield)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            self.failed.add(report.nodeid)
