"""Compare whole `siamkit train` commands of this version and another one.

    git worktree add ../before COMMIT
    python tests/benchmarks/two_versions.py ../before --images 256 --policies freeze-all stages

The commands of both versions alternate, each in a process of its own with an empty cache, on the
same photograph-sized JPEG files. A run is timed as a user types it: start of the interpreter,
imports, choice of a kernel, training, held-out embeddings and calibration, without the report.
Prints the medians and their ratio. The weights are random, because speed doesn't depend on them.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

from defaults import images_of
from peers import data

HERE = Path(__file__).resolve().parents[2]


def seconds(tree: Path, images: Path, policy: str, epochs: int, given: list[str]) -> float:
    """Return the seconds of one command of the version in ``tree``.

    Raises:
        SystemExit: The command failed.
    """
    with tempfile.TemporaryDirectory() as folder:
        environment = {
            **os.environ,
            "PYTHONPATH": str(tree),
            "SIAMKIT_CACHE_DIR": f"{folder}/cache",
            "HF_HUB_OFFLINE": "1",
        }
        command = [
            sys.executable, "-m", "siamkit", "train", str(images), "--backbone", "resnet50",
            "--no-pretrained", "--freeze-policy", policy, "--epochs", str(epochs),
            "--set", "data.views=1", "--no-report", "--run-dir", f"{folder}/run", *given,
        ]  # fmt: skip
        started = time.perf_counter()
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        taken = time.perf_counter() - started
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}\nended with {done.returncode}:\n{done.stderr}")
    return taken


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("other", type=Path, help="a checkout of the other version")
    parser.add_argument("--images", type=int, default=256)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--policies", nargs="+", default=["freeze-all"])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--data", default="sample")
    parser.add_argument("given", nargs="*", help="after --: further flags of `siamkit train`")
    options = parser.parse_args()
    trees = {"other": options.other.resolve(), "this": HERE}
    with tempfile.TemporaryDirectory() as folder:
        images = data.build(
            images_of(options.data, Path(folder)), Path(folder) / "images", options.images,
            per_batch_class=4, picture=(500, 375),
        )  # fmt: skip
        for policy in options.policies:
            times: dict[str, list[float]] = {name: [] for name in trees}
            for _ in range(options.repeats):
                for name, tree in trees.items():
                    taken = seconds(tree, images, policy, options.epochs, options.given)
                    times[name].append(taken)
                    print(f"{policy}: {name} {taken:.1f} s", flush=True)
            this, other = median(times["this"]), median(times["other"])
            print(
                f"{policy}, {options.epochs} epochs: this version {this:.1f} s, the other "
                f"{other:.1f} s, ratio {this / other:.2f}"
            )


if __name__ == "__main__":
    main()
