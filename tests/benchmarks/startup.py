"""Measure the CPU time of `siamkit --help`, and of the libraries that draw it.

    python tests/benchmarks/startup.py

Each command is a process of its own, and the commands alternate. Prints the medians, and the ratio
to the limit: a help page of one command, drawn by typer and rich.
"""

from __future__ import annotations

import argparse
import sys
from statistics import median

from peers.measure import process

COMMANDS = {
    "limit": (
        "import typer; app = typer.Typer(); app.command()(lambda: None); app(['--help'])",
        "typer and rich alone",
    ),
    "help": ("from siamkit.cli.app import main; main(['--help'])", "siamkit --help"),
    "version": ("from siamkit.cli.app import main; main(['--version'])", "siamkit --version"),
}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=20)
    options = parser.parse_args()
    spent: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for turn in range(options.repeats + 1):
        for name, (program, _) in COMMANDS.items():
            cpu = process([sys.executable, "-c", program], threads=1).cpu
            if turn:  # the first turn compiles
                spent[name].append(cpu)
    limit = median(spent["limit"])
    for name, (_, text) in COMMANDS.items():
        middle = median(spent[name])
        print(f"{text:22}{middle:6.2f} s of CPU, {middle / limit:.2f} times the limit")


if __name__ == "__main__":
    main()
