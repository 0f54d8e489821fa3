"""Measure the freeze engine against its peers. Prints one table of medians and ratios.

    pip install -e '.[bench]'
    python tests/benchmarks/freeze_engine.py all
    python tests/benchmarks/freeze_engine.py head-only --data FOLDER --images 512 --epochs 10 30

Every competitor runs as a process of its own, on the same image files, with the same preparation,
P x K batches, head, loss, optimizer and number of threads, in fp32 and without worker processes.
A run is timed whole: start of the interpreter, imports, decoding and everything after it. siamkit
and the bare limit always run whole; peers, which would take hours, are measured on a few batches
and scaled in proportion to image visits, unless --full is given.

DATA is ``sample``, a folder of class folders, or a tar of one. Its images are scaled up to
photograph-sized JPEG files, so that decoding costs what it costs on photographs. The weights are
random, the same for all: speed doesn't depend on them.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import shutil
import sys
import tempfile
from collections import defaultdict
from dataclasses import asdict, replace
from functools import cached_property
from importlib.metadata import distributions
from pathlib import Path
from statistics import median
from typing import Any

from defaults import images_of
from peers import data, siamkit_train
from peers.measure import Run, compete, cost_per_image, module, process, scaled, steady
from peers.table import Row, markdown
from peers.task import Task

PEERS = {
    "plain": "plain loop",
    "metric_loss_only": "pytorch-metric-learning MetricLossOnly",
    "lightning_finetuning": "Lightning + finetuning-scheduler",
    "fastai_frozen": "fastai, frozen",
}
LAST_STAGES = ("layer3", "layer4")
BARS = {10: 15.0, 30: 40.0}
"""How many times faster than every peer a head-only run must be, by its number of epochs."""

PACKAGES = (
    *("torch", "timm", "onnxruntime", "pytorch-metric-learning"),
    *("lightning", "finetuning-scheduler", "fastai"),
)
WARM_BAR, EPOCH_BAR, SUFFIX_BAR = 100.0, 1.3, 1.15
LIMIT_BAR, LIMIT_SECONDS = 1.2, 3.0
IMPORT_BAR, IMPORT_SECONDS = 1.0, 2.0
EMBEDDING_BAR, THROUGHPUT_BAR = 2.0, 0.9
FAST_BARS, FAST_EMBEDDING_BAR = {10: 25.0, 30: 65.0}, 3.5
INT8 = ("engine.prefix=int8",)
MEMORY_BAR, COST_BAR = 1.1, 1.15
SCALING_SETS = ("engine.prefix=folded",)
"""One kernel for all sizes: otherwise the larger set might get a faster one."""

FEW = 200
"""Images of a small run, which shows the cost that a run of any size has."""


class Bench:
    """The images, weights and measurements of one call.

    Args:
        options: The command line.
        folder: The folder that everything is written to.
    """

    def __init__(self, options: argparse.Namespace, folder: Path) -> None:
        self.options, self.folder = options, folder

    def images(self, count: int, picture: tuple[int, int]) -> Path:
        """Return a folder with ``count`` training images, and a few for siamkit to validate on."""
        source = images_of(self.options.data, self.folder)
        k = self.options.per_class
        target = self.folder / f"{source.name}-{count}-by-{k}-{picture[0]}x{picture[1]}"
        return data.build(source, target, count, per_batch_class=k, picture=picture)

    def task(self, root: Path, backbone: str, size: int, **values: Any) -> Task:
        """Return the work of one run."""
        options = self.options
        weights = self.folder / f"{backbone.replace(':', '-')}.safetensors"
        if not weights.exists():
            self._make_weights(backbone, weights)
        return Task(
            images=str(root / "train"),
            backbone=backbone.removeprefix("timm:"),
            weights=str(weights),
            view=self._view(backbone, weights, size),
            batch=options.batch,
            per_class=options.per_class,
            threads=options.threads,
            **values,
        )

    @cached_property
    def data(self) -> Path:
        """The images of all but ``scaling``."""
        return self.images(self.options.images, tuple(self.options.picture))

    def main_task(self, **values: Any) -> Task:
        """Return a task with the backbone and size of all but ``scaling``."""
        return self.task(self.data, self.options.backbone, self.options.image_size, **values)

    def peer(self, name: str, task: Task) -> Run:
        """Run a competitor."""
        return self.logged(name, compete(name, task))

    def siamkit(self, task: Task, cache: Path, **values: Any) -> Run:
        """Run siamkit on the images of all but ``scaling``, unless told otherwise."""
        given = {"data": self.data, "size": self.options.image_size, **values}
        if "backbone" not in given:
            given["backbone"] = self.options.backbone
        run_dir = self.new("run")
        run = siamkit_train.train(task, run_dir=run_dir, cache=cache, **given)
        shutil.rmtree(run_dir)  # its checkpoints are large
        return self.logged("siamkit", run)

    def new(self, name: str) -> Path:
        """Return a path at which nothing exists."""
        paths = (self.folder / f"{name}-{n}" for n in itertools.count(1))
        return next(path for path in paths if not path.exists())

    def _view(self, backbone: str, weights: Path, size: int) -> dict[str, Any]:
        import siamkit

        net = siamkit.create_model(backbone, weights=weights, head="mlp", image_size=size)
        return asdict(net.backbone.preprocessing)

    def _make_weights(self, backbone: str, path: Path) -> None:
        import timm
        import torch
        from safetensors.torch import save_file

        torch.manual_seed(0)
        model = timm.create_model(backbone.removeprefix("timm:"), num_classes=0)
        save_file(model.state_dict(), path)

    def logged(self, name: str, run: Run) -> Run:
        """Print the measurements of a process, and return them."""
        epochs = " ".join(f"{seconds:.3g}" for seconds in run.epochs)
        print(
            f"{name}: {run.seconds:.1f} s, {run.peak / 1e6:.0f} MB, epochs {epochs} {run.more}",
            file=sys.stderr,
            flush=True,
        )
        return run


def peer_task(bench: Bench, **values: Any) -> Task:
    """Return the part of an epoch that peers are measured on."""
    options = bench.options
    if options.full:
        return bench.main_task(**values)
    steps = max(1, options.peer_images // options.batch)
    return bench.main_task(epochs=options.peer_epochs, steps=steps, **values)


def how(bench: Bench, run: Run, visits: int) -> str:
    """Return how a peer's figure was obtained."""
    if bench.options.full:
        return ""
    return f" (measured on {run.visits * len(run.epochs)} image visits, scaled to {visits})"


