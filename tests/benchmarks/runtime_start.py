"""The CPU time of a process that verifies two images: siamkit-runtime against siamkit and a run.

    python tests/benchmarks/runtime_start.py RUN MODEL A B [--python PYTHON] [--rounds 7]

RUN is a run, MODEL is the same network exported by ``siamkit export``, A and B are images. PYTHON
is an interpreter that has siamkit-runtime and no torch, such as that of a new environment; without
it, this interpreter is used, which must have siamkit-runtime too. Each round starts both processes;
the order alternates. CPU time counts all threads, user and system, from the start of the process to
its end. The result is the median of each side, and the ratio of the medians.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
from pathlib import Path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("model", type=Path)
    parser.add_argument("a", type=Path)
    parser.add_argument("b", type=Path)
    parser.add_argument("--python", default=sys.executable)
    parser.add_argument("--rounds", type=int, default=7)
    given = parser.parse_args()
    images = [str(given.a.absolute()), str(given.b.absolute())]
    run, model = (str(path.absolute()) for path in (given.run, given.model))
    sides = {
        "siamkit-runtime verify MODEL": [
            given.python, "-m", "siamkit_runtime", "verify", model, *images, "--json",
        ],
        "siamkit verify MODEL": [
            sys.executable, "-m", "siamkit", "verify", model, *images, "--json",
        ],
        "siamkit verify RUN": [
            sys.executable, "-m", "siamkit", "verify", run, *images, "--device", "cpu", "--json",
        ],
        "python -c 'import numpy'": [given.python, "-c", "import numpy"],
    }  # fmt: skip
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    scores = {}
    for number in range(given.rounds + 1):
        for name in sorted(sides, reverse=bool(number % 2)):
            spent, out = cpu(sides[name], Path(given.python) if "runtime" in name else None)
            if number:  # the first round fills the file cache
                seconds[name].append(spent)
            if out:
                scores[name] = json.loads(out)["score"]
    for name, values in seconds.items():
        spread = f"{min(values):.2f} to {max(values):.2f}"
        score = f", score {scores[name]:.6f}" if name in scores else ""
        print(f"{name:30} {statistics.median(values):.3f} s of CPU ({spread}){score}")
    ours, theirs = (statistics.median(seconds[f"{name}"]) for name in
                    ("siamkit-runtime verify MODEL", "siamkit verify RUN"))  # fmt: skip
    print(f"ratio of the medians: {ours / theirs:.3f} (bar: 0.2); CPU {ours:.3f} s (bar: 0.6 s)")


def cpu(command: list[str], alone: Path | None) -> tuple[float, str]:
    """Return the CPU seconds of a process and its children, and what it printed.

    Args:
        command: The command.
        alone: Whether the process must not see this environment's PYTHONPATH.
    """
    environment = dict(os.environ)
    if alone is not None and str(alone) != sys.executable:
        environment.pop("PYTHONPATH", None)
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{done.stderr}")
    spent = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return spent, done.stdout


if __name__ == "__main__":
    main()
