"""Measure how much faster a pruned network is, and what it costs in recall.

    python tests/benchmarks/prune.py quality --data wesnoth_72px.tar.gz [--run RUN]
    python tests/benchmarks/prune.py speed   --backbone resnet50

``quality`` trains a run on half of the classes (or takes one), prunes it, and prints both on the
quarter of the classes that took no part in any choice. ``speed`` prunes a network of random weights
by its outputs for noise. Both networks are timed in turns in one process, as the commands run them:
in their memory layout, with huge pages, and also with the kernels that embed images. The figures
are ratios of medians.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import sys
import tempfile
import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

from defaults import images_of, three_parts

from siamkit.cli.imports import HUGE_PAGES

os.environ.setdefault(HUGE_PAGES, "1")  # torch reads it when it is imported

import siamkit


def quality(options: argparse.Namespace) -> dict[str, Any]:
    import torch

    from siamkit.compress.latency import speeds
    from siamkit.model.device import place

    torch.set_num_threads(options.threads)
    options.cache.mkdir(parents=True, exist_ok=True)
    run = options.run
    if run is None:
        root = three_parts(images_of(options.data, options.cache), options.seed, options.cache)
        run = options.cache / f"run-{options.seed}"
        if not (run / "metrics.json").exists():
            siamkit.fit(
                data={"path": str(root), "image_size": options.size, "workers": 0},
                backbone=options.backbone, seed=options.seed, run_dir=run, report=False,
            )  # fmt: skip
    settings: dict[str, Any] = {"report": False}
    if options.freeze is not None:
        settings["freeze"] = options.freeze
    if options.lr is not None:
        settings["lr"] = options.lr
    with tempfile.TemporaryDirectory(dir=options.cache) as folder:
        started = time.perf_counter()
        result = siamkit.prune(
            run, Path(folder) / "pruned", ratio=options.ratio, finetune_epochs=options.epochs,
            iterations=options.iterations, progress=options.log, **settings,
        )  # fmt: skip
        print(result)
        epochs = siamkit.api.open_run(result.run_dir).history
        nets = {"before": siamkit.load_model(run), "after": siamkit.load_model(result.run_dir)}
        nets = {name: place(net.eval(), torch.device("cpu")) for name, net in nets.items()}
        image = torch.randn(1, 3, *nets["before"].preprocessing.size)
        fast, by_kernel = speeds(nets, image, seconds=20), kernels(nets, image)
    before, after = result.before, result.after
    return {
        "ratio": options.ratio,
        "flops": after["flops"] / before["flops"],
        "parameters": after["parameters"] / before["parameters"],
        **ratios(fast),
        **by_kernel,
        "recall_before": before["recall@1"],
        "recall_after": after["recall@1"],
        "map_before": before["map@r"],
        "map_after": after["map@r"],
        "eer_before": before["eer"],
        "eer_after": after["eer"],
        "validation": [round(epoch["recall@1"], 4) for epoch in epochs],
        "seconds": time.perf_counter() - started,
    }


def ratios(measured: dict[str, dict[str, float]]) -> dict[str, float]:
    before, after = measured["before"], measured["after"]
    return {
        "faster_batch_1": before["latency_ms"] / after["latency_ms"],
        "faster_batch_32": after["images_per_second"] / before["images_per_second"],
    }


def kernels(nets: Mapping[str, Any], image: Any, seconds: float = 5.0) -> dict[str, float]:
    """Return how much faster the pruned network is with the kernels that embed images."""
    from siamkit.engine.kernels import batch_size, build_kernel
    from siamkit.inference.export.timing import medians

    found = {}
    for kernel in ("folded", "onnxruntime"):
        for count in (1, batch_size("cpu"), 32):
            images = image.repeat(count, 1, 1, 1)
            calls = {
                name: partial(build_kernel(kernel, net, images), images)
                for name, net in nets.items()
            }
            times = medians(calls, seconds)
            found[f"faster_{kernel}_{count}"] = times["before"] / times["after"]
    return found


def speed(options: argparse.Namespace) -> dict[str, Any]:
    import torch

    from siamkit.compress.choose import choose
    from siamkit.compress.costs import costs_of
    from siamkit.compress.dependencies import Dependencies
    from siamkit.compress.importance import activation, readers
    from siamkit.compress.latency import speeds
    from siamkit.compress.reconstruct import moments
    from siamkit.compress.shrink import operations
    from siamkit.model.device import place

    torch.set_num_threads(options.threads)
    net = siamkit.create_model(options.backbone, pretrained=False, image_size=options.size)
    image = torch.randn(1, 3, options.size, options.size)
    found = Dependencies(net.backbone, image.expand(2, -1, -1, -1))
    total = operations(net, torch.device("cpu"))
    costs = costs_of(net.backbone, image, total)
    noise = [torch.randn(16, 3, options.size, options.size)]
    scores = activation(found, moments(net.backbone, readers(found.groups), noise))
    removed = choose(found.groups, scores, costs, total * (1 - options.ratio))
    pruned = copy.deepcopy(net)
    found.without(removed).apply(pruned.backbone, "the benchmark")
    both = {"before": net, "after": pruned}
    nets = {name: place(each.eval(), image.device) for name, each in both.items()}
    measured = speeds(nets, image, seconds=20)
    return {
        "backbone": options.backbone,
        "ratio": options.ratio,
        "flops": operations(pruned, torch.device("cpu")) / total,
        **ratios(measured),
        **kernels(nets, image),
        **{f"{name}_{key}": v for name, each in measured.items() for key, v in each.items()},
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("verb", choices=["quality", "speed"])
    parser.add_argument("--data", default="sample")
    parser.add_argument("--backbone", default="efficientnet-lite0")
    parser.add_argument("--run", type=Path, help="a run to prune, instead of training one")
    parser.add_argument("--cache", type=Path, default=Path(tempfile.gettempdir()) / "siamkit-prune")
    parser.add_argument("--ratio", type=float, default=0.5)
    parser.add_argument("--iterations", type=int, default=1)
    parser.add_argument("--epochs", type=int, default=None)
    parser.add_argument("--freeze", help="policy of the fine-tuning, instead of the run's own")
    parser.add_argument("--lr", type=float, default=None)
    parser.add_argument("--size", type=int, default=96)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--log", action="store_true")
    options = parser.parse_args()
    print(json.dumps({"quality": quality, "speed": speed}[options.verb](options), indent=2))


if __name__ == "__main__":
    main()
