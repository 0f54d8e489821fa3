"""Mutate the code at random places, and see whether the tests notice.

    python tests/mutation.py --count 300 --seed 0 --jobs 2 --log mutants.jsonl

Each mutant changes one operator, number, condition or loop, by Cosmic Ray's operators. The tests of
the changed file run first, then all tests of its package (``siamkit/data``: ``tests/data``). A
mutant that no test notices survives; the end of the output shows each survivor as a diff. A test
that notices must pass with the unchanged code; otherwise it does not count, and the script names
it. An existing log is continued, so the same command continues an interrupted draw. The same seed
draws the same mutants of the same code. The script needs ``pip install -e '.[dev,mutation]'``.
"""

from __future__ import annotations

import argparse
import difflib
import json
import multiprocessing
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from queue import SimpleQueue

from cosmic_ray.ast import ast_nodes, get_ast_from_path
from cosmic_ray.mutating import mutate_code
from cosmic_ray.plugins import get_operator, operator_names

ROOT = Path(__file__).resolve().parent.parent
CAUGHT, SURVIVED, TOO_LONG = "caught", "survived", "too long"
PROCESSES = multiprocessing.get_context("forkserver")
# Processes for tests start with these already imported.
_IMPORTED = [
    *("torch", "torchvision", "timm", "transformers", "sklearn", "scipy.stats", "PIL.Image"),
    *("pytorch_metric_learning", "hypothesis", "pytest", "pydantic", "typer", "rich"),
]
_TIMEOUT = 1200  # seconds for the tests of a package
_HANGS = 120  # seconds for one test, which otherwise counts as failed
_LEFT_OUT = (
    "BitOr_",  # in annotations, which are never computed
    "RemoveDecorator",
    "Variable",
)


@dataclass(frozen=True)
class Mutant:
    """One change of one file.

    Attributes:
        file: The file, relative to the repository.
        line: The line that changes.
        operator: Cosmic Ray's name of the change.
        occurrence: The number of the changed place among all places in the file that the operator
            can change.
    """

    file: str
    line: int
    operator: str
    occurrence: int

    def code(self, root: Path) -> str:
        """Return the changed code."""
        source = (root / self.file).read_text(encoding="utf-8")
        changed = mutate_code(source, get_operator(self.operator)(), self.occurrence)
        assert changed is not None
        return str(changed)


def places(path: Path) -> dict[tuple[object, object], list[Mutant]]:
    """Return the mutants of a file, by the start and end of the code that they change."""
    nodes = list(ast_nodes(get_ast_from_path(path)))
    found: dict[tuple[object, object], list[Mutant]] = defaultdict(list)
    for name in operator_names():
        if any(part in name for part in _LEFT_OUT):
            continue
        operator, count = get_operator(name)(), 0
        for node in nodes:
            for start, stop in operator.mutation_positions(node):
                mutant = Mutant(str(path.relative_to(ROOT)), start[0], name, count)
                found[start, stop].append(mutant)
                count += 1
    return found


def draw(count: int, seed: int) -> list[Mutant]:
    """Return random mutants, at most one per place; each place is equally probable."""
    files = sorted((ROOT / "siamkit").rglob("*.py"))
    every = [mutants for path in files for mutants in places(path).values()]
    rng = random.Random(seed)
    return [rng.choice(mutants) for mutants in rng.sample(every, min(count, len(every)))]


def tests_of(file: str) -> list[list[str]]:
    """Return the arguments of each call of pytest for a file.

    The tests of the file itself come first, then the fast tests of its package, then the slow ones.
    """
    path = Path(file).relative_to("siamkit")
    room = path.parts[0] if len(path.parts) > 1 else ""
    inner = path.with_suffix("").parts[1:] if room else (path.stem,)
    folder = ROOT / "tests" / room
    names = {"_".join(inner), inner[-1]}
    mirrored = [folder / f"test_{name}.py" for name in names]
    mirrored += [folder.joinpath(*inner[:-1], f"test_{inner[-1]}.py")]
    first = sorted({str(p.relative_to(ROOT)) for p in mirrored if p.is_file()})
    whole = (
        [f"tests/{room}"]
        if room and folder.is_dir()
        else sorted(str(p.relative_to(ROOT)) for p in (ROOT / "tests").glob("test_*.py"))
    )
    return [*([first] if first else []), ["-m", "not slow", *whole], ["-m", "slow", *whole]]


