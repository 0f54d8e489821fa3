"""Break runs, caches, indexes and input in many ways, and check that siamkit notices or recovers.

    python tests/faults/run.py --short                     about a minute
    python tests/faults/run.py --long --seed 0             200 kills, 1,000 damaged files, ...
    python tests/faults/run.py --long --kills 40 --damage 300 --fuzz 3000
    python tests/faults/run.py --page                      writes docs/reliability.md

Each case is printed when it ends. An interrupted long form is continued by the same command, which
skips the cases recorded in ``--log``. The same seed draws the same cases. The exit code is 1 if
anything was wrong.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parents[1])]
os.environ.setdefault("OMP_NUM_THREADS", "1")  # sums in another order differ in the last bit


def main(argv: list[str]) -> int:
    """Run the harness; return the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--long", action="store_true", help="the long form")
    parser.add_argument("--short", action="store_true", help="a few cases of each kind")
    parser.add_argument(
        "--page", action="store_true", help="write docs/reliability.md from the log"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--log", type=Path, default=Path("faults.jsonl"))
    parser.add_argument("--kills", type=int, help="SIGKILLs")
    parser.add_argument("--damage", type=int, help="damaged files")
    parser.add_argument("--disks", type=int, help="full disks")
    parser.add_argument("--fuzz", type=int, help="inputs over all readers")
    given = parser.parse_args(argv)
    from page import write_page
    from records import Journal, problems

    if not (given.long or given.short or given.page):
        parser.error("choose --short, --long or --page")
    if given.short:
        given.log = Path(tempfile.mkdtemp()) / "faults.jsonl"
    journal = Journal(given.log)
    if given.long or given.short:
        defaults = (200, 1000, 12, 30_000) if given.long else (4, 24, 2, 300)
        counts = [
            default if value is None else value
            for value, default in zip(
                (given.kills, given.damage, given.disks, given.fuzz), defaults, strict=True
            )
        ]
        for record in run(journal, given.seed, *counts):
            print(f"{time.strftime('%H:%M:%S')} {record}", flush=True)
    wrong = problems(journal.records)
    print(f"{len(journal.records)} cases, {len(wrong)} wrong")
    for record in wrong:
        print(record, record.problem)
    if given.page:
        write_page(journal.records)
    return int(bool(wrong))


def run(journal, seed: int, kills: int, damage: int, disks: int, fuzz: int) -> Iterator:
    """Run the cases that the journal does not hold yet, and yield the record of each one."""
    import damage as damaging
    import disks as filling
    import fuzz as fuzzing
    import kills as killing
    from processes import Programs

    with tempfile.TemporaryDirectory(prefix="siamkit-faults-") as folder:
        programs = Programs(Path(folder))
        subjects = killing.Kills(Path(folder), programs)
        for kind, cases in (
            ("fuzz", fuzzing.cases(subjects, fuzz, seed)),
            ("disk", filling.cases(subjects, disks, seed)),
            ("damage", damaging.cases(subjects, damage, seed)),
            ("kill", killing.cases(subjects, kills, seed)),
        ):
            for name, case in cases:
                if not journal.has(kind, f"{seed}/{name}"):
                    record = case()
                    journal.add(record)
                    yield record


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