def head_only(bench: Bench) -> list[Row]:
    """Whole runs in which only the head trains."""
    options = bench.options
    times: dict[tuple[str, int], list[float]] = defaultdict(list)
    notes: dict[tuple[str, int], str] = {}
    for _ in range(options.repeats):
        visits = 0
        for epochs in options.epochs:
            task = bench.main_task(epochs=epochs)
            limit = bench.peer("bare_limit", task)
            cache = bench.new("cache")
            times["limit", epochs].append(limit.seconds)
            times["cold", epochs].append(bench.siamkit(task, cache).seconds)
            times["warm", epochs].append(bench.siamkit(task, cache).seconds)
            fast = bench.siamkit(task, bench.new("cache"), sets=INT8)
            times["fast", epochs].append(fast.seconds)
            visits = limit.visits
        for name in options.peers:
            run = None
            for epochs in options.epochs:
                if options.full or run is None:
                    run = bench.peer(
                        name, peer_task(bench, **({"epochs": epochs} if options.full else {}))
                    )
                times[name, epochs].append(
                    run.seconds if options.full else scaled(run, epochs, visits)
                )
                notes[name, epochs] = how(bench, run, visits * epochs)
    medians = {key: median(values) for key, values in times.items()}
    rows = []
    for epochs in options.epochs:
        work = f"freeze-all, {epochs} epochs, {options.images} images"
        for kind, bar, more in (
            ("cold", BARS.get(epochs), ""),
            ("warm", WARM_BAR, ", second run"),
            ("fast", FAST_BARS.get(epochs), ", --fast"),
        ):
            rows += [
                Row(
                    work + more,
                    medians[kind, epochs],
                    medians[name, epochs],
                    PEERS[name] + notes[name, epochs],
                    at_least=bar,
                )
                for name in options.peers
            ]
        rows.append(
            Row(
                work,
                medians["cold", epochs],
                medians["limit", epochs],
                "bare limit",
                at_most=LIMIT_BAR,
                plus=LIMIT_SECONDS,
            )
        )
    return rows


def first_step(bench: Bench) -> list[Row]:
    """From the command to the first optimizer step, when all features are cached."""
    task = bench.main_task(epochs=1)
    cache = bench.new("cache")
    bench.siamkit(task, cache, mode="always")
    libraries = "import torch, timm, pytorch_metric_learning.losses"
    optimizer = "torch.optim.AdamW([torch.nn.Parameter(torch.zeros(1))])"
    ours, alone, all_imports = [], [], []
    for _ in range(bench.options.repeats):
        ours.append(bench.siamkit(task, cache, mode="always").first_step)
        for seconds, program in (
            (alone, "import torch"),
            (all_imports, f"{libraries}; {optimizer}"),
        ):
            seconds.append(process([sys.executable, "-c", program], task.threads).seconds)
    work = "from the command to the first step, features cached"
    return [
        Row(
            work,
            median(ours),
            median(alone),
            "import torch",
            at_most=IMPORT_BAR,
            plus=IMPORT_SECONDS,
        ),
        Row(
            work,
            median(ours),
            median(all_imports),
            "import torch, timm and pytorch-metric-learning, and build an optimizer",
        ),
    ]


