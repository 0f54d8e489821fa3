"""Measure what checkpoints within epochs cost: the share of a run's wall time, in pairs of runs.

    python tests/benchmarks/checkpoint_cost.py --every 60s --policies stages full --pairs 3

Each pair trains the same ResNet50 on the same images with ``--checkpoint-every`` and without it, in
processes of their own, and alternates which one comes first. The script prints the difference of
the wall times of each pair. Two runs on a shared machine may differ by more than checkpoints cost,
so it also prints the share of a run's wall time that the run spent in saving between steps. The
weights are random, because speed doesn't depend on them.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path
from statistics import median

from defaults import images_of
from peers import data
from peers.measure import process

# Times every checkpoint that is not written at the end of an epoch.
PROGRAM = """
import sys, time
from siamkit.training.loop import Trainer
save, spent = Trainer.save, []
def timed(trainer, *, best):
    started = time.perf_counter()
    save(trainer, best=best)
    if trainer.state.epoch_step:
        spent.append(time.perf_counter() - started)
Trainer.save = timed
from siamkit.cli.app import main
code = main(sys.argv[1:])
import json
print(json.dumps(spent))
sys.exit(code)
"""


def run(images: Path, policy: str, epochs: int, every: str | None) -> tuple[float, list[float]]:
    """Return the seconds of a run, and those of each checkpoint within an epoch."""
    with tempfile.TemporaryDirectory() as folder:
        command = [
            sys.executable, "-c", PROGRAM, "train", str(images), "--backbone", "resnet50",
            "--no-pretrained", "--freeze-policy", policy, "--epochs", str(epochs), "--quiet",
            "--no-report", "--run-dir", f"{folder}/run",
            *(["--checkpoint-every", every] if every else []),
        ]  # fmt: skip
        done = process(command, SIAMKIT_CACHE_DIR=f"{folder}/cache")
    return done.seconds, json.loads(done.printed.splitlines()[-1])


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--every", default="60s", help="the interval between checkpoints")
    parser.add_argument("--policies", nargs="+", default=["stages", "full"])
    parser.add_argument("--data", default="sample")
    parser.add_argument("--images", type=int, default=1024)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--pairs", type=int, default=3, help="pairs of runs for each policy")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        images = data.build(
            images_of(given.data, Path(folder)), Path(folder) / "images", given.images,
            per_batch_class=4, picture=(500, 375),
        )  # fmt: skip
        for policy in given.policies:
            differences, shares = [], []
            for number in range(given.pairs):
                order = [given.every, None] if number % 2 else [None, given.every]
                times = {e: run(images, policy, given.epochs, e) for e in order}
                with_them, spent = times[given.every]
                without = times[None][0]
                differences.append(with_them / without - 1)
                shares.append(sum(spent) / with_them)
                print(
                    f"{policy}: {with_them:.1f} s with {len(spent)} checkpoints within epochs, "
                    f"{without:.1f} s without: {differences[-1]:+.1%}; "
                    f"saving them took {shares[-1]:.2%}",
                    flush=True,
                )
            print(
                f"{policy}: median {median(differences):+.1%} of the wall time; "
                f"{median(shares):.2%} in saving"
            )


if __name__ == "__main__":
    main()
