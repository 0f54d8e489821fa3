"""The head ``multistage`` without training, against the frozen network's own features.

    python tests/benchmarks/closed_form.py FOLDER... [--seeds 5] [--backbone NAME] [--size 64]

Each folder holds a folder per class. A seed holds out half of the classes, and recall@1 is measured
on them. The features are computed once and cached, so the seeds after the first take seconds.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from statistics import fmean

import siamkit


def main() -> None:
    """Print the recall@1 of both, and the gain, for each data set."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--backbone", default="efficientnet-lite0")
    parser.add_argument("--size", type=int, default=64)
    args = parser.parse_args()
    print(f"{'set':<20} {'frozen':>7} {'multistage':>10} {'gain':>7} {'seconds':>8}", flush=True)
    for folder in args.folders:
        started = time.perf_counter()
        rows = [measured(folder, args.backbone, args.size, seed) for seed in range(args.seeds)]
        seconds = (time.perf_counter() - started) / args.seeds
        before, after = (fmean(values) for values in zip(*rows, strict=True))
        figures = f"{before:7.3f} {after:10.3f} {after - before:+7.3f} {seconds:8.1f}"
        print(f"{folder.name:<20} {figures}", flush=True)


def measured(folder: Path, backbone: str, size: int, seed: int) -> tuple[float, float]:
    """Return recall@1 on unseen classes: of the frozen features, and of the head."""
    with tempfile.TemporaryDirectory() as place:
        result = siamkit.fit(
            data=str(folder), backbone=backbone, image_size=size, epochs=0, seed=seed,
            run_dir=Path(place) / "run", progress=False, report=False,
        )  # fmt: skip
    metrics = result["metrics"]
    return metrics["untrained"]["recall@1"], metrics["best"]["recall@1"]


if __name__ == "__main__":
    main()
