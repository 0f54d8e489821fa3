"""Measure which defaults suit small image sets best, and print the tables of docs/defaults.md.

    python tests/benchmarks/defaults.py run   --out results.jsonl --data SET [SET ...] [grid]
    python tests/benchmarks/defaults.py table --out results.jsonl

A SET is ``sample``, a folder of class folders, or a tar of one. Its classes are cut into three
disjoint parts by the seed: half of them train, and a quarter picks the rate and the best epoch. The
last quarter, which takes no part in any choice, gives the reported recall@1. Results are appended
to a file, so a long sweep can be stopped, extended, and run in several processes.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

KEYS = (
    "set",
    "backbone",
    "policy",
    "head",
    "loss",
    "lr",
    "mult",
    "epochs",
    "batch",
    "k",
    "size",
    "seed",
    "extra",
)
WITHOUT_NORMS = " without norms"
Job = dict[str, Any]


def jobs(options: argparse.Namespace) -> Iterator[Job]:
    for seed, data, policy, head, loss, lr, mult, epochs, batch, k, extra in itertools.product(
        options.seeds, options.data, options.policies, options.heads, options.losses, options.lrs,
        options.mults, options.epochs, options.batches, options.per_class, options.extra,
    ):  # fmt: skip
        yield {
            "set": name_of(data, options.most), "data": data, "policy": policy, "head": head,
            "backbone": options.backbone + (WITHOUT_NORMS if options.without_norms else ""),
            "loss": loss, "lr": lr, "mult": mult, "epochs": epochs, "batch": batch, "k": k,
            "size": options.size, "seed": seed, "extra": extra,
        }  # fmt: skip


def name_of(data: str, most: int | None) -> str:
    """Return the name of a set in the table, with the most images of a class if that is bounded."""
    return Path(data).name.split(".")[0] + (f", {most}" if most else "")


def identity(job: Job) -> tuple[Any, ...]:
    return tuple(job[key] for key in KEYS)


def read(path: Path) -> list[Job]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def images_of(data: str, cache: Path) -> Path:
    """Return the folder of class folders that a set's name stands for."""
    if data == "sample":
        from siamkit.data.sample import sample_dir

        return sample_dir()
    if Path(data).is_dir():
        return Path(data)
    target = cache / Path(data).name.split(".")[0]
    if not target.exists():
        with tempfile.TemporaryDirectory(dir=cache) as temporary:
            with tarfile.open(data) as tar:
                tar.extractall(temporary, filter="data")
            found = Path(temporary)
            while len(inner := [p for p in found.iterdir() if p.is_dir()]) == 1:
                (found,) = inner
            found.rename(target)
    return target


def three_parts(source: Path, seed: int, most: int | None, cache: Path) -> Path:
    """Return a folder with ``train``, ``val`` and ``test``: links to disjoint classes."""
    import numpy as np

    root = cache / f"{source.name}-{seed}-{most}"
    if root.exists():
        return root
    classes = sorted(p for p in source.iterdir() if p.is_dir())
    order = np.random.default_rng(seed).permutation(len(classes))
    half, quarter = len(classes) // 2, len(classes) // 4
    with tempfile.TemporaryDirectory(dir=cache) as temporary:
        for place, index in enumerate(order):
            part = "train" if place < half else "val" if place < half + quarter else "test"
            target = Path(temporary) / "x" / part / classes[index].name
            target.mkdir(parents=True)
            images = sorted(classes[index].iterdir())
            chosen = np.random.default_rng(0).permutation(len(images))[:most]
            for image in (images[number] for number in chosen):
                os.link(image, target / image.name)
        (Path(temporary) / "x").rename(root)
    return root


def backbone_of(name: str) -> Any:
    from without_norms import without_norms

    plain = name.removesuffix(WITHOUT_NORMS)
    return name if plain == name else without_norms(plain)


def run_one(job: Job, cache: Path, threads: int) -> Job:
    import torch

    import siamkit

    torch.set_num_threads(threads)
    root = three_parts(images_of(job["data"], cache), job["seed"], job["most"], cache)
    freeze: dict[str, Any] = {"name": job["policy"]}
    if job["mult"] is not None:
        freeze["lr_mult"] = job["mult"]
    config: dict[str, Any] = {
        "data": {"path": str(root), "image_size": job["size"], "workers": 0},
        "backbone": backbone_of(job["backbone"]),
        "head": {"name": job["head"]},
        "freeze": freeze,
        "loss": json.loads(job["loss"]) if job["loss"].startswith("{") else job["loss"],
        "optimizer": {"lr": job["lr"]},
        "train": {
            "epochs": job["epochs"],
            "batch_size": job["batch"],
            "images_per_class": job["k"],
            "seed": job["seed"],
        },
    }
    for section, values in json.loads(job["extra"]).items():
        config[section] = {**config.get(section, {}), **values}
    started = time.perf_counter()
    with tempfile.TemporaryDirectory(dir=cache) as run_dir:
        result = siamkit.fit({**config, "run_dir": f"{run_dir}/run"})
    metrics = result["metrics"]
    return {
        **job,
        "val": metrics["best"]["recall@1"],
        "val_untrained": metrics["untrained"]["recall@1"],
        "test": metrics["test"]["best"]["recall@1"],
        "test_map": metrics["test"]["best"]["map@r"],
        "untrained": metrics["test"]["untrained"]["recall@1"],
        "untrained_map": metrics["test"]["untrained"]["map@r"],
        "best_epoch": metrics["best"]["epoch"],
        "curve": [round(epoch["recall@1"], 4) for epoch in result["history"]],
        "seconds": round(time.perf_counter() - started, 1),
    }


