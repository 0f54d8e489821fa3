"""The phase cache: the rows that the prefix gives in a phase, filled and read on the disk."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterable, Mapping
from typing import Any

import torch

from siamkit.engine.cache.budget import list_stores, make_room, require_room
from siamkit.engine.cache.layout import DATA_START, KEY_BYTES, StoreSpec
from siamkit.engine.cache.rows import Rows
from siamkit.engine.cache.store import DTYPES, FeatureStore, Fill, open_store
from siamkit.engine.cutting import Cut
from siamkit.engine.kernels import Kernel, kernel_class, run, tolerance
from siamkit.engine.kernels.check import difference
from siamkit.engine.settings import EngineSettings, Reports
from siamkit.engine.sources import TRAIN, Inputs, pack, unpack
from siamkit.freezing.controller import FreezeController

_PROGRESS = 1.0  # seconds between two reports of a fill
_ROUNDING = {torch.float32: 1e-3, torch.float16: 5e-3, torch.bfloat16: 3e-2}
"""Largest difference of a row from the network's, relative to its largest value: what its type
rounds away, and a margin for another kernel's arithmetic."""


class PhaseCache:
    """The rows that a phase reads. It holds its store in use until :meth:`close`.

    Args:
        description: What decides a row but for image and view; see :func:`describe`.
        inputs: The sets of inputs to cache; :data:`TRAIN` among them.
        cut: The cut network.
        shape: The shape of the prefix's output for one image.
        dtype: The type of the rows.
        settings: Device, precision and folder.
        reports: Callbacks of long work.
    """

    def __init__(
        self,
        description: Mapping[str, Any],
        inputs: Mapping[str, Inputs],
        cut: Cut,
        shape: torch.Size,
        dtype: torch.dtype,
        settings: EngineSettings,
        reports: Reports,
    ) -> None:
        self.inputs = inputs
        self._cut, self._device = cut, settings.device
        self._numerics = kernel_class(settings.device, settings.precision)
        self._shape = tuple(pack(torch.empty(1, *shape, device="meta")).shape[1:])
        self._dtype, self._root = dtype, settings.root
        self._emit, self._check = reports.emit, reports.check
        self._description = dict(description)
        self._wanted: list[bytes] = []
        self._store: FeatureStore | None = None

    def want(self, views: Iterable[int]) -> tuple[int, int]:
        """Say which views of the training images are read; makes no file.

        Returns:
            How many different rows that takes, and how many of them are not there yet.
        """
        reached = list(views)
        keys = [
            key
            for inputs in self.inputs.values()
            for view in (reached if inputs.trains else (0,))
            for key in inputs.keys(view)
        ]
        self._wanted = list(dict.fromkeys(keys))
        spec = StoreSpec(self._description, DTYPES[self._dtype], self._shape)
        if not (self._root / spec.digest).is_dir():
            return len(self._wanted), len(self._wanted)
        store = self._opened()
        missing = len(store.missing(self._wanted))
        self._pass_on_notices(store)
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
        self._pass_on_notices(store)
        return {name: store.rows(self.inputs[name].keys(view)) for name, view in views.items()}

    def discrepancy(self, view: int, rows: Rows) -> float:
        """Return how far rows are from what the plain network gives now.

        Args:
            view: A view of the training images.
            rows: Its rows; the first and the last are looked at.
        """
        train = self.inputs[TRAIN]
        ends = (0, len(rows) - 1)
        images = torch.stack([train.example(index, view) for index in ends]).to(self._device)
        with torch.no_grad():
            plain = self._cut.prefix(images.contiguous(memory_format=torch.channels_last))
        return difference(unpack(rows.gather(torch.tensor(ends))), plain.float().cpu())

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
        return [key for name, view in views.items() for key in self.inputs[name].keys(view)]

    def _pass_on_notices(self, store: FeatureStore) -> None:
        for text in store.notices:
            self._emit("notice", {"text": text})
        store.notices.clear()

    def _fill(self, fill: Fill, views: Mapping[str, int], kernel: Kernel, budget: int) -> None:
        keys = {name: self.inputs[name].keys(view) for name, view in views.items()}
        todo: list[tuple[str, int]] = []  # image sets and images
        seen: set[bytes] = set()
        for name, names in keys.items():
            for index in fill.missing(names):
                if names[index] not in seen:
                    seen.add(names[index])
                    todo.append((name, index))
        self._make_room(fill, len(todo), budget)
        started = reported = time.perf_counter()
        done = 0
        for name, view in views.items():
            mine = [index for owner, index in todo if owner == name]
            parts = [
                mine[i : i + kernel.batch_size] for i in range(0, len(mine), kernel.batch_size)
            ]
            source = self.inputs[name].source
            try:
                for part, batch in zip(parts, source.batches(parts, view), strict=True):
                    rows = pack(run(kernel, batch.inputs))
                    self.inputs[name].require_unchanged(part)
                    fill.add([keys[name][index] for index in part], rows)
                    done += len(part)
                    now = time.perf_counter()
                    if now - reported >= _PROGRESS or done == len(todo):
                        reported = now
                        progress = {"done": done, "total": len(todo), "seconds": now - started}
                        self._emit("fill", progress)
                    self._check()
            finally:
                source.close()

    def _make_room(self, fill: Fill, rows: int, budget: int) -> None:
        """Evict what the budget does not allow: other stores, then other rows of this one."""
        store = self._opened()
        needed = rows * (store.row_bytes + KEY_BYTES) + DATA_START
        make_room(self._root, budget, needed)
        taken = sum(other.bytes for other in list_stores(self._root))
        fill.shed(self._wanted, taken + needed - budget)
        require_room(self._root, needed)


def describe(
    controller: FreezeController, cut: Cut, dtype: torch.dtype, settings: EngineSettings
) -> dict[str, Any]:
    """Return all that decides what a row is but for image and view, as JSON values.

    The weights and buffers of the prefix, its structure, where it ends, and the arithmetic.
    """
    boundary = cut.boundary
    weights = hashlib.sha256()
    for name, fingerprint in sorted(prefix_fingerprints(controller, cut).items()):
        weights.update(f"{name}={fingerprint}\n".encode())
    structure = hashlib.sha256()
    for name in (*boundary.modules, boundary.module):
        structure.update(f"{name}: {controller.net.get_submodule(name)!r}\n".encode())
    return {
        "boundary": boundary.name,
        "module": boundary.module,
        "holds": cut.frontier.describe(),
        "dtype": str(dtype).removeprefix("torch."),
        "weights": weights.hexdigest(),
        "structure": structure.hexdigest(),
        "numerics": kernel_class(settings.device, settings.precision),
    }


def prefix_fingerprints(controller: FreezeController, cut: Cut) -> dict[str, str]:
    """Return the fingerprints of all frozen tensors but those of stages behind the boundary."""
    units = [unit for stage in controller.stages for unit in (stage.blocks or (stage,))]
    later = [unit for unit in units if unit.name not in cut.boundary.units]
    behind = {name for unit in later for name in unit.parameters}
    inside = tuple(f"{name}." for unit in later for name in unit.modules)
    return {
        name: fingerprint
        for name, fingerprint in controller.fingerprints.items()
        if name not in behind and not name.startswith(inside)
    }
