"""Change the code at random places, and see whether the tests notice.

    python tests/mutation/run.py --count 300 --seed 0 --jobs 2 --log mutants.jsonl

Each mutant changes one operator, number, condition or loop, by Cosmic Ray's operators. The tests of
its room (``siamkit/data``: ``tests/data``) must notice it, or the tests of conventions and of the
reference, which look at all rooms. First, the fast tests in the files that have the name of the
changed one run for each mutant, and those that read the signatures of a room's functions. Most
mutants end there. The others meet all tests that execute the changed line: before the first of
them, the tests of their room run once with the unchanged code and are recorded (``recording.py``,
``selecting.py``). A mutant that no test notices survives; the end of the output shows each survivor
as a diff.

The recordings lie beside the log, in a folder of its name, and count for the same code only.

A test that notices must pass with the unchanged code; otherwise it does not count, and the script
names it. An existing log is continued, so the same command continues an interrupted draw. The same
seed draws the same mutants of the same code. The script needs ``pip install -e '.[dev,mutation]'``.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from hashlib import sha256
from multiprocessing.connection import Connection
from pathlib import Path
from queue import SimpleQueue
from threading import Lock
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parent))

from drawing import ROOT, Mutant, draw, in_rooms, shown
from recording import Recording, record
from selecting import CONVENTIONS, REFERENCE, Code, chosen, mirrored, room_of

CAUGHT, SURVIVED, TOO_LONG = "caught", "survived", "too long"
LEFT = "left"
"""The tests that ran at first noticed nothing; all tests of the room have not run yet."""
PROCESSES = multiprocessing.get_context("forkserver")
# Processes for tests start with these already imported.
_IMPORTED = [
    *("torch", "torchvision", "timm", "transformers", "sklearn", "scipy.stats", "PIL.Image"),
    *("pytorch_metric_learning", "hypothesis", "pytest", "pydantic", "typer", "rich"),
]
_PYTEST = ["-q", "-n", "0", "-p", "no:cacheprovider"]
_PYTEST += ["-W", "ignore::pytest.PytestAssertRewriteWarning"]  # plugins are imported already


class Tried(NamedTuple):
    """What the tests said of a mutant.

    Attributes:
        outcome: ``caught``, ``survived``, ``too long``, or ``left`` for all tests of the room.
        test: The test that noticed it; empty if none did, or if it is not known.
        seconds: The time that this took.
    """

    outcome: str
    test: str
    seconds: float


class Rooms:
    """The recordings of the rooms, each made when it is first needed.

    Args:
        folder: Where they are kept, for the next draw from the same code.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._locks: dict[str, Lock] = defaultdict(Lock)
        self._known: dict[str, Recording] = {}
        digest = sha256()
        own = ROOT / "tests" / "mutation"
        for path in sorted([*(ROOT / "siamkit").rglob("*.py"), *(ROOT / "tests").rglob("*.py")]):
            if not path.is_relative_to(own):
                digest.update(path.read_bytes())
        self._code = digest.hexdigest()[:12]
        self.code = Code.of(ROOT)

    def recording(self, room: str, tree: Path) -> Recording:
        """Return the recording of a room, made in a copy of the repository if there is none."""
        with self._locks[room]:
            if room not in self._known:
                path = self._folder / f"{room or 'modules'}-{self._code}.json"
                if not path.exists():
                    self._record(room, tree, path)
                self._known[room] = Recording.read(path)
            return self._known[room]

    def _record(self, room: str, tree: Path, path: Path) -> None:
        print(f"recording the tests of {room or 'the modules'}", flush=True)
        self._folder.mkdir(parents=True, exist_ok=True)
        process = PROCESSES.Process(target=_recorded, args=(str(tree), room, str(path)))
        process.start()
        process.join()
        if not path.exists():
            raise SystemExit(f"the tests of {room or 'the modules'} cannot be recorded")


