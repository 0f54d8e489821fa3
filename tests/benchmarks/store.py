"""Measure what one cached row costs in stores of different sizes: it should be the same in all.

    python tests/benchmarks/store.py --rows 1000 100000 1000000

Fills a store with synthetic rows in batches, as a run does, opens it anew, asks which keys are
missing, and reads random batches. Each size runs in a process of its own. Prints microseconds per
row, the ratio to the smallest store, and the memory that the process needs beyond torch.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import resource
import sys
import tempfile
import time
from pathlib import Path

from peers.measure import process

BATCH = 64
READ = 200  # batches


def measured(count: int, width: int) -> dict[str, float]:
    """Return the microseconds per row of each kind of work, and the memory in megabytes."""
    import torch

    from siamkit.engine.cache.store import open_store

    keys = [hashlib.sha256(b"%d" % i).digest()[:16] for i in range(count)]
    batch = torch.randn(BATCH, width)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    spent: dict[str, float] = {}

    def timed(name: str, started: float, rows: int) -> None:
        spent[name] = 1e6 * (time.perf_counter() - started) / rows

    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        with open_store(Path(folder), {"count": count}, (width,), torch.float32) as store:
            with store.filling() as fill:
                for start in range(0, count, BATCH):
                    part = keys[start : start + BATCH]
                    fill.add(part, batch[: len(part)])
        timed("fill", started, count)
        started = time.perf_counter()
        with open_store(Path(folder), {"count": count}, (width,), torch.float32) as store:
            assert not store.missing(keys)
            timed("open and check", started, count)
            rows = store.rows(keys)
            generator = torch.Generator().manual_seed(0)
            started = time.perf_counter()
            for _ in range(READ):
                rows.gather(torch.randint(count, (BATCH,), generator=generator))
            timed("read a batch", started, READ * BATCH)
    spent["memory"] = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    return spent


def main() -> None:
    """Measure each size in a process of its own, and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--rows", type=int, nargs="+", default=[1_000, 100_000, 1_000_000])
    parser.add_argument("--width", type=int, default=512, help="float32 values in a row")
    parser.add_argument("--one", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(measured(options.one, options.width)))
        return
    first: dict[str, float] = {}
    print("| rows | work | us per row | times the smallest |\n|---|---|---|---|")
    for count in options.rows:
        command = [sys.executable, __file__, "--one", str(count), "--width", str(options.width)]
        spent = json.loads(process(command).printed)
        first = first or spent
        for name, value in spent.items():
            unit = " MB" if name == "memory" else ""
            print(f"| {count:,} | {name} | {value:.3g}{unit} | {value / first[name]:.2f} |")


if __name__ == "__main__":
    main()
