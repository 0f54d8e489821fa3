"""Measure the ways of running a frozen backbone side by side.

    python tests/benchmarks/prefix_kernels.py --backbone resnet50 --image-size 224 --images 512

In one process and on the same images: the plain loop of any tutorial (train mode, eager), each
kernel, and what ``choose`` picks for that many images. Every kernel runs once in each round, so
load from outside slows all alike; a figure is the median over the rounds. The exit code is 1 if the
chosen kernel reaches less than 0.9 of the throughput of the better of ONNX Runtime and inductor.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable

import timm
import torch
from torch import Tensor

from siamkit.engine.kernels import KERNELS, available, batch_size, build_kernel, choose
from siamkit.engine.kernels.base import KernelError, Precision

BAR = 0.9
PLAIN = "plain loop, train mode"


def main() -> int:
    options = arguments()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    device = torch.device(options.device)
    net = timm.create_model(options.backbone, pretrained=False, num_classes=0).eval().to(device)
    rows = options.batch or batch_size(device)
    size = options.image_size
    images = torch.rand(rows, 3, size, size, device=device) * 2 - 1

    def plain(images: Tensor) -> Tensor:
        with torch.no_grad():
            return net(images)

    runs: dict[str, Callable[[Tensor], Tensor]] = {}
    setup = dict.fromkeys([PLAIN], 0.0)
    for name in options.kernels or KERNELS:
        if reason := available(device)[name]:
            print(f"{name}: {reason}", file=sys.stderr)
            continue
        began = time.perf_counter()
        try:
            runs[name] = build_kernel(name, net, images, options.precision)
        except KernelError as error:
            print(error, file=sys.stderr)
            continue
        setup[name] = time.perf_counter() - began

    began = time.perf_counter()
    choice = choose(net, images, options.images, precision=options.precision)
    choosing = time.perf_counter() - began
    print(choice.seconds_per_image, choice.setup_seconds, choice.rejected, file=sys.stderr)

    # The plain loop updates its norms' statistics, so the kernels are built before it, and it is
    # given contiguous images, as a data loader makes them.
    runs[PLAIN] = plain
    times: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(options.rounds):
        for name, run in runs.items():
            net.train(name == PLAIN)
            times[name].append(measure(run, images))
    medians = {name: statistics.median(values) for name, values in times.items()}
    show(options, medians, times, setup)

    chosen = choice.kernel.name
    print(
        f"\nchosen for {options.images} images: {chosen}; choosing took {choosing:.1f} s, "
        f"running them {options.images * medians.get(chosen, float('nan')):.1f} s"
    )
    rivals = [medians[name] for name in ("onnxruntime", "inductor") if name in medians]
    if chosen not in medians or not rivals:
        return 0
    ratio = min(rivals) / medians[chosen]
    if options.json:
        print(json.dumps({"kernel": chosen, "seconds": medians[chosen], "best": min(rivals)}))
        return 0
    print(f"throughput, relative to the best of ONNX Runtime and inductor: {ratio:.2f} (bar {BAR})")
    return 0 if ratio >= BAR else 1


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--backbone", default="resnet50", help="a timm model")
    parser.add_argument("--image-size", type=int, default=224)
    parser.add_argument("--images", type=int, default=512, help="what choose is told")
    parser.add_argument("--batch", type=int, help="rows in a batch; the kernels' own by default")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", choices=Precision.__args__, default="fp32")
    parser.add_argument("--json", action="store_true", help="end with one line of JSON")
    parser.add_argument("--kernels", nargs="+", choices=KERNELS)
    return parser.parse_args()


def measure(run: Callable[[Tensor], Tensor], images: Tensor) -> float:
    """Return the seconds per image of one run, after another run that warms the caches."""
    run(images)
    synchronize(images)
    began = time.perf_counter()
    run(images)
    synchronize(images)
    return (time.perf_counter() - began) / len(images)


def synchronize(images: Tensor) -> None:
    if images.device.type != "cpu":
        torch.accelerator.synchronize(images.device)


def show(
    options: argparse.Namespace,
    medians: dict[str, float],
    times: dict[str, list[float]],
    setup: dict[str, float],
) -> None:
    print(
        f"\n{options.backbone}, {options.image_size} px, {options.device}, {options.precision}, "
        f"{torch.get_num_threads()} threads, {options.rounds} rounds\n"
    )
    print("| kernel | ms an image | least | times the plain loop | setup, s |")
    print("|---|---|---|---|---|")
    for name, median in sorted(medians.items(), key=lambda item: -item[1]):
        print(
            f"| {name} | {median * 1e3:.2f} | {min(times[name]) * 1e3:.2f} "
            f"| {medians[PLAIN] / median:.2f} | {setup[name]:.1f} |"
        )


if __name__ == "__main__":
    sys.exit(main())
