"""Measure siamkit on a GPU against bare loops. Prints one table, and the idle share of the GPU.

    python tests/benchmarks/gpu.py

It needs a CUDA device, and takes about half an hour with the default backbones, ResNet-50 and a ViT
at 224 px in bf16. ``--device cpu`` tries the same code on the CPU, with tiny networks:

    python tests/benchmarks/gpu.py --device cpu

Every competitor is a process of its own, on the same images, with the same batches, head, loss and
optimizer; only the two ways to run the prefix share a process, and take turns. The weights are
random, the same for all.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import tempfile
from dataclasses import asdict, replace
from pathlib import Path
from statistics import median

from freeze_engine import Bench
from peers import gpu_idle
from peers.measure import module, steady
from peers.table import Row, markdown
from peers.task import Task

PREFIX_BAR, HEAD_BAR, STAGES_BAR = 0.9, 0.8, 2.5
BACKBONES = ["timm:resnet50", "timm:vit_small_patch16_224"]
TINY = ["timm:test_resnet", "timm:test_vit"]


def task_of(bench: Bench, backbone: str, **values: object) -> Task:
    """Return a task with a backbone on the device."""
    options = bench.options
    device = {"device": options.device, "precision": options.precision}
    return bench.task(bench.data, backbone, options.image_size, **device, **values)


def last_stages(backbone: str) -> tuple[str, ...]:
    """Return the modules that the policy ``stages`` trains in its second phase."""
    import siamkit

    net = siamkit.create_model(backbone, pretrained=False, head="mlp")
    names = [name for stage in net.stages()[-3:-1] for name in stage.modules]
    return tuple(name.removeprefix("backbone.model.") for name in names)


def prefix(bench: Bench, backbone: str) -> list[Row]:
    """Images per second of the frozen prefix."""
    found = bench.peer("gpu_prefix", task_of(bench, backbone, epochs=1)).more or {}
    seconds = found["seconds"]
    bare = min((name for name in seconds if name.startswith("bare")), key=seconds.__getitem__)
    return [
        Row(
            f"prefix of {backbone}, kernel {found['kernel']}, {where}: "
            f"{1 / seconds[name]:,.0f} images per second",
            1e3 * seconds[name],
            1e3 * seconds[bare],
            f"torch.compile on device tensors ({bare.removeprefix('bare, ')} per batch): "
            f"{1 / seconds[bare]:,.0f} images per second",
            unit="ms per image",
            at_least=PREFIX_BAR,
        )
        for name, where in (
            ("kernel", "images on the device"),
            ("kernel, from the host", "images in pinned memory"),
        )
    ]


def head(bench: Bench, backbone: str) -> list[Row]:
    """An epoch of the head alone, on features that are already cached."""
    options = bench.options
    task = task_of(bench, backbone, epochs=options.epochs)
    ours, bare = [], []
    for _ in range(options.repeats):
        run = bench.siamkit(task, bench.new("cache"), backbone=backbone, mode="always")
        ours.append(steady(run.epochs))
        bare.append(steady(bench.peer("gpu_head", task).epochs))
    return [
        Row(
            f"cached head-only epoch, {backbone}, {options.images} images",
            1e3 * median(ours),
            1e3 * median(bare),
            "bare loop over features on the device, without reading the loss",
            unit="ms",
            at_least=HEAD_BAR,
        )
    ]


def stages(bench: Bench, backbone: str) -> list[Row]:
    """An epoch of the last two stages and the head, from the cache."""
    options = bench.options
    task = task_of(bench, backbone, epochs=options.stage_epochs, train=last_stages(backbone))
    sets = ("freeze.n=2", "freeze.warmup=1", f"freeze.lr_mult={task.mult}")
    longer = replace(task, epochs=1 + options.stage_epochs)
    given = {"backbone": backbone, "policy": "stages", "mode": "always", "sets": sets}
    ours, loaded, resident = [], [], []
    for _ in range(options.repeats):
        run = bench.siamkit(longer, bench.new("cache"), **given)
        ours.append(steady(run.epochs[1:]))
        plain = bench.peer("gpu_plain", task)
        loaded.append(steady(plain.epochs))
        resident.append(steady((plain.more or {})["resident"]))
    work = f"stages, second phase, an epoch of {options.images} images, {backbone}"
    same = "same layers trainable"
    return [
        Row(
            work,
            median(ours),
            median(loaded),
            f"plain loop with a DataLoader and workers, {same}",
            at_least=STAGES_BAR,
        ),
        Row(work, median(ours), median(resident), f"plain loop on device tensors, {same}"),
    ]


def idle(bench: Bench, backbone: str) -> dict[str, float]:
    """Return the idle share of the device, by the part of a run."""
    task = task_of(bench, backbone, epochs=1)
    run_dir, cache = bench.new("idle"), bench.new("cache")
    places = (bench.data, run_dir, cache, backbone, bench.options.image_size)
    run = module("gpu_idle", [json.dumps(asdict(task)), *map(str, places)], task.threads)
    shutil.rmtree(run_dir)
    found: dict[str, float] = (bench.logged("idle", run).more or {})["idle"]
    return found


def idle_table(shares: dict[str, dict[str, float]]) -> str:
    """Return the idle shares in Markdown, by backbone and part of a run."""
    parts = (gpu_idle.FILL, gpu_idle.HEAD, gpu_idle.STAGES)
    lines = [
        "Idle share of the device (time without a kernel or a copy, by torch.profiler):",
        "",
        f"| backbone | {' | '.join(parts)} |",
        "|---|" + "---|" * len(parts),
    ]
    for backbone, found in shares.items():
        cells = (f"{found[part]:.0%}" if part in found else "" for part in parts)
        lines.append(f"| {backbone} | {' | '.join(cells)} |")
    return "\n".join(lines)


WORK = {"prefix": prefix, "head": head, "stages": stages}


def caption(options: argparse.Namespace) -> str:
    """Return what the table was measured with."""
    import torch

    kind = "the CPU: a trial of the code, not a measurement"
    if options.device != "cpu":
        kind = f"{torch.cuda.get_device_name(options.device)}, CUDA {torch.version.cuda}"
    return (
        f"{kind}; {options.image_size} px, {options.precision}, {options.threads} threads, "
        f"{options.images} JPEG files, batches of {options.batch}; medians of {options.repeats}; "
        f"torch {torch.__version__}. A time of siamkit's is that of the epochs in its own log."
    )


def parser() -> argparse.ArgumentParser:
    """Return the command line."""
    result = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    add = result.add_argument
    add("--only", nargs="+", choices=[*WORK, "idle"], default=[*WORK, "idle"])
    add("--device", choices=("cuda", "cpu"), default="cuda")
    add("--precision", choices=("bf16", "fp32"), default="bf16")
    add("--data", default="sample")
    add("--backbones", nargs="+", help="timm models")
    add("--images", type=int)
    add("--image-size", type=int)
    add("--epochs", type=int, default=10)
    add("--stage-epochs", type=int, default=4)
    add("--repeats", type=int)
    add("--batch", type=int)
    add("--per-class", type=int, default=4)
    add("--picture", type=int, nargs=2, default=(500, 375), help="width and height of the files")
    add("--threads", type=int, default=len(os.sched_getaffinity(0)))
    add("--folder", type=Path, help="where all is written, and kept; else it is removed")
    return result


def completed(options: argparse.Namespace) -> argparse.Namespace:
    """Return the options with the sizes that suit the device."""
    real = options.device != "cpu"
    sizes = {
        "backbones": BACKBONES if real else TINY,
        "images": 4096 if real else 64,
        "image_size": 224 if real else 160,
        "repeats": 3 if real else 1,
        "batch": 64 if real else 16,
    }
    for name, value in sizes.items():
        if getattr(options, name) is None:
            setattr(options, name, value)
    return options


def main() -> int:
    import torch

    options = completed(parser().parse_args())
    if options.device != "cpu" and not torch.cuda.is_available():
        print("there is no CUDA device; --device cpu tries the code on the CPU", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory(prefix="siamkit-bench-") as temporary:
        folder = options.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        bench = Bench(options, folder)
        pairs = [(name, backbone) for backbone in options.backbones for name in options.only]
        rows = [row for name, b in pairs if name in WORK for row in WORK[name](bench, b)]
        shares = {b: idle(bench, b) for b in options.backbones if "idle" in options.only}
    if options.device == "cpu":  # nothing is measured, so nothing is judged
        rows = [replace(row, at_least=None) for row in rows]
    print(markdown(rows, caption(options)))
    if shares:
        print("\n" + idle_table(shares))
    return 0


if __name__ == "__main__":
    sys.exit(main())
