"""Measure how the type of cached feature maps affects the final metrics.

Runs of the default recipe, whose second phase reads feature maps from the cache, are made with each
``engine.dtype`` and, for comparison, live. They have the same seeds and differ in nothing else. The
script prints the held-out recall@1 and MAP@R of the last epoch, and the bytes per cached row.

DATA is ``sample``, a folder of class folders, or a tar of one.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from statistics import mean
from typing import Any

from defaults import images_of

import siamkit

KINDS = ("live", "float32", "float16", "bfloat16")


def run(options: argparse.Namespace, kind: str, seed: int, folder: Path) -> tuple[Any, int]:
    """Return the last epoch's metrics, and the bytes of a row in the second phase."""
    engine = {"cache": "off"} if kind == "live" else {"cache": "always", "dtype": kind}
    rows: list[int] = []

    def listen(event: siamkit.Event) -> None:
        if event.name == "engine":
            rows.append(event.data["row_bytes"])

    result = siamkit.fit(
        {
            "data": {"path": str(options.path), "image_size": options.image_size},
            "backbone": options.backbone,
            "engine": {**engine, "cache_dir": str(folder / "cache")},
            "train": {"seed": seed, "device": "cpu", "epochs": options.epochs},
            "run_dir": str(folder / f"{kind}-{seed}"),
        },
        listeners=[listen],
    )
    return result["metrics"]["last"], rows[-1]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--data", default="sample")
    parser.add_argument("--backbone", default="efficientnet-lite0")
    parser.add_argument("--image-size", type=int, default=64)
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    options = parser.parse_args()
    print("| maps | recall@1, by seed | mean | MAP@R, by seed | mean | bytes a row |")
    print("|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        options.path = images_of(options.data, folder)
        for kind in KINDS:
            found = [run(options, kind, seed, folder) for seed in options.seeds]
            columns = []
            for name in ("recall@1", "map@r"):
                values = [metrics[name] for metrics, _ in found]
                columns += [" ".join(f"{v:.3f}" for v in values), f"{mean(values):.3f}"]
            print(f"| {kind} | {' | '.join(columns)} | {found[0][1]} |", flush=True)


if __name__ == "__main__":
    main()
