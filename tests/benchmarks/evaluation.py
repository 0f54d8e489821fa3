"""Retrieval metrics of 100,000 embeddings: siamkit against pytorch-metric-learning with faiss.

Both get the same embeddings on the same threads, take turns in processes of their own, and must
give the same figures:

    python tests/benchmarks/evaluation.py --rounds 3

This prints, for each set of classes, the median seconds of both and their ratio, the CPU seconds,
the peak memory (of the whole process, and its rise during the evaluation), and the largest
difference between figures that both compute.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from typing import Any

import torch
from threadpoolctl import threadpool_limits
from torch import Tensor

CLASSES = ("1000x100", "10000x10", "mixed")
SHARED = ("recall@1", "map@r", "r_precision")


def embeddings(kind: str, count: int, dim: int) -> tuple[Tensor, Tensor]:
    """Return embeddings and their labels; about half find an embedding of their class first."""
    generator = torch.Generator().manual_seed(0)
    if kind == "mixed":  # R from 1 to some hundreds
        sizes = (2 + 200 * torch.rand(count // 20, generator=generator) ** 4).long()
        labels = torch.repeat_interleave(torch.arange(len(sizes)), sizes)
        labels = torch.cat([labels, torch.randint(0, len(sizes), (count,), generator=generator)])
        labels = labels[:count]
    else:
        labels = torch.arange(count) % int(kind.split("x")[0])
    centres = torch.randn(int(labels.max()) + 1, dim, generator=generator)
    noise = torch.randn(count, dim, generator=generator)
    order = torch.randperm(count, generator=generator)
    return torch.nn.functional.normalize(centres[labels] + 1.6 * noise, dim=1)[order], labels[order]


def ours(vectors: Tensor, labels: Tensor) -> dict[str, float]:
    from siamkit.evaluation.retrieval import retrieval

    return retrieval(vectors.numpy(), labels.numpy()).to_json()


def theirs(vectors: Tensor, labels: Tensor) -> dict[str, float]:
    """Inner products (as fast as L2 or faster), and the smallest k that gives the metrics."""
    import faiss
    from pytorch_metric_learning.utils.accuracy_calculator import AccuracyCalculator
    from pytorch_metric_learning.utils.inference import FaissKNN

    names = ("precision_at_1", "mean_average_precision_at_r", "r_precision")
    calculator = AccuracyCalculator(
        include=names,
        k="max_bin_count",
        device=torch.device("cpu"),
        knn_func=FaissKNN(index_init_fn=faiss.IndexFlatIP),
    )
    found = calculator.get_accuracy(vectors, labels)
    return {"recall@1": found[names[0]], "map@r": found[names[1]], "r_precision": found[names[2]]}


def peak() -> float:
    """Return the process's largest resident size so far, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def child(args: argparse.Namespace) -> None:
    torch.set_num_threads(args.threads)
    threadpool_limits(args.threads)
    run = ours if args.child == "ours" else theirs
    vectors, labels = embeddings(args.classes, args.images, args.dim)
    run(*embeddings("100x5", 500, 16))  # imports, thread pools
    before, started, cpu = peak(), time.perf_counter(), time.process_time()
    figures = run(vectors, labels)
    seconds, cpu = time.perf_counter() - started, time.process_time() - cpu
    print(json.dumps({"seconds": seconds, "cpu": cpu, "peak_mb": peak(),
                      "more_mb": peak() - before, "figures": figures}))  # fmt: skip


def measured(who: str, classes: str, args: argparse.Namespace) -> dict[str, Any]:
    options = {"child": who, "classes": classes, "images": args.images, "dim": args.dim,
               "threads": args.threads}  # fmt: skip
    flags = [text for name, value in options.items() for text in (f"--{name}", str(value))]
    command = [sys.executable, __file__, *flags]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=100_000)
    parser.add_argument("--dim", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--classes", default=",".join(CLASSES))
    parser.add_argument("--child", choices=("ours", "theirs"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        child(args)
        return
    for classes in args.classes.split(","):
        runs: dict[str, list[dict[str, Any]]] = {"ours": [], "theirs": []}
        for _ in range(args.rounds):
            for who, found in runs.items():
                found.append(measured(who, classes, args))
        report(classes, runs)


def report(classes: str, runs: dict[str, list[dict[str, Any]]]) -> None:
    print(f"\n{classes}")
    medians = {}
    for who, found in runs.items():
        seconds = [run["seconds"] for run in found]
        medians[who] = statistics.median(seconds)
        print(
            f"  {who:7} {medians[who]:7.1f} s ({min(seconds):.1f} to {max(seconds):.1f}), "
            f"CPU {statistics.median(run['cpu'] for run in found):.1f} s, "
            f"peak {found[0]['peak_mb']:.0f} MB, {found[0]['more_mb']:.0f} MB above the start"
        )
    a, b = (found[0]["figures"] for found in runs.values())
    worst = max(abs(a[name] - b[name]) for name in SHARED)
    figures = ", ".join(f"{n} {a[n]:.4f}" for n in (*SHARED, "recall@5", "recall@10"))
    print(f"  ratio theirs / ours {medians['theirs'] / medians['ours']:.2f}; figures differ by "
          f"{worst:.1e} at most: {figures}", flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
