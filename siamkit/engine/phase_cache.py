"""What the prefix gives in a phase, kept on the disk: which rows, their filling, their reading."""

from __future__ import annotations

import hashlib
import importlib.metadata
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from siamkit.data.rowkeys import FileDigest, RowKeys
from siamkit.engine.cache.budget import list_stores, make_room, require_room
from siamkit.engine.cache.layout import DATA_START, KEY_BYTES, StoreSpec
from siamkit.engine.cache.rows import Rows
from siamkit.engine.cache.store import DTYPES, FeatureStore, Fill, open_store
from siamkit.engine.cutting import Cut
from siamkit.engine.kernels import Kernel, kernel_class, run, tolerance
from siamkit.engine.sources import pack, unpack
from siamkit.runs.events import Emit
from siamkit.training.build import Setup
from siamkit.training.loading import TEST, TRAIN, LoadedSet

_PROGRESS = 1.0  # seconds between two reports of a fill
_ROUNDING = {torch.float32: 1e-3, torch.float16: 5e-3, torch.bfloat16: 3e-2}
"""Largest difference of a row from the network's, relative to its largest value: what its type
rounds away, and a margin for another kernel's arithmetic."""


@dataclass(frozen=True)
class Telling:
    """How long work tells of itself.

    Attributes:
        emit: Is told how far it is, and what is noticed.
        check: Called now and then; may raise to stop.
    """

    emit: Emit
    check: Callable[[], None]


