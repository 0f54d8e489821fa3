"""What ``siamkit compare`` costs, and whether its intervals cover the truth.

    python tests/benchmarks/compare.py arms FOLDER [--losses A B C D]
    python tests/benchmarks/compare.py intervals FOLDER [--truth 20] [--repetitions 20] [-o DIR]

``arms`` runs the whole command with one head-only arm and with four, each with an empty cache, in
turn, and prints the ratio of the medians. ``intervals`` compares two head-only arms with many
seeds. The difference over the first seeds is the truth; each repetition has three seeds of its
own. It prints in how many repetitions the 95 % interval holds the truth, also for the two networks
without training. Repeat it with the same ``-o`` to go on.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path
from statistics import median

from peers.measure import process

import siamkit
from siamkit.comparison import race
from siamkit.comparison.arms import arms_of
from siamkit.comparison.directory import ComparisonDir
from siamkit.comparison.intervals import difference
from siamkit.comparison.plan import Plan

SEEDS = 3
"""The seeds of a repetition."""


def arms(options: argparse.Namespace) -> None:
    """Print the time of one arm and of several."""
    seconds: dict[int, list[float]] = {1: [], len(options.losses): []}
    for _ in range(options.repeats):
        for number, found in seconds.items():
            with tempfile.TemporaryDirectory() as place:
                command = [
                    sys.executable, "-m", "siamkit", "compare", str(options.folder), "--quiet",
                    "--json", "--policies", "freeze-all", "-o", f"{place}/comparison",
                    "--losses", ",".join(options.losses[:number]),
                    "--backbone", options.backbone, "--image-size", str(options.size),
                    "--epochs", str(options.epochs), "--seeds", "1", "--jobs", str(options.jobs),
                ]  # fmt: skip
                done = process(command, SIAMKIT_CACHE_DIR=f"{place}/cache")
            found.append(done.seconds)
            print(f"{number} of {len(options.losses)} arms: {done.seconds:.1f} s", flush=True)
    few, many = (median(found) for found in seconds.values())
    print(f"one arm {few:.1f} s, {len(options.losses)} arms {many:.1f} s: {many / few:.2f} times")


def intervals(options: argparse.Namespace) -> None:
    """Print how often the intervals hold the truth."""
    race.SURE = 1 - 1e-15  # every arm is trained in every round
    seeds = options.truth + SEEDS * options.repetitions
    axes = {"freeze.name": ["freeze-all"], "loss.name": options.losses[:2]}
    with tempfile.TemporaryDirectory() as place:
        output = options.output or Path(place) / "comparison"
        siamkit.compare(
            data=str(options.folder), backbone=options.backbone, image_size=options.size,
            epochs=options.epochs, losses=options.losses[:2], policies=["freeze-all"],
            augment=["none"], folds=3, seeds=seeds, output=output,
            engine={"cache": "always"},
            watch=lambda s: s.result and print(s.round, "of", s.rounds, s.arm, file=sys.stderr),
        )  # fmt: skip
        plan = Plan(arms_of({**axes, "data.augment.preset": ["none"]}), 3, tuple(range(seeds)))
        results = ComparisonDir(output).done(plan)
    names = [arm.name for arm in plan.arms]

    def totals(arm: int, first: int, count: int) -> list:
        rounds = range(3 * first, 3 * (first + count))
        return [results[arm, n].test["recall@1"] for n in rounds]

    print("| difference | truth | covered | half width |\n|---|---|---|---|")
    for one, other in ((3, 2), (1, 0), (3, 1), (2, 0)):
        truth = difference(totals(one, 0, options.truth), totals(other, 0, options.truth)).value
        hits, widths = 0, []
        for number in range(options.repetitions):
            first = options.truth + SEEDS * number
            found = difference(totals(one, first, SEEDS), totals(other, first, SEEDS))
            hits += found.low <= truth <= found.high
            widths.append(found.half)
        print(
            f"| {names[one]} less {names[other]} | {truth:+.4f} | {hits} of "
            f"{options.repetitions} | {median(widths):.4f} |"
        )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("what", choices=("arms", "intervals"))
    parser.add_argument("folder", type=Path)
    parser.add_argument("--backbone", default="efficientnet-lite0")
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument(
        "--losses", nargs="+", default=["multi-similarity", "supcon", "triplet", "proxy-anchor"]
    )
    parser.add_argument("--jobs", type=int, default=1, help="processes of each command")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--truth", type=int, default=20)
    parser.add_argument("--repetitions", type=int, default=20)
    parser.add_argument("--output", "-o", type=Path)
    options = parser.parse_args()
    {"arms": arms, "intervals": intervals}[options.what](options)


if __name__ == "__main__":
    main()