def tried(mutant: Mutant, tree: Path, sound: dict[str, bool]) -> tuple[str, str, float]:
    """Return whether the tests notice a mutant, the test that does, and the seconds that it took.

    Args:
        mutant: The change.
        tree: The copy of the repository in which to change the code.
        sound: For each test, whether it passes with the unchanged code; filled as needed.
    """
    target = tree / mutant.file
    before = target.read_text(encoding="utf-8")
    started = time.monotonic()
    target.write_text(mutant.code(tree), encoding="utf-8")
    try:
        for group in tests_of(mutant.file):
            outcome, test = _run(tree, [*group, *_without(sound)])
            if outcome != SURVIVED:
                break
    finally:
        target.write_text(before, encoding="utf-8")
    seconds = time.monotonic() - started
    if test and test not in sound:
        sound[test] = _run(tree, [test])[0] == SURVIVED
    if test and not sound[test]:
        print(f"{test} fails with the unchanged code too, so it does not count", flush=True)
        return tried(mutant, tree, sound)
    return outcome, test, seconds


def _without(sound: dict[str, bool]) -> list[str]:
    """Return the arguments that leave out the tests that fail with the unchanged code."""
    return [f"--deselect={test}" for test, passes in list(sound.items()) if not passes]


def _run(tree: Path, args: list[str]) -> tuple[str, str]:
    """Run tests in a process of their own, up to the first failure; return the test that failed."""
    receiver, sender = PROCESSES.Pipe(duplex=False)
    process = PROCESSES.Process(target=_tests, args=(str(tree), args, sender))
    process.start()
    sender.close()
    process.join(_TIMEOUT)
    if process.is_alive():
        process.kill()
        process.join()
        return TOO_LONG, ""
    try:
        failed = receiver.recv() if receiver.poll() else ""
    except EOFError:  # no test failed
        failed = ""
    # 5: the group has no tests
    return (SURVIVED, "") if process.exitcode in (0, 5) else (CAUGHT, failed)


def _tests(tree: str, args: list[str], failures: Connection) -> None:
    """Run pytest in a copy of the repository, and send the name of the first test that fails."""
    import pytest

    class Recorder:
        def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
            if report.failed:
                failures.send(report.nodeid)

        def pytest_collectreport(self, report: pytest.CollectReport) -> None:
            if report.failed:
                failures.send(report.nodeid)

    os.chdir(tree)
    os.environ.update(PYTHONPATH=tree, OMP_NUM_THREADS="1")
    sys.path.insert(0, tree)
    nothing = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(nothing, stream)
    options = ["-q", "-x", "-n", "0", "-p", "no:cacheprovider", "--timeout", str(_HANGS)]
    options += ["-W", "ignore::pytest.PytestAssertRewriteWarning"]  # plugins are imported already
    sys.exit(int(pytest.main([*options, *args], plugins=[Recorder()])))


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


def shown(mutant: Mutant) -> str:
    """Return a mutant as a diff."""
    before = (ROOT / mutant.file).read_text(encoding="utf-8").splitlines()
    after = mutant.code(ROOT).splitlines()
    diff = difflib.unified_diff(before, after, mutant.file, mutant.operator, lineterm="", n=1)
    return "\n".join(diff)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--count", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--log", type=Path, default=Path("mutants.jsonl"))
    options = parser.parse_args()
    log: Path = options.log
    lines = log.read_text(encoding="utf-8").splitlines() if log.exists() else []
    outcomes = {Mutant(**entry["mutant"]): entry["outcome"] for entry in map(json.loads, lines)}
    mutants = draw(options.count, options.seed)
    left = [mutant for mutant in mutants if mutant not in outcomes]
    sound: dict[str, bool] = {}
    PROCESSES.set_forkserver_preload(_IMPORTED)

    with copies(options.jobs) as trees, ThreadPoolExecutor(options.jobs) as pool:

        def run(mutant: Mutant) -> None:
            tree = trees.get()
            try:
                outcome, test, seconds = tried(mutant, tree, sound)
            finally:
                trees.put(tree)
            outcomes[mutant] = outcome
            entry = {
                "mutant": asdict(mutant),
                "outcome": outcome,
                "test": test,
                "seconds": round(seconds, 1),
            }
            with log.open("a", encoding="utf-8") as file:
                file.write(json.dumps(entry) + "\n")
            place = f"{mutant.file}:{mutant.line}"
            print(f"{outcome:9} {seconds:6.1f} s  {place}  {mutant.operator}  {test}", flush=True)

        list(pool.map(run, left))

    counts = Counter(outcomes[mutant] for mutant in mutants)
    print(", ".join(f"{number} {outcome}" for outcome, number in counts.most_common()))
    for mutant in mutants:
        if outcomes[mutant] == SURVIVED:
            print(f"\n{shown(mutant)}")


if __name__ == "__main__":
    main()