class PhaseCache:
    """The rows that a phase reads. It holds its store in use until :meth:`close`.

    Args:
        setup: The parts of the run, with the phase's plan applied.
        sets: Its image sets; all but the test set are cached.
        found: Where the network is cut.
        shape: The shape of what the prefix gives for an image.
        dtype: The type of the rows.
        root: The folder of all stores.
        digests: Digests of files by path; filled with what is missing.
        telling: Whom to tell, and when to stop.
    """

    def __init__(
        self,
        setup: Setup,
        sets: Mapping[str, LoadedSet],
        found: Cut,
        shape: torch.Size,
        dtype: torch.dtype,
        root: Path,
        digests: dict[Path, FileDigest],
        telling: Telling,
    ) -> None:
        self.sets = {name: part for name, part in sets.items() if name != TEST}
        self._found, self._device = found, setup.device
        self._numerics = kernel_class(setup.device, setup.config.train.precision)
        self._shape = tuple(pack(torch.empty(1, *shape, device="meta")).shape[1:])
        self._dtype, self._root = dtype, root
        self._emit, self._check = telling.emit, telling.check
        self._description = describe(setup, found, dtype)
        self._names = {
            name: RowKeys(part.dataset, digests, telling.check) for name, part in self.sets.items()
        }
        self._wanted: list[bytes] = []
        self._store: FeatureStore | None = None

    def want(self, views: Iterable[int]) -> tuple[int, int]:
        """Say which views of the training images are read; makes no file.

        Returns:
            How many different rows that takes, and how many of them are not there yet.
        """
        keys = [key for view in views for key in self._names[TRAIN].of(view)]
        keys += [key for name in self.sets if name != TRAIN for key in self._names[name].of(0)]
        self._wanted = list(dict.fromkeys(keys))
        spec = StoreSpec(self._description, DTYPES[self._dtype], self._shape)
        if not (self._root / spec.digest).is_dir():
            return len(self._wanted), len(self._wanted)
        store = self._opened()
        missing = len(store.missing(self._wanted))
        self._tell(store)
        return len(self._wanted), missing

    def absent(self, views: Mapping[str, int]) -> int:
        """Return how many rows of these views are to be computed.

        Args:
            views: A view by the name of its image set.
        """
        return len(self._opened().missing(self._keys(views)))

    def load(self, views: Mapping[str, int], kernel: Kernel | None, budget: int) -> dict[str, Rows]:
        """Return the rows of these views, one an image; those that are missing are computed first.

        Args:
            views: A view by the name of its image set.
            kernel: Runs the prefix; None where :meth:`absent` said that nothing is missing.
            budget: Bytes that the cache may take.

        Raises:
            ResourceError: The disk is full; what was filled is kept.
            OverflowInCache: A value is too large for the type of the rows.
            DataError: An image cannot be read, or was written since the phase began.
        """
        store = self._opened()
        if kernel is not None:
            waiting = {"text": "another process fills the same cache; waiting for it"}
            with store.filling(lambda: self._emit("notice", waiting), self._check) as fill:
                self._fill(fill, views, kernel, budget)
        self._tell(store)
        return {name: store.rows(self._names[name].of(view)) for name, view in views.items()}

    def discrepancy(self, view: int, rows: Rows) -> float:
        """Return how far rows are from what the plain network gives now.

        Args:
            view: A view of the training images.
            rows: Its rows; the first and the last are looked at.
        """
        dataset = self.sets[TRAIN].dataset
        ends = (0, len(rows) - 1)
        images = torch.stack([dataset[index, view] for index in ends]).to(self._device)
        with torch.no_grad():
            plain = self._found.prefix(images.contiguous(memory_format=torch.channels_last))
        plain = plain.float().cpu()
        kept = unpack(rows.gather(torch.tensor(ends)))
        scale = max(float(plain.abs().max()), 1e-12)
        return float((kept - plain).abs().max()) / scale

    @property
    def tolerance(self) -> float:
        """The largest :meth:`discrepancy` that its type and its arithmetic explain."""
        return max(_ROUNDING[self._dtype], tolerance(self._numerics))

    def close(self) -> None:
        """Let the store go: from now on it may be removed."""
        if self._store is not None:
            self._store.close()
            self._store = None

    def _opened(self) -> FeatureStore:
        if self._store is None:
            self._store = open_store(self._root, self._description, self._shape, self._dtype)
        return self._store

    def _keys(self, views: Mapping[str, int]) -> list[bytes]:
        return [key for name, view in views.items() for key in self._names[name].of(view)]

    def _tell(self, store: FeatureStore) -> None:
        for text in store.notices:
            self._emit("notice", {"text": text})
        store.notices.clear()

    def _fill(self, fill: Fill, views: Mapping[str, int], kernel: Kernel, budget: int) -> None:
        keys = {name: self._names[name].of(view) for name, view in views.items()}
        todo: list[tuple[str, int]] = []  # image sets and images
        seen: set[bytes] = set()
        for name, names in keys.items():
            for index in fill.missing(names):
                if names[index] not in seen:
                    seen.add(names[index])
                    todo.append((name, index))
        self._make_room(fill, len(todo), budget)
        started = told = time.perf_counter()
        done = 0
        for name, view in views.items():
            mine = [index for owner, index in todo if owner == name]
            parts = [
                mine[i : i + kernel.batch_size] for i in range(0, len(mine), kernel.batch_size)
            ]
            loader = self.sets[name].loader
            try:
                for part, batch in zip(parts, loader.batches(parts, view), strict=True):
                    rows = pack(run(kernel, batch.inputs))
                    self._names[name].require_unchanged(part)
                    fill.add([keys[name][index] for index in part], rows)
                    done += len(part)
                    now = time.perf_counter()
                    if now - told >= _PROGRESS or done == len(todo):
                        told = now
                        progress = {"done": done, "total": len(todo), "seconds": now - started}
                        self._emit("fill", progress)
                    self._check()
            finally:
                loader.close()

    def _make_room(self, fill: Fill, rows: int, budget: int) -> None:
        """Evict what the budget does not allow: other stores, then other rows of this one."""
        store = self._opened()
        needed = rows * (store.row_bytes + KEY_BYTES) + DATA_START
        make_room(self._root, budget, needed)
        taken = sum(other.bytes for other in list_stores(self._root))
        fill.shed(self._wanted, taken + needed - budget)
        require_room(self._root, needed)


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
        "module": found.boundary.module,
        "holds": found.frontier.describe(),
        "image_size": list(backbone.preprocessing.size),
        "dtype": str(dtype).removeprefix("torch."),
        "weights": weights.hexdigest(),
        "structure": structure,
        "timm": importlib.metadata.version("timm"),
        "numerics": kernel_class(setup.device, setup.config.train.precision),
    }
