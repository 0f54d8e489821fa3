"""Compare an exported network with the eager eval loop of torch: throughput, size and quality.

    python tests/benchmarks/export.py FOLDER --image-size 96 --epochs 6
    python tests/benchmarks/export.py sample --formats onnx openvino

Trains `--backbone` on the data (or takes `--run`), and exports the run to each format in float32
and int8. Then every network embeds the same prepared batches of 32 images, round by round, one
network after the other. The table shows the medians over the rounds, the ratio to torch, the size,
the time of the export, and the recall@1 that the export measured on the validation images.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from statistics import median

import siamkit
from siamkit.api.exporting import _images
from siamkit.api.models import open_run
from siamkit.inference.export.images import PreparedImages
from siamkit.inference.export.runners import Runner, onnx_runner, openvino_runner, torch_runner
from siamkit.model.machine import this_machine

RUN = {"onnx": onnx_runner, "openvino": openvino_runner}


def speeds(runners: dict[str, Runner], batches: list, rounds: int) -> dict[str, float]:
    """Return the median images per second of each runner; the runners take turns."""
    times: dict[str, list[float]] = {name: [] for name in runners}
    for run in runners.values():
        run(batches[0])
    for _ in range(rounds):
        for name, run in runners.items():
            start = time.perf_counter()
            for batch in batches:
                run(batch)
            times[name].append(time.perf_counter() - start)
    count = sum(map(len, batches))
    return {name: count / median(seconds) for name, seconds in times.items()}


def main() -> None:
    """Train, export, measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("data", nargs="?", default="sample")
    parser.add_argument("--run", type=Path, help="a finished run, instead of a training")
    parser.add_argument("--backbone", default="efficientnet-lite0")
    parser.add_argument("--image-size", type=int, default=96)
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--formats", nargs="+", default=["onnx"], choices=list(RUN))
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--images", type=int, default=256, help="images per round")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        run_dir = options.run or place / "run"
        if options.run is None:
            siamkit.fit(
                data=options.data, backbone=options.backbone, image_size=options.image_size,
                epochs=options.epochs, run_dir=run_dir, report=False, progress=False,
            )  # fmt: skip
        net = siamkit.load_model(run_dir)
        runners: dict[str, Runner] = {"torch float32": torch_runner(net)}
        rows: dict[str, dict] = {}
        spent: dict[str, float] = {}
        for format in options.formats:
            for quantize in (None, "int8"):
                result = siamkit.export(
                    run_dir, place / f"{format}{quantize}", format=format, quantize=quantize
                )
                label = f"{format} {quantize or 'float32'}"
                runners[label] = RUN[format](result.output / result["model"])
                rows["torch float32"], rows[label] = result.quality[0], result.quality[-1]
                spent[label] = result["seconds"]
                print(f"{label}: {'; '.join(result.notices) or 'no notices'}")
        run = open_run(run_dir)
        val = PreparedImages(_images(run)[1], net.preprocessing, run.config.data.max_pixels)
        images = val.cycled(options.images)
        batches = [images[start : start + 32] for start in range(0, len(images), 32)]
        found = speeds(runners, batches, options.rounds)
    machine = this_machine()
    print(f"\n{machine.cpu}, {machine.threads} threads, int8 instructions: {machine.int8}\n")
    print("| network | images/s | to torch | size | recall@1 | EER | export |")
    print("|---|---|---|---|---|---|---|")
    for label, speed in found.items():
        metrics = rows[label]["metrics"]
        took = f"{spent[label]:.0f} s" if label in spent else ""
        print(
            f"| {label} | {speed:.0f} | {speed / found['torch float32']:.2f}x "
            f"| {rows[label]['bytes'] / 1e6:.2f} MB | {metrics['recall@1']:.4f} "
            f"| {metrics['eer']:.4f} | {took} |"
        )


if __name__ == "__main__":
    main()
