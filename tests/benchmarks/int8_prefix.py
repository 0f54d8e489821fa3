"""Measure a frozen backbone in int8 against ONNX Runtime in float32, on a CPU.

    python tests/benchmarks/int8_prefix.py --backbone resnet50 --image-size 224

Both run the same images in turn, in one process, in batches as the engine's. Prints the medians,
the ratio of the throughputs, and the seconds that quantizing takes beyond building the float32
kernel. What int8 costs in recall is measured by training with it:

    python tests/benchmarks/trained.py FOLDER... --settings engine.prefix=auto engine.prefix=int8
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import timm
import torch

from siamkit.engine.kernels.build import KernelSource
from siamkit.engine.kernels.onnxruntime import exported
from siamkit.inference.quantizing.onnx import OnnxQuantizer
from siamkit.model.machine import this_machine
from siamkit.model.quantized import ROWS, in_rows
from siamkit.portable.sessions import onnx_network
from siamkit.training.quantize import CALIBRATION_IMAGES

BAR = 2.5


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--backbone", default="resnet50", help="a timm model")
    parser.add_argument("--image-size", type=int, default=224)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    net = timm.create_model(options.backbone, pretrained=False, num_classes=0).eval()
    size = options.image_size
    images = torch.randn(CALIBRATION_IMAGES, 3, size, size)
    batch = images[:ROWS]
    source = KernelSource(net, batch, "fp32")
    started = time.perf_counter()
    kernel, _ = source.start("onnxruntime")
    building = time.perf_counter() - started
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        started = time.perf_counter()
        (place / "float.onnx").write_bytes(exported(source.graph, batch))
        quantizer = OnnxQuantizer(
            place / "float.onnx", images.numpy(), place, ROWS, bits=8, threads=options.threads
        )
        graph = quantizer.graph(())
        quantizing = time.perf_counter() - started
    session = onnx_network(graph, options.threads)
    runs = {"float32": lambda: kernel(batch), "int8": lambda: in_rows(session.run, batch)}
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for turn in range(options.rounds + 1):
        for name, run in runs.items():
            started = time.perf_counter()
            run()
            if turn:  # the first turn warms up
                seconds[name].append((time.perf_counter() - started) / ROWS)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    ratio = medians["float32"] / medians["int8"]
    print(f"{options.backbone}, {size} px, {options.threads} threads, {this_machine()}")
    for name, median in medians.items():
        print(f"{name:8} {1e3 * median:6.1f} ms per image")
    print(f"int8 runs {ratio:.2f} times as many images per second (bar {BAR})")
    print(f"building the float32 kernel {building:.1f} s, quantizing {quantizing:.1f} s")


if __name__ == "__main__":
    main()
