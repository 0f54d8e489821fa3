"""What the prefix gives in a phase, kept on the disk: which rows, their filling, their reading."""

from __future__ import annotations

import hashlib
import importlib.metadata
import math
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from siamkit.data.rowkeys import RowKeys
from siamkit.errors import SiamkitError
from siamkit.freezing.cache.budget import make_room, require_room
from siamkit.freezing.cache.layout import StoreSpec
from siamkit.freezing.cache.store import DTYPES, FeatureStore, Fill, open_store
from siamkit.freezing.kernels import Kernel, kernel_class, run
from siamkit.freezing.selftest import Cut
from siamkit.training.build import Setup
from siamkit.training.events import Emit
from siamkit.training.loading import TEST, TRAIN, LoadedSet
from siamkit.training.sources import BatchSource, CachedSource, pack, unpack

_PROGRESS = 1.0  # seconds between two reports of a fill
_SPOT_CHECKS = 2
_TOLERANCE = {torch.float32: 1e-3, torch.float16: 5e-3, torch.bfloat16: 3e-2}
"""Largest difference of a row from the plain network's, relative to its largest value: what its
type rounds away, and a margin for another kernel's arithmetic."""


class PhaseCache:
    """The rows that a phase reads.

    Args:
        setup: The parts of the run, with the phase's plan applied.
        sets: Its image sets; all but the test set are cached.
        found: Where the network is cut.
        activations: An example of what the prefix gives, ``[N, ...]``.
        dtype: The type of the rows.
        root: The folder of all stores.
        digests: Digests of files by path; filled with what is missing.
    """

    def __init__(
        self,
        setup: Setup,
        sets: Mapping[str, LoadedSet],
        found: Cut,
        activations: Tensor,
        dtype: torch.dtype,
        root: Path,
        digests: dict[Path, bytes],
    ) -> None:
        self._sets = {name: part for name, part in sets.items() if name != TEST}
        self._shape = tuple(pack(activations).shape[1:])
        self.dtype, self._root, self._digests = dtype, root, digests
        self._description = describe(setup, found, dtype)
        self._items: list[tuple[str, int, int]] = []
        self._keys: list[bytes] = []
        self._views: dict[str, Sequence[int]] = {}
        self._store: FeatureStore | None = None

    def want(self, views: Sequence[int]) -> None:
        """Say which views of the training images are read."""
        for name, part in self._sets.items():
            self._views[name] = views if name == TRAIN else (0,)
            key = RowKeys(part.dataset, self._digests)
            for index in range(len(part.images)):
                for view in self._views[name]:
                    self._items.append((name, index, view))
                    self._keys.append(key(index, view))

    @property
    def row_bytes(self) -> int:
        """The bytes of one row."""
        return math.prod(self._shape) * self.dtype.itemsize

    @property
    def rows(self) -> int:
        """How many different rows there are."""
        return len(set(self._keys))

    def missing(self, emit: Emit) -> int:
        """Return how many of the rows are not there yet; makes no file.

        Args:
            emit: Is told what was found damaged, and dropped.
        """
        spec = StoreSpec(self._description, DTYPES[self.dtype], self._shape)
        if not (self._root / spec.digest).is_dir():
            return self.rows
        with self._open() as store:
            count = len(store.missing(self._keys))
            _tell(store, emit)
        return count

    def fill(
        self, kernel: Kernel | None, budget: int, emit: Emit, check: Callable[[], None]
    ) -> int:
        """Compute the rows that are missing, and return how many that were.

        Another process may have computed them meanwhile. The store stays open, so that nobody
        removes it, until :meth:`close`.

        Args:
            kernel: Runs the prefix; None where nothing was missing.
            budget: Bytes that the cache may take.
            emit: Is told how far it is.
            check: Called after each batch; may raise to stop.

        Raises:
            ResourceError: The disk is full; what was filled is kept.
            OverflowInCache: A value is too large for the type of the rows.
        """
        store = self._store = self._open()
        computed = 0
        missing = store.missing(self._keys)
        if missing:
            if kernel is None:
                raise SiamkitError("rows of the cache were lost", hint="run it again")
            needed = len(missing) * store.row_bytes
            make_room(self._root, budget, needed)
            require_room(self._root, needed)
            waiting = {"text": "another process fills the same cache; waiting for it"}
            with store.filling(lambda: emit("notice", waiting)) as fill:
                computed = self._compute(fill, kernel, emit, check)
        _tell(store, emit)
        self._found = store.rows(self._keys)
        return computed

    def close(self) -> None:
        """Let the store go: from now on it may be removed."""
        if self._store is not None:
            self._store.close()
            self._store = None

    def sources(self) -> dict[str, BatchSource]:
        """Return a source for each set; :meth:`fill` comes first."""
        assert self._store is not None
        keys: dict[str, list[bytes]] = {name: [] for name in self._sets}
        for key, (name, _, _) in zip(self._keys, self._items, strict=True):
            keys[name].append(key)
        return {
            name: CachedSource(self._store.rows(keys[name]), part.images.labels, self._views[name])
            for name, part in self._sets.items()
        }

    def discrepancy(self, prefix: Callable[[Tensor], Tensor], device: torch.device) -> float:
        """Return how far some rows are from what the plain network gives now."""
        chosen = [i for i, item in enumerate(self._items) if item[0] == TRAIN][:_SPOT_CHECKS]
        dataset = self._sets[TRAIN].dataset
        images = torch.stack([dataset[self._items[i][1:]] for i in chosen]).to(device)
        with torch.no_grad():
            plain = prefix(images.contiguous(memory_format=torch.channels_last)).float().cpu()
        kept = unpack(self._found.gather(torch.tensor(chosen)))
        scale = max(float(plain.abs().max()), 1e-12)
        return float((kept - plain).abs().max()) / scale

    @property
    def tolerance(self) -> float:
        """The largest :meth:`discrepancy` that its type explains."""
        return _TOLERANCE[self.dtype]

    def _open(self) -> FeatureStore:
        return open_store(self._root, self._description, self._shape, self.dtype)

    def _compute(self, fill: Fill, kernel: Kernel, emit: Emit, check: Callable[[], None]) -> int:
        """Compute and add what is missing still; return how many rows that were."""
        groups: dict[tuple[str, int], list[int]] = {}
        missing = fill.missing(self._keys)
        for position in missing:
            name, _, view = self._items[position]
            groups.setdefault((name, view), []).append(position)
        started = told = time.perf_counter()
        done, total = 0, len(missing)
        size = kernel.batch_size
        for (name, view), positions in groups.items():
            parts = [positions[i : i + size] for i in range(0, total, size)]
            parts = [part for part in parts if part]
            loader = self._sets[name].loader
            try:
                wanted = [[self._items[p][1] for p in part] for part in parts]
                for part, batch in zip(parts, loader.batches(wanted, view), strict=True):
                    rows = pack(run(kernel, batch.images))
                    fill.add([self._keys[p] for p in part], rows)
                    done += len(part)
                    now = time.perf_counter()
                    if now - told >= _PROGRESS or done == total:
                        told = now
                        emit("fill", {"done": done, "total": total, "seconds": now - started})
                    check()
            finally:
                loader.close()
        return total


def _tell(store: FeatureStore, emit: Emit) -> None:
    for text in store.notices:
        emit("notice", {"text": text})


def describe(setup: Setup, found: Cut, dtype: torch.dtype) -> dict[str, Any]:
    """Return all but image and view that decides what a row is, as JSON values.

    The weights and buffers of everything frozen in the backbone, its structure, where it is cut,
    and the kind of arithmetic.
    """
    backbone = setup.net.backbone
    weights = hashlib.sha256()
    for name, fingerprint in sorted(setup.controller.fingerprints.items()):
        if name.startswith("backbone."):
            weights.update(f"{name}={fingerprint}\n".encode())
    structure = hashlib.sha256(repr(backbone).encode()).hexdigest()
    return {
        "backbone": setup.config.backbone.name,
        "boundary": found.boundary.name,
        "image_size": list(backbone.preprocessing.size),
        "dtype": str(dtype).removeprefix("torch."),
        "weights": weights.hexdigest(),
        "structure": structure,
        "timm": importlib.metadata.version("timm"),
        "numerics": kernel_class(setup.device, setup.config.train.precision),
    }