def at_first(mutant: Mutant, tree: Path, sound: dict[str, bool]) -> Tried:
    """Return whether the fast tests in the files with the name of the changed file notice it.

    Args:
        mutant: The change.
        tree: The copy of the repository in which to change the code.
        sound: For each test that failed, whether it passes with the unchanged code; filled as
            needed.
    """
    return _noticed(mutant, tree, sorted(mirrored(mutant.file, ROOT)), {}, sound, fast=True)


def tried(mutant: Mutant, tree: Path, rooms: Rooms, sound: dict[str, bool]) -> Tried:
    """Return whether the tests that execute the changed line notice a mutant.

    Args:
        mutant: The change.
        tree: The copy of the repository in which to change the code.
        rooms: What the tests of each room execute.
        sound: As for :func:`at_first`.
    """
    recording = rooms.recording(room_of(mutant.file), tree)
    first = mirrored(mutant.file, ROOT)
    tests = chosen(recording, rooms.code, mutant.file, mutant.line, first)
    return _noticed(mutant, tree, tests, recording.seconds, sound, fast=False)


def _noticed(
    mutant: Mutant,
    tree: Path,
    tests: list[str],
    seconds: dict[str, float],
    sound: dict[str, bool],
    *,
    fast: bool,
) -> Tried:
    target = tree / mutant.file
    before = target.read_text(encoding="utf-8")
    started = time.monotonic()
    while True:
        counting = [CONVENTIONS, *(t for t in tests if sound.get(t, True)), REFERENCE]
        target.write_text(mutant.code(tree), encoding="utf-8")
        try:
            outcome, test = _run(tree, counting, seconds, fast=fast)
        finally:
            target.write_text(before, encoding="utf-8")
        if outcome != CAUGHT:
            break
        if test not in sound:
            alone = [test] if test else counting
            sound[test] = _run(tree, alone, seconds, fast=fast)[0] != CAUGHT
        if sound[test]:
            break
        print(f"{test} fails with the unchanged code too, so it does not count", flush=True)
        if test not in tests:
            if fast:  # a test of a whole file: all tests of the room decide
                return Tried(SURVIVED, "", time.monotonic() - started)
            raise SystemExit("the tests cannot run")
    return Tried(outcome, test, time.monotonic() - started)


def _run(tree: Path, tests: list[str], seconds: dict[str, float], *, fast: bool) -> tuple[str, str]:
    """Run tests in a process of their own, up to the first failure; return the test that failed."""
    # A mutant may make tests wait for ever. The limits are far above what a busy machine needs.
    limits = {test: 120 + 20 * seconds.get(test, 0) for test in tests}
    receiver, sender = PROCESSES.Pipe(duplex=False)
    process = PROCESSES.Process(target=_tests, args=(str(tree), tests, limits, fast, sender))
    process.start()
    sender.close()
    process.join(600 + 20 * sum(seconds.get(test, 0) for test in tests))
    if process.is_alive():
        process.kill()
        process.join()
        return TOO_LONG, ""
    try:
        failed = receiver.recv() if receiver.poll() else ""
    except EOFError:  # no test failed
        failed = ""
    # 5: there are no tests
    return (SURVIVED, "") if process.exitcode in (0, 5) else (CAUGHT, failed)


def _tests(
    tree: str, tests: list[str], limits: dict[str, float], fast: bool, failures: Connection
) -> None:
    """Run tests in a copy of the repository, and send the name of the first that fails."""
    import pytest

    place = {test: i for i, test in enumerate(tests)}

    class Chosen:
        def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
            # A mutant may change which tests there are, so none is asked for by name.
            files = {test.partition("::")[0] for test in tests if "::" not in test}
            items[:] = sorted(
                (i for i in items if i.nodeid in place or i.nodeid.partition("::")[0] in files),
                key=lambda item: place.get(item.nodeid, -1),
            )
            if fast:
                items[:] = [item for item in items if not item.get_closest_marker("slow")]
            for item in items:
                item.add_marker(pytest.mark.timeout(limits.get(item.nodeid, 600)))

        def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
            if report.failed:
                failures.send(report.nodeid)

        def pytest_collectreport(self, report: pytest.CollectReport) -> None:
            if report.failed:
                failures.send(report.nodeid)

    _enter(tree)
    files = dict.fromkeys(test.partition("::")[0] for test in tests)
    sys.exit(int(pytest.main([*_PYTEST, "-x", *files], plugins=[Chosen()])) if files else 0)


