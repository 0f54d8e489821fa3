"""Measure exact accumulation: its gradients, memory and time, and what large batches bring.

    python tests/benchmarks/accumulation.py gradients
    python tests/benchmarks/accumulation.py cost --backbone resnet50 --batch 512 --micro 32
    python tests/benchmarks/accumulation.py quality DATA --seeds 0 1 2

`gradients` compares one batch with the same batch in parts. `cost` runs optimizer steps with one
loss over the batch (exact) and with a loss for each micro-batch (naive), and steps of a single
micro-batch, each in a process of its own, in turn. Memory is the peak of the resident set above
that before the network was built. `quality` trains with large exact and with small batches, for
equal numbers of images. The weights of the first two are random.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

from peers.measure import process

TIME_LIVE, TIME_CACHED, MEMORY = 1.4, 1.1, 1.2


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("what", choices=["gradients", "cost", "quality", "step"])
    parser.add_argument("data", nargs="?", default="sample")
    parser.add_argument("--backbone", default="resnet50")
    parser.add_argument("--batch", type=int, default=512)
    parser.add_argument("--micro", type=int, default=32)
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--mode", default="")
    options = parser.parse_args()
    {"gradients": gradients, "cost": cost, "quality": quality, "step": step}[options.what](options)


def gradients(options: argparse.Namespace) -> None:
    """Print the largest relative difference of a gradient, for two networks."""
    import torch
    from torch import nn

    torch.manual_seed(0)
    small = nn.Sequential(
        nn.Conv2d(3, 16, 3), nn.GELU(), nn.GroupNorm(4, 16), nn.AdaptiveAvgPool2d(1),
        nn.Flatten(), nn.Linear(16, 16),
    ).double()  # fmt: skip
    images = torch.randn(options.batch, 3, 16, 16, dtype=torch.float64)
    print(f"float64, small network: {_apart(small, images, options.micro):.1e} (bar 1e-10)")
    net = _network(options.backbone)
    images = torch.randn(options.batch, 3, options.size, options.size)
    print(f"float32, {options.backbone}: {_apart(net, images, options.micro):.1e} (bar 1e-4)")


def _apart(net: Any, images: Any, micro: int) -> float:
    whole, parts = (_gradients(net, images, size) for size in (len(images), micro))
    return max(
        float((parts[n] - g).abs().max() / g.abs().max().clamp_min(1e-12))
        for n, g in whole.items()
        if float(g.abs().max()) > 1e-7
    )


def _gradients(net: Any, images: Any, micro: int) -> dict[str, Any]:
    import torch

    stepper = _stepper(net, torch.optim.SGD(net.parameters(), lr=0.0))
    stepper(_work(images, micro, exact=True))
    return {n: p.grad.clone() for n, p in net.named_parameters() if p.grad is not None}


def _network(backbone: str) -> Any:
    """Return a network whose batch norms stay in eval mode."""
    import timm
    import torch

    torch.manual_seed(0)
    net = timm.create_model(backbone, num_classes=128).train()
    for module in net.modules():
        if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
            module.eval()
    return net


def _stepper(net: Any, optimizer: Any) -> Any:
    import torch
    from torch.nn import functional as F

    from siamkit import api
    from siamkit.config import LossConfig
    from siamkit.interfaces import Loss, LossContext
    from siamkit.training.build import built
    from siamkit.training.step import Stepper

    loss = built(LossConfig(name="supcon"), api.registries()["loss"], Loss, LossContext(128, 10))
    stepper = Stepper(net, loss, optimizer, torch.device("cpu"))
    stepper.forward = lambda images: F.normalize(net(images))
    return stepper


def _work(images: Any, micro: int, exact: bool) -> list[Any]:
    import torch

    from siamkit.batches import Batch
    from siamkit.training.step import LossWork

    labels = torch.arange(len(images)) // 4
    parts = list(
        zip(*(t.split(micro) for t in (images, labels, torch.arange(len(images)))), strict=True)
    )
    batches = [Batch(*part) for part in parts]
    if exact:
        return [LossWork(iter(batches), len(batches), None, 1.0)]
    return [LossWork(iter([batch]), 1, None, len(batch) / len(images)) for batch in batches]


def cost(options: argparse.Namespace) -> None:
    """Print the memory and the time of steps, live and from cached features."""
    given = ["--backbone", options.backbone, "--size", str(options.size),
             "--batch", str(options.batch), "--micro", str(options.micro)]  # fmt: skip
    for kind, bar in (("live", TIME_LIVE), ("head", TIME_CACHED)):
        found: dict[str, list[dict[str, float]]] = {"exact": [], "naive": [], "one": []}
        for _ in range(options.repeats):
            for mode, results in found.items():
                command = [sys.executable, __file__, "step", *given, "--mode", f"{kind}-{mode}"]
                results.append(json.loads(process(command, threads=2).printed))
        seconds = {mode: median(r["seconds"] for r in runs) for mode, runs in found.items()}
        peaks = {mode: median(r["peak"] for r in runs) for mode, runs in found.items()}
        print(
            f"{kind}: exact {seconds['exact']:.2f} s, naive {seconds['naive']:.2f} s per step of "
            f"{options.batch}: {seconds['exact'] / seconds['naive']:.2f} (bar {bar}); peak "
            f"{peaks['exact'] / 1e6:.0f} MB, of a micro-batch of {options.micro} "
            f"{peaks['one'] / 1e6:.0f} MB: {peaks['exact'] / peaks['one']:.2f} (bar {MEMORY})"
        )


def step(options: argparse.Namespace) -> None:
    """Run steps in this process, and print their time and the peak of its memory."""
    import torch

    kind, mode = options.mode.split("-")
    if kind == "head":  # as from cached features
        net: Any = torch.nn.Sequential(
            torch.nn.Linear(2048, 512), torch.nn.ReLU(), torch.nn.Linear(512, 128)
        )
        draw = lambda: torch.randn(options.batch, 2048)  # noqa: E731
    else:
        net = None
        draw = lambda: torch.randn(options.batch, 3, options.size, options.size)  # noqa: E731
    _status("VmRSS")
    before = _status("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    net = net or _network(options.backbone)
    stepper = _stepper(net, torch.optim.AdamW(net.parameters()))
    images = draw()
    if mode == "one":
        images = images[: options.micro].clone()
    rounds = 30 if kind == "head" else 3
    seconds = []
    for _ in range(rounds):
        started = time.perf_counter()
        stepper(_work(images, options.micro, exact=mode == "exact"))
        seconds.append(time.perf_counter() - started)
    print(json.dumps({"seconds": median(seconds[1:]), "peak": _status("VmHWM") - before}))


def _status(name: str) -> int:
    """Return a figure of this process in bytes, by its name in ``/proc/self/status``."""
    text = Path("/proc/self/status").read_text()
    found = re.search(rf"{name}:\s+(\d+)", text)
    assert found is not None
    return int(found[1]) * 1024


def quality(options: argparse.Namespace) -> None:
    """Print recall@1 after training with large and with small batches, for each seed."""
    from defaults import images_of

    import siamkit

    with tempfile.TemporaryDirectory() as folder:
        images = images_of(options.data, Path(folder))
        settings = {
            f"{options.batch} exact": {"batch_size": options.batch, "micro_batch": options.micro},
            f"{options.micro}": {"batch_size": options.micro},
        }
        for name, train in settings.items():
            scores = []
            for seed in options.seeds:
                result = siamkit.fit(
                    data=images, backbone=options.backbone, epochs=options.epochs, seed=seed,
                    image_size=options.size, train=train, run_dir=f"{folder}/{name}-{seed}",
                )  # fmt: skip
                scores.append(result["metrics"]["best"]["recall@1"])
            print(f"batch {name}: recall@1 {median(scores):.3f}", [f"{s:.3f}" for s in scores])


if __name__ == "__main__":
    main()
