"""``train --recipe auto`` against the defaults and against single recipes, on unseen classes.

    python tests/benchmarks/recipe.py FOLDER... --budget 5m --seeds 0 1 2 [--grid]

Each folder holds class folders. A seed divides the classes: half trains, a quarter chooses the best
epoch, and recall@1 is measured on the last quarter, which no choice sees. The time is that of the
whole command, with an empty cache. With ``--grid``, each candidate of the recipe is also trained
alone, for as many steps as the final training may have, and so is the head in closed form.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import sys
import tempfile
from pathlib import Path
from statistics import fmean

from peers.measure import process

from siamkit.comparison.candidates import CANDIDATES
from siamkit.data.class_folders import class_images
from siamkit.portable.folders import scan

PARTS = ("train", "train", "val", "test")


def divided(folder: Path, seed: int, target: Path) -> Path:
    """Link a set into train, val and test by half, a quarter and a quarter of its classes."""
    images = class_images(scan(folder))
    order = random.Random(seed).sample(range(len(images.classes)), len(images.classes))
    part_of = {label: PARTS[4 * place // len(order)] for place, label in enumerate(order)}
    made = target / f"{folder.name}-{seed}"
    for number, sample in enumerate(images.samples):
        place = made / part_of[sample.label] / images.classes[sample.label]
        place.mkdir(parents=True, exist_ok=True)
        shutil.copy(sample.path, place / f"{number}{sample.path.suffix}")
    return made


def trained(folder: Path, given: list[str], options: argparse.Namespace) -> tuple[float, float]:
    """Train, and return recall@1 on the test classes, and the seconds of the command."""
    with tempfile.TemporaryDirectory() as place:
        command = [
            sys.executable, "-m", "siamkit", "train", str(folder), "--json", "--quiet",
            "--run-dir", f"{place}/run", "--backbone", options.backbone,
            "--image-size", str(options.size), *given,
        ]  # fmt: skip
        done = process(command, threads=options.threads, SIAMKIT_CACHE_DIR=f"{place}/cache")
    metrics = json.loads(done.printed)["metrics"]["test"]
    return metrics["best"]["recall@1"], done.seconds


def arms(options: argparse.Namespace) -> dict[str, list[str]]:
    """Return the flags of each row of the table."""
    rows = {"auto": ["--recipe", "auto", "--budget", options.budget], "defaults": []}
    if options.grid:
        rows["closed form"] = ["--epochs", "0"]
        for values in CANDIDATES:
            name = ", ".join(str(v) for k, v in values.items() if k != "freeze.warmup")
            sets = [part for k, v in values.items() for part in ("--set", f"{k}={v}")]
            rows[name] = [*sets, "--epochs", str(options.epochs), "--set", "train.epoch_steps=25"]
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("folders", type=Path, nargs="+")
    parser.add_argument("--budget", default="5m")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--backbone", default="efficientnet-lite0")
    parser.add_argument("--size", type=int, default=96)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--grid", action="store_true")
    parser.add_argument("--epochs", type=int, default=16, help="of 25 steps at most, with --grid")
    options = parser.parse_args()
    print("| set | recipe | recall@1 | by seed | s |\n|---|---|---|---|---|", flush=True)
    with tempfile.TemporaryDirectory() as place:
        for folder in options.folders:
            sets = {seed: divided(folder, seed, Path(place)) for seed in options.seeds}
            for name, flags in arms(options).items():
                found = [
                    trained(data, [*flags, "--seed", str(seed)], options)
                    for seed, data in sets.items()
                ]
                recalls, seconds = zip(*found, strict=True)
                each = " ".join(f"{value:.3f}" for value in recalls)
                print(
                    f"| {folder.name} | {name} | {fmean(recalls):.3f} | {each} | "
                    f"{fmean(seconds):.0f} |",
                    flush=True,
                )


if __name__ == "__main__":
    main()
