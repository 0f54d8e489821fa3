"""Exact search against faiss's, and the approximate index: time and recall.

    python tests/benchmarks/search.py [--rows 1000000]

Both take the same threads and alternate; medians are printed. The vectors lie around 50,000
centres, and so do the queries.
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
from threadpoolctl import threadpool_limits

from siamkit.inference.gallery import approximate as ann
from siamkit.portable.nearest import nearest

DIM, K, CENTRES, NOISE, REPEATS = 128, 10, 50_000, 0.7, 5

Array = np.ndarray[Any, Any]


def clustered(rows: int, centres: Array, rng: np.random.Generator) -> Array:
    """Return unit vectors ``[rows, DIM]`` around centres; each gets noise of length NOISE."""
    found = centres[rng.integers(len(centres), size=rows)]
    found += NOISE / DIM**0.5 * rng.standard_normal(found.shape, dtype=np.float32)
    found /= np.linalg.norm(found, axis=1, keepdims=True)
    return found


def alternating(ours: Callable[[], Any], theirs: Callable[[], Any]) -> tuple[float, float]:
    """Return the median seconds of both."""
    seconds: tuple[list[float], list[float]] = ([], [])
    for _ in range(REPEATS):
        for call, into in zip((ours, theirs), seconds, strict=True):
            started = time.perf_counter()
            call()
            into.append(time.perf_counter() - started)
    return statistics.median(seconds[0]), statistics.median(seconds[1])


def require_equal(ours: tuple[Any, Any], theirs: tuple[Any, Any]) -> None:
    """Check that indices are equal wherever scores do not tie up to rounding."""
    scores, indices = ours
    np.testing.assert_allclose(scores, theirs[0], atol=2e-6)
    different = indices != theirs[1]
    near = np.abs(np.diff(scores, axis=1)) < 4e-6
    tied = np.pad(near, ((0, 0), (1, 0))) | np.pad(near, ((0, 0), (0, 1)))
    tied[:, -1] = True  # its rival may be the one that just misses the list
    assert not (different & ~tied).any(), "the results differ"
    print(f"  equal but for {different.sum()} of {different.size} places, which tie")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    threadpool_limits(arguments.threads)  # numpy's matrix products
    faiss.omp_set_num_threads(arguments.threads)
    rng = np.random.default_rng(0)
    centres = rng.standard_normal((CENTRES, DIM), dtype=np.float32)
    centres /= np.linalg.norm(centres, axis=1, keepdims=True)
    gallery = clustered(arguments.rows, centres, rng)
    queries = clustered(1000, centres, rng)
    print(f"{arguments.rows} x {DIM}, k {K}, {arguments.threads} threads", flush=True)

    flat = faiss.IndexFlatIP(DIM)
    flat.add(gallery)
    for count in (1, 100, 1000):
        some = queries[:count]
        require_equal(nearest(some, gallery, K), flat.search(some, K))
        ours, theirs = alternating(
            lambda some=some: nearest(some, gallery, K),  # type: ignore[misc]
            lambda some=some: flat.search(some, K),  # type: ignore[misc]
        )
        print(
            f"  exact, {count:4} queries: {ours * 1e3:8.1f} ms, faiss {theirs * 1e3:8.1f} ms: "
            f"{ours / theirs:.2f} times its time",
            flush=True,
        )

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "cells")
        started = time.perf_counter()
        looked, told = ann.build(gallery, path)
        print(f"  approximate: built in {time.perf_counter() - started:.1f} s")
        print(f"  {looked} of {ann.cells(len(gallery))} cells, recall@10 {told:.4f} on its sample")
        search = ann.opened(path, looked)
        recall = ann.overlap(search(queries, K), nearest(queries, gallery, K)[1])
        print(f"  recall@10 of other queries: {recall:.4f}")
        for count in (1, 1000):
            some = queries[:count]
            found, exact = alternating(
                lambda some=some: ann.rescored(some, gallery, search(some, K)),  # type: ignore[misc]
                lambda some=some: nearest(some, gallery, K),  # type: ignore[misc]
            )
            print(
                f"  {count:4} queries: {found / count * 1e3:.3f} ms each, "
                f"exact {exact / count * 1e3:.3f} ms: {exact / found:.1f} times faster"
            )


if __name__ == "__main__":
    main()