def sweep(options: argparse.Namespace) -> None:
    done = {identity(job) for job in read(options.out)}
    todo = [job for job in jobs(options) if identity(job) not in done]
    if options.processes > 1:
        command = [sys.executable, *sys.argv]
        at = command.index("--processes")
        del command[at : at + 2]
        shares = [
            subprocess.Popen([*command, "--share", f"{i}/{options.processes}"])
            for i in range(options.processes)
        ]
        sys.exit(max(share.wait() for share in shares))
    mine, of = (int(n) for n in options.share.split("/"))
    options.cache.mkdir(parents=True, exist_ok=True)
    for job in todo[mine::of]:
        result = run_one(
            {**job, "most": options.most},
            options.cache,
            options.threads,
        )
        with options.out.open("a") as file:
            file.write(json.dumps(result) + "\n")
        print(
            f"{result['set']:14} {result['policy']:10} {result['head']:9} {result['loss']:17} "
            f"lr {result['lr']:<7g} seed {result['seed']} val {result['val_untrained']:.3f} -> "
            f"{result['val']:.3f} test {result['untrained']:.3f} -> {result['test']:.3f} "
            f"{result['seconds']:.0f} s",
            flush=True,
        )


def table(options: argparse.Namespace) -> None:
    """Print, by set and combination, the held-out gain at the rate that validation picked."""
    by: dict[tuple[Any, ...], dict[tuple[Any, ...], list[Job]]] = defaultdict(
        lambda: defaultdict(list)
    )
    for job in read(options.out):
        combination = tuple(
            job[k]
            for k in (
                *("set", "backbone", "size", "policy", "head", "loss", "extra", "batch", "k"),
                "epochs",
            )
        )
        by[combination][(job["lr"], job["mult"])].append(job)
    print("| set | backbone | px | policy | head | loss | epochs | rate x multiplier | seeds "
          "| recall@1 untrained | trained | gain | MAP@R gain | s |")  # fmt: skip
    print("|---" * 14 + "|")
    rows = []
    for combination, rates in by.items():
        data, backbone, size, policy, head, loss, extra, batch, k, epochs = combination
        # A mean over fewer seeds says something about other classes.
        seeds = max(len(tried) for tried in rates.values())
        whole = {rate: tried for rate, tried in rates.items() if len(tried) == seeds}
        (lr, mult), chosen = max(
            whole.items(), key=lambda item: statistics.mean(j["val"] for j in item[1])
        )
        before, after, seconds, map_before, map_after = (
            statistics.mean(job[key] for job in chosen)
            for key in ("untrained", "test", "seconds", "untrained_map", "test_map")
        )
        note = "" if extra == "{}" else f" {extra}"
        setting = f"{loss}{note}" + (f" ({batch}/{k})" if (batch, k) != (64, 4) else "")
        rows.append((data, -(after - before), (
            f"| {data} | {backbone} | {size} | {policy} | {head} | {setting} | {epochs} "
            f"| {lr:g} x {mult} | {len(chosen)} | {before:.3f} | {after:.3f} "
            f"| {after - before:+.3f} | {map_after - map_before:+.3f} | {seconds:.0f} |"
        )))  # fmt: skip
    for row in sorted(rows):
        print(row[2])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("verb", choices=["run", "table"])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--data", nargs="+", default=["sample"])
    parser.add_argument("--backbone", default="efficientnet-lite0")
    parser.add_argument(
        "--without-norms", action="store_true", help="fold the batch norms into the convolutions"
    )
    parser.add_argument(
        "--cache", type=Path, default=Path(tempfile.gettempdir()) / "siamkit-defaults"
    )
    parser.add_argument("--policies", nargs="+", default=["stages"])
    parser.add_argument("--heads", nargs="+", default=["mlp", "linear", "bnneck", "residual"])
    parser.add_argument("--losses", nargs="+", default=["triplet", "multi-similarity", "supcon"])
    parser.add_argument("--lrs", nargs="+", type=float, default=[1e-3])
    parser.add_argument("--mults", nargs="+", type=float, default=[None])
    parser.add_argument("--epochs", nargs="+", type=int, default=[10])
    parser.add_argument("--batches", nargs="+", type=int, default=[64])
    parser.add_argument("--per-class", nargs="+", type=int, default=[4])
    parser.add_argument("--extra", nargs="+", default=["{}"], help="more config sections, as JSON")
    parser.add_argument("--most", type=int, help="draw at most so many images of each class")
    parser.add_argument("--size", type=int, default=96)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--share", default="0/1", help=argparse.SUPPRESS)
    options = parser.parse_args()
    {"run": sweep, "table": table}[options.verb](options)


if __name__ == "__main__":
    main()
