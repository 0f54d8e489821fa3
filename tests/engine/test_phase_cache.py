"""The cache of a phase: the rows that it reads, and what it tells while it computes them."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from siamkit.batches import Batch
from siamkit.engine import phase_cache
from siamkit.engine.phase_cache import PhaseCache


class Inputs:
    """A set of images; the key of a row says which image and view it is."""

    def __init__(self, name: str, count: int, *, trains: bool) -> None:
        self.name, self.count, self.trains = name, count, trains
        self.source, self.closed = self, 0
        self.unchanged: list[int] = []

    def __len__(self) -> int:
        return self.count

    def keys(self, view: int) -> list[bytes]:
        return [f"{self.name}{index}.{view}".encode() for index in range(self.count)]

    def require_unchanged(self, indices: list[int]) -> None:
        self.unchanged += indices

    def batches(self, batches: list[list[int]], view: int) -> Any:
        for indices in batches:
            index = torch.tensor(indices)
            yield Batch(index[:, None] + 100.0 * view, index, index)

    def close(self) -> None:
        self.closed += 1


class Store:
    """A store that lacks the rows of some keys."""

    exists = True

    def __init__(self, absent: tuple[bytes, ...] = ()) -> None:
        self.lacking, self.told = absent, ["a file was damaged"]
        self.filled: list[tuple[list[int], list[float]]] = []
        self.keep: list[bytes] = []

    def missing(self, keys: list[bytes]) -> list[int]:
        return [at for at, key in enumerate(keys) if key in self.lacking]

    def notices(self) -> list[str]:
        told, self.told = self.told, []
        return told

    def rows(self, keys: list[bytes]) -> list[bytes]:
        return keys

    def fill(self, keys: Any, kernel: Any, load: Any, budget: int, **more: Any) -> None:
        self.keep, self.budget = more["keep"], budget
        more["on_wait"]()
        for at, images in load(self.missing(keys)):
            self.filled.append((at, images[:, 0].tolist()))
        more["progress"](1, 2)
        more["progress"](2, 2)


def cache_of(store: Any) -> tuple[PhaseCache, list[tuple[str, Any]]]:
    made: Any = object.__new__(PhaseCache)
    told: list[tuple[str, Any]] = []
    made.inputs = {"train": Inputs("t", 3, trains=True), "val": Inputs("v", 2, trains=False)}
    made._store, made._wanted, made._check = store, [], lambda: None
    made._emit = lambda name, data: told.append((name, data))
    return made, told


def test_training_images_are_wanted_in_each_view_and_others_as_they_are() -> None:
    cache, told = cache_of(Store((b"t1.4", b"v0.0", b"v0.4")))
    assert cache.want(("train", "val"), [0, 4]) == (3 * 2 + 2, 2)
    assert told == [("notice", {"text": "a file was damaged"})]
    assert cache.want(("val",), [0, 4]) == (2, 1)


def test_a_store_that_does_not_exist_lacks_all_rows() -> None:
    store = Store()
    store.exists = False  # type: ignore[misc]
    cache, told = cache_of(store)
    assert cache.want(("train",), [0]) == (3, 3) and told == []


def test_missing_rows_are_computed_and_what_happens_is_told(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = iter([0.0, 0.4, 0.7])
    monkeypatch.setattr(phase_cache.time, "perf_counter", lambda: next(clock))
    store = Store((b"t0.1", b"t1.1", b"t2.1", b"v1.0"))
    cache, told = cache_of(store)
    cache._wanted = [b"wanted"]
    views = {"train": 1, "val": 0}
    assert cache.absent(views) == 4
    kernel: Any = type("Kernel", (), {"batch_size": 2})
    rows = cache.load(views, kernel, 1000)
    assert rows == {name: cache.inputs[name].keys(view) for name, view in views.items()}
    assert store.filled == [([0, 1], [100, 101]), ([2], [102]), ([4], [1])]
    assert (store.keep, store.budget) == ([b"wanted"], 1000)
    train, val = cache.inputs.values()
    assert (train.unchanged, val.unchanged) == ([0, 1, 2], [1])  # type: ignore[attr-defined]
    assert (train.closed, val.closed) == (1, 1)  # type: ignore[attr-defined]
    assert told == [
        (
            "notice",
            {"text": "waiting for another process that fills the same cache", "routine": True},
        ),
        ("fill", {"done": 2, "total": 2, "seconds": pytest.approx(0.7)}),
        ("notice", {"text": "a file was damaged"}),
    ]


def test_progress_is_told_about_once_per_second(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([0.0, 0.9, 1.0, 1.5, 2.0, 2.1])
    monkeypatch.setattr(phase_cache.time, "perf_counter", lambda: next(clock))
    told: list[int] = []
    progress = phase_cache._Progress(lambda _, data: told.append(data["done"]))
    for done in range(1, 6):
        progress(done, 5)
    assert told == [2, 4, 5]
