"""Searching a gallery: siamkit's exact search against faiss's flat index, and the index path.

    python tests/benchmarks/search.py

searches 1,000,000 x 128 embeddings for the ten most similar to 1, 100 and 1,000 queries, exactly:
both on the same vectors and threads, taking turns in one process, and both must find the same. Then
it builds the approximate index that ``siamkit index`` builds and prints how long that takes, how
long a query, and its recall@10 against exact search, on queries that the index was not tuned with.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import torch
from torch import Tensor

from siamkit.deploy import ann
from siamkit.deploy.search import exact_search

DIM, K = 128, 10
QUERIES = (1, 100, 1000)


def clustered(rows: int, queries: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Return a gallery and queries as embeddings are: classes of twenty on a 24-d manifold."""
    generator = torch.Generator().manual_seed(seed)
    basis = torch.randn(24, DIM, generator=generator)
    centres = torch.randn(max(rows // 20, 1), 24, generator=generator)

    def draw(count: int) -> Tensor:
        found = torch.empty(count, DIM)
        for part in torch.arange(count).split(100_000):
            chosen = torch.randint(len(centres), (len(part),), generator=generator)
            latent = centres[chosen] + 0.35 * torch.randn(len(part), 24, generator=generator)
            noise = 0.5 * torch.randn(len(part), DIM, generator=generator)
            found[part] = torch.nn.functional.normalize(latent @ basis + noise, dim=1)
        return found

    return draw(rows), draw(queries)


def seconds(work: Callable[[], Any]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def compare(gallery: Tensor, queries: Tensor, flat: Any, repeats: int) -> None:
    found_scores, found = exact_search(queries, gallery, K)
    flat_scores, _ = flat.search(queries.numpy(), K)
    apart = float(np.abs(found_scores.numpy() - flat_scores).max())
    times: dict[str, list[float]] = {"siamkit": [], "faiss": []}
    for _ in range(repeats):
        times["siamkit"].append(seconds(lambda: exact_search(queries, gallery, K)))
        times["faiss"].append(seconds(lambda: flat.search(queries.numpy(), K)))
    ours, theirs = (statistics.median(times[name]) for name in ("siamkit", "faiss"))
    print(
        f"{len(queries):>5} queries: siamkit {ours:.4f} s, faiss flat {theirs:.4f} s, ratio "
        f"{ours / theirs:.2f}; scores differ by {apart:.1e} at most",
        flush=True,
    )
    assert apart < 1e-5 and found.shape == (len(queries), K)


def approximate(gallery: Tensor, queries: Tensor) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "cells.faiss")
        built = time.perf_counter()
        looked, tuned = ann.build(gallery.numpy(), path)
        built = time.perf_counter() - built
        search = ann.opened(path, looked)
        exact = exact_search(queries, gallery, K)[1]
        recall = ann.overlap(search(queries, K), exact)
        one_by_one = [seconds(lambda q=q: search(q[None], K)) for q in queries[:200]]
        exactly = [seconds(lambda q=q: exact_search(q[None], gallery, K)) for q in queries[:20]]
    print(
        f"index: built in {built:.0f} s, looks into {looked} of {ann.cells(len(gallery))} cells; "
        f"recall@10 {recall:.4f} on {len(queries)} new queries ({tuned:.4f} where it was tuned); "
        f"{1000 * statistics.median(one_by_one):.2f} ms a query, exact "
        f"{1000 * statistics.median(exactly):.1f} ms"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    faiss.omp_set_num_threads(args.threads)
    gallery, queries = clustered(args.rows, max(QUERIES))
    print(f"{args.rows} x {DIM}, {args.threads} threads, medians of {args.repeats}", flush=True)
    flat = faiss.IndexFlatIP(DIM)
    flat.add(gallery.numpy())
    for count in QUERIES:
        compare(gallery, queries[:count], flat, args.repeats)
    del flat
    approximate(gallery, queries)


if __name__ == "__main__":
    main()