def _recorded(tree: str, room: str, path: str) -> None:
    """Record the tests of a room in a copy of the repository, and write the recording to a file."""
    _enter(tree)
    modules = [str(path) for path in sorted(Path("tests").glob("test_*.py"))]
    with tempfile.TemporaryDirectory(prefix="siamkit-recording-") as folder:
        tests = [f"tests/{room}"] if room else modules
        record(Path(tree), [*_PYTEST, *tests], Path(folder)).write(Path(path))


def _enter(tree: str) -> None:
    """Let this process import siamkit from a copy of the repository, and print nothing."""
    os.chdir(tree)
    os.environ.update(PYTHONPATH=tree, OMP_NUM_THREADS="1")
    sys.path.insert(0, tree)
    nothing = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(nothing, stream)


@contextmanager
def copies(count: int) -> Iterator[SimpleQueue[Path]]:
    """Yield a queue of ``count`` copies of the repository's files, one for each process."""
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard", "-z"],
        cwd=ROOT,
        capture_output=True,
        check=True,
        text=True,
    )
    names = [name for name in listed.stdout.split("\0") if name and (ROOT / name).is_file()]
    trees: SimpleQueue[Path] = SimpleQueue()
    with tempfile.TemporaryDirectory(prefix="siamkit-mutants-") as folder:
        for number in range(count):
            tree = Path(folder) / str(number)
            for name in names:
                (tree / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(ROOT / name, tree / name)
            trees.put(tree)
        yield trees


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--count", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument(
        "--rooms",
        nargs="+",
        help="try only the mutants of the draw that are in these rooms, in this order;\n"
        "`modules` are the files beside the rooms",
    )
    parser.add_argument("--log", type=Path, default=Path("mutants.jsonl"))
    options = parser.parse_args()
    log: Path = options.log.absolute()
    lines = log.read_text(encoding="utf-8").splitlines() if log.exists() else []
    outcomes = {Mutant(**entry["mutant"]): entry["outcome"] for entry in map(json.loads, lines)}
    mutants = in_rooms(draw(options.count, options.seed), options.rooms)
    new = [mutant for mutant in mutants if mutant not in outcomes]
    rooms = Rooms(log.with_suffix(""))
    sound: dict[str, bool] = {}
    PROCESSES.set_forkserver_preload(_IMPORTED)

    with copies(options.jobs) as trees, ThreadPoolExecutor(options.jobs) as pool:

        def ended(mutant: Mutant, found: Tried) -> None:
            outcomes[mutant] = found.outcome
            entry = {
                "mutant": asdict(mutant),
                "outcome": found.outcome,
                "test": found.test,
                "seconds": round(found.seconds, 1),
            }
            with log.open("a", encoding="utf-8") as file:
                file.write(json.dumps(entry) + "\n")
            print(
                f"{found.outcome:9} {found.seconds:6.1f} s  {mutant.file}:{mutant.line}  "
                f"{mutant.operator}  {found.test}",
                flush=True,
            )

        def run(mutant: Mutant, *, fast: bool) -> None:
            tree = trees.get()
            try:
                found = at_first(mutant, tree, sound) if fast else tried(mutant, tree, rooms, sound)
            finally:
                trees.put(tree)
            is_left = fast and found.outcome != CAUGHT
            ended(mutant, found._replace(outcome=LEFT) if is_left else found)

        list(pool.map(partial(run, fast=True), new))
        left = [mutant for mutant in mutants if outcomes[mutant] == LEFT]
        print(f"{len(left)} mutants are left for all tests of their rooms", flush=True)
        list(pool.map(partial(run, fast=False), left))

    counts = Counter(outcomes[mutant] for mutant in mutants)
    print(", ".join(f"{number} {outcome}" for outcome, number in counts.most_common()))
    for mutant in mutants:
        if outcomes[mutant] == SURVIVED:
            print(f"\n{shown(mutant)}")


if __name__ == "__main__":
    main()
