"""``train --recipe auto`` against the defaults and against single recipes, on unseen classes.

    python tests/benchmarks/recipe.py FOLDER... --budget 5m --seeds 0 1 2 [--grid] [--out FILE]

Each folder holds class folders. A seed divides the classes: half trains, a quarter chooses the best
epoch, and recall@1 is measured on the last quarter, which no choice sees. The time is that of the
whole command, with an empty cache. With ``--grid``, each candidate of the recipe is also trained
alone, for as many steps as the final training may have, and so is the head in closed form. Each
result is written to ``--out`` at once, and the same command goes on from there.
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
from typing import Any

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


def table(results: list[dict[str, Any]]) -> None:
    """Print the means over the seeds, and how ``auto`` compares with the others seed by seed."""
    print(
        "| set | recipe | recall@1 | by seed | s | auto is higher by |\n|---|---|---|---|---|---|"
    )
    for folder in dict.fromkeys(one["set"] for one in results):
        rows: dict[str, dict[int, dict[str, Any]]] = {}
        for one in results:
            if one["set"] == folder:
                rows.setdefault(one["recipe"], {})[one["seed"]] = one
        auto = rows.get("auto", {})
        for name, found in rows.items():
            gains = [auto[s]["recall"] - found[s]["recall"] for s in found if s in auto]
            each = " ".join(f"{found[seed]['recall']:.3f}" for seed in sorted(found))
            mean = fmean(one["recall"] for one in found.values())
            seconds = fmean(one["seconds"] for one in found.values())
            gain = f"{fmean(gains):+.3f}" if gains and name != "auto" else ""
            print(f"| {folder} | {name} | {mean:.3f} | {each} | {seconds:.0f} | {gain} |")


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
    parser.add_argument("--out", type=Path, help="a file of JSON lines")
    options = parser.parse_args()
    written = options.out.read_text() if options.out and options.out.exists() else ""
    results = [json.loads(line) for line in written.splitlines()]
    done = {(one["set"], one["seed"], one["recipe"]) for one in results}
    for seed in options.seeds:
        for folder in options.folders:
            with tempfile.TemporaryDirectory() as place:
                data = divided(folder, seed, Path(place))
                for name, flags in arms(options).items():
                    if (folder.name, seed, name) in done:
                        continue
                    recall, seconds = trained(data, [*flags, "--seed", str(seed)], options)
                    found = {"set": folder.name, "seed": seed, "recipe": name, "recall": recall}
                    results.append({**found, "seconds": seconds})
                    print(results[-1], file=sys.stderr, flush=True)
                    if options.out:
                        with options.out.open("a") as file:
                            file.write(json.dumps(results[-1]) + "\n")
    table(results)


if __name__ == "__main__":
    main()
