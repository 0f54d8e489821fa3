"""Compare settings by what training with them gives: recall@1 on held-out classes.

    python tests/benchmarks/trained.py FOLDER... --settings data.fit=crop data.fit=auto
    python tests/benchmarks/trained.py FOLDER --bits 12 --settings data.range=full data.range=auto
    python tests/benchmarks/trained.py FOLDER --policy freeze-all --settings data.views={1,2,4,8}
    python tests/benchmarks/trained.py FOLDER... --always head.name=residual \\
        --settings engine.prefix=auto engine.prefix=int8

Each folder holds class folders. `siamkit train` runs on it once for each setting and seed, with the
settings of ``--always`` and its defaults otherwise: on half of the classes, with a quarter to
choose the best epoch. The table shows the medians over the seeds: recall@1 on the last quarter, and
the CPU seconds of the whole command, with an empty cache. The last column is the difference of
recall@1 to the first setting, with the same images and seed: its mean, and the one that is furthest
below. With ``--bits`` the images are first written as grey files of 16 bits whose values have so
many bits, as scanners deliver them.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import sys
import tempfile
from pathlib import Path
from statistics import fmean, median

from depths import deep
from fits import samples_of
from peers.measure import process

from siamkit.data.class_folders import class_images
from siamkit.portable.folders import scan

PARTS = ("train", "train", "val", "test")


def split(folder: Path, bits: int | None, per_class: int, target: Path) -> Path:
    """Copy a set into train, val and test by half, a quarter and a quarter of its classes."""
    names = class_images(scan(folder)).classes
    samples = samples_of(folder, per_class)
    if bits:
        samples, _ = deep(samples, bits, target)
    order = random.Random(0).sample(range(len(names)), len(names))
    part_of = {label: PARTS[4 * place // len(order)] for place, label in enumerate(order)}
    made = target / (f"{folder.name}, {bits} bits" if bits else folder.name)
    for sample in samples:
        place = made / part_of[sample.label] / names[sample.label]
        place.mkdir(parents=True, exist_ok=True)
        shutil.copy(sample.path, place)
    return made


def recall_of(folder: Path, given: list[str]) -> tuple[float, float, float]:
    """Train, and return recall@1 on the test classes, before and after, and the CPU seconds."""
    with tempfile.TemporaryDirectory() as place:
        command = [
            sys.executable, "-m", "siamkit", "train", str(folder), "--json", "--no-report",
            "--run-dir", f"{place}/run", *given,
        ]  # fmt: skip
        done = process(command, SIAMKIT_CACHE_DIR=f"{place}/cache")
    metrics = json.loads(done.printed)["metrics"]["test"]
    return metrics["untrained"]["recall@1"], metrics["best"]["recall@1"], done.cpu


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("folders", type=Path, nargs="+")
    parser.add_argument("--settings", nargs="+", required=True, metavar="KEY=VALUE")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--bits", type=int, help="the bits of the grey values to write")
    parser.add_argument("--per-class", type=int, default=10, help="images used of each class")
    parser.add_argument("--backbone", default="efficientnet-lite0")
    parser.add_argument("--image-size", type=int, default=96)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--policy", default="stages")
    parser.add_argument("--always", nargs="*", default=[], metavar="KEY=VALUE")
    options = parser.parse_args()
    print("| set | px | setting | untrained | trained | CPU s | mean, least difference |")
    print("|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as place:
        for folder in options.folders:
            used = split(folder, options.bits, options.per_class, Path(place))
            first: list[float] = []
            for setting in options.settings:
                sets = [part for value in (*options.always, setting) for part in ("--set", value)]
                results = [
                    recall_of(used, [
                        "--backbone", options.backbone, "--image-size", str(options.image_size),
                        "--epochs", str(options.epochs), "--seed", str(seed),
                        "--freeze-policy", options.policy, *sets,
                    ])
                    for seed in options.seeds
                ]  # fmt: skip
                untrained, trained, cpu = (median(column) for column in zip(*results, strict=True))
                recalls = [recall for _, recall, _ in results]
                first = first or recalls
                apart = [recall - other for recall, other in zip(recalls, first, strict=True)]
                print(
                    f"| {used.name} | {options.image_size} | {setting} | {untrained:.3f} | "
                    f"{trained:.3f} | {cpu:.0f} | {fmean(apart):+.3f}, {min(apart):+.3f} |",
                    flush=True,
                )


if __name__ == "__main__":
    main()