def epoch(bench: Bench) -> list[Row]:
    """An epoch of the head alone, on features that are already cached."""
    task = bench.main_task(epochs=max(bench.options.epochs))
    cache = bench.new("cache")
    ours, bare = [], []
    for _ in range(bench.options.repeats):
        ours.append(steady(bench.siamkit(task, cache, mode="always").epochs))
        bare.append(steady(bench.peer("bare_limit", task).epochs))
    return [
        Row(
            f"cached head-only epoch, {bench.options.images} images",
            1e3 * median(ours),
            1e3 * median(bare),
            "bare loop over the same features",
            unit="ms",
            at_most=EPOCH_BAR,
        )
    ]


def stages(bench: Bench) -> list[Row]:
    """An epoch of the last two stages and the head, from the cache."""
    options = bench.options
    steps = max(1, options.stage_images // options.batch)
    root = bench.images(steps * options.batch, tuple(options.picture))
    task = bench.task(
        root,
        options.backbone,
        options.image_size,
        epochs=options.stage_epochs,
        train=LAST_STAGES,
    )
    sets = ("freeze.n=2", "freeze.warmup=1", f"freeze.lr_mult={task.mult}")
    cache = bench.new("cache")
    ours, bare, plain = [], [], []
    for _ in range(options.repeats):
        run = bench.siamkit(
            replace(task, epochs=1 + options.stage_epochs),
            cache,
            data=root,
            policy="stages",
            mode="always",
            sets=sets,
        )
        ours.append(steady(run.epochs[1:]))
        loop = bench.peer("suffix_loop", task)
        bare.append(steady(loop.epochs))
        tutorial = bench.peer("plain", replace(task, epochs=options.peer_epochs))
        plain.append(steady(tutorial.epochs))
    work = f"stages, second phase, an epoch of {loop.visits} images"
    saved = (loop.more or {})["flops_saved"]
    return [
        Row(
            work,
            median(ours),
            median(bare),
            f"bare loop, activations in memory, {(loop.more or {})['memory_format']}",
            at_most=SUFFIX_BAR,
        ),
        Row(
            work,
            median(ours),
            median(plain),
            f"plain loop, same layers trainable (FLOPs saved alone would give {saved:.2f}x; the "
            f"rest, {median(plain) / median(ours) / saved:.2f}x, is how the suffix runs)",
        ),
    ]


def kernels(bench: Bench) -> list[Row]:
    """The frozen prefix alone, run by the chosen kernel."""
    options = bench.options
    script = Path(__file__).with_name("prefix_kernels.py")
    command = [
        *(sys.executable, str(script), "--json", "--backbone"),
        *(options.backbone.removeprefix("timm:"), "--image-size", str(options.image_size)),
        *("--images", str(options.images), "--threads", str(options.threads)),
    ]
    printed = process(command, options.threads).printed
    found = json.loads(printed.splitlines()[-1])
    return [
        Row(
            f"prefix, kernel chosen for {options.images} images: {found['kernel']}",
            1e3 * found["seconds"],
            1e3 * found["best"],
            "the better of ONNX Runtime and inductor, side by side",
            unit="ms an image",
            at_most=1 / THROUGHPUT_BAR,
        )
    ]


def embedding(bench: Bench) -> list[Row]:
    """A folder of images through a trained model, as a whole process."""
    options = bench.options
    task = bench.main_task(epochs=1, result=str(bench.folder / "embeddings.npy"))
    kinds = ("", (), EMBEDDING_BAR), (" after --fast", INT8, FAST_EMBEDDING_BAR)
    runs = []
    for _, sets, _ in kinds:
        runs.append(bench.new("trained"))
        siamkit_train.train(
            task, data=bench.data, run_dir=runs[-1], cache=bench.new("cache"),
            backbone=options.backbone, size=options.image_size, sets=sets,
        )  # fmt: skip
    ours: dict[Path, list[float]] = {run_dir: [] for run_dir in runs}
    other = []
    for _ in range(options.repeats):
        for run_dir, seconds in ours.items():
            arguments = [str(run_dir), task.images, task.result]
            run = bench.logged("siamkit", module("siamkit_embedding", arguments, task.threads))
            seconds.append(run.seconds)
        other.append(bench.peer("timm_embedding", task).seconds)
    for run_dir in runs:
        shutil.rmtree(run_dir)
    return [
        Row(
            f"embedding a folder of {run.visits} images{more}",
            median(ours[run_dir]),
            median(other),
            "timm model, DataLoader, eval and inference_mode",
            at_least=bar,
        )
        for run_dir, (more, _, bar) in zip(runs, kinds, strict=True)
    ]


def scaling(bench: Bench) -> list[Row]:
    """Memory and cost per image, for a small set and a large one."""
    options = bench.options
    small, large = options.sizes
    seconds: dict[int, list[float]] = defaultdict(list)
    peaks: dict[int, list[int]] = defaultdict(list)
    for _ in range(options.repeats):
        for count in (FEW, small, large):
            root = bench.images(count, tuple(options.small_picture))
            task = bench.task(root, options.small_backbone, options.small_size, epochs=2)
            run = bench.siamkit(
                task,
                bench.new("cache"),
                data=root,
                backbone=options.small_backbone,
                size=options.small_size,
                mode="always",
                sets=SCALING_SETS,
            )
            seconds[count].append(run.seconds)
            peaks[count].append(run.peak)
    base = FEW, median(seconds[FEW])
    cost = {n: 1e3 * cost_per_image(base, (n, median(seconds[n]))) for n in (small, large)}
    peak = {n: median(peaks[n]) / 1e6 for n in (small, large)}
    work, other = f"{large:,} images, {options.small_backbone}", f"{small:,} images"
    return [
        Row(f"peak memory, {work}", peak[large], peak[small], other, "MB", at_most=MEMORY_BAR),
        Row(f"cost an image, {work}", cost[large], cost[small], other, "ms", at_most=COST_BAR),
    ]


WORK = {
    "head-only": head_only,
    "first-step": first_step,
    "epoch": epoch,
    "stages": stages,
    "kernels": kernels,
    "embedding": embedding,
    "scaling": scaling,
}


def caption(options: argparse.Namespace) -> str:
    """Return what the table was measured with."""
    versions = ", ".join(
        f"{found.name} {found.version}" for name in PACKAGES for found in distributions(name=name)
    )
    width, height = options.picture
    return (
        f"{options.backbone}, {options.image_size} px, random weights (the same for all), "
        f"{options.threads} threads, fp32; JPEG files of {width} x {height}, scaled up from "
        f"{Path(options.data).name}; whole processes, medians of {options.repeats}; siamkit's "
        f"include validation on {data.VAL_CLASSES * data.VAL_PER_CLASS} more images, checkpoints "
        f"and proofs, which the others have none of. {versions}."
    )


def parser() -> argparse.ArgumentParser:
    """Return the command line."""
    result = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    add = result.add_argument
    add("work", choices=[*WORK, "all"])
    add("--data", default="sample")
    add("--images", type=int, default=512)
    add("--epochs", type=int, nargs="+", default=[10, 30])
    add("--peers", nargs="*", choices=list(PEERS), default=list(PEERS))
    add("--peer-images", type=int, default=128, help="image visits an epoch that peers do")
    add("--peer-epochs", type=int, default=2)
    add("--full", action="store_true", help="run the peers whole: hours")
    add("--repeats", type=int, default=3)
    add("--threads", type=int, default=2)
    add("--backbone", default="timm:resnet50", help="a timm model")
    add("--image-size", type=int, default=224)
    add("--picture", type=int, nargs=2, default=(500, 375), help="width and height of the files")
    add("--batch", type=int, default=64)
    add("--per-class", type=int, default=4)
    add("--stage-images", type=int, default=128)
    add("--stage-epochs", type=int, default=3)
    add("--sizes", type=int, nargs=2, default=(1_000, 20_000), help="images, for scaling")
    add("--small-backbone", default="timm:resnet18", help="for scaling")
    add("--small-size", type=int, default=64)
    add("--small-picture", type=int, nargs=2, default=(96, 72))
    add("--folder", type=Path, help="where all is written, and kept; else it is removed")
    return result


def main() -> None:
    options = parser().parse_args()
    if os.getloadavg()[0] > 0.5:
        print("the machine is not idle: the figures will be off", file=sys.stderr)
    chosen = list(WORK) if options.work == "all" else [options.work]
    with tempfile.TemporaryDirectory(prefix="siamkit-bench-") as temporary:
        folder = options.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        bench = Bench(options, folder)
        rows = [row for name in chosen for row in WORK[name](bench)]
    print(markdown(rows, caption(options)))


if __name__ == "__main__":
    main()
