"""The phase cache: computes the prefix's outputs for a phase, and stores and reads them."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from typing import Any

import torch

from siamkit.engine.cache.rows import Rows
from siamkit.engine.cutting import Cut
from siamkit.engine.kernels import Kernel, kernel_class
from siamkit.engine.prefix_store import Loaded, PrefixStore
from siamkit.engine.settings import Emit, EngineSettings, Reports
from siamkit.engine.sources import Inputs

_PROGRESS = 1.0  # seconds between two reports of a fill


class PhaseCache:
    """The prefix's outputs (rows) that a phase reads from the cache.

    The rows lie in a folder on the disk (a store). Once opened, no other process can remove the
    store until :meth:`close`.

    Args:
        description: Everything but the image and view that determines a row; see
            :func:`siamkit.engine.identity.describe`.
        inputs: The sets of inputs to cache.
        cut: The cut network.
        shape: The shape of the prefix's output for one image.
        dtype: The type of the rows.
        settings: Device, precision and folder.
        reports: Callbacks during long work.
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
        self._device = settings.device
        numerics = kernel_class(settings.device, settings.precision)
        self._store = PrefixStore(cut, description, shape, dtype, numerics, settings.root)
        self._emit, self._check = reports.emit, reports.check
        self._wanted: list[bytes] = []

    def want(self, names: Iterable[str], views: Iterable[int]) -> tuple[int, int]:
        """Set which rows the phase reads in its epochs. No store is created.

        Args:
            names: The sets of inputs that are read.
            views: The views of the training images.

        Returns:
            The number of different rows, and the number of missing rows.
        """
        reached = list(views)
        keys = [
            key
            for inputs in map(self.inputs.__getitem__, names)
            for view in (reached if inputs.trains else (0,))
            for key in inputs.keys(view)
        ]
        self._wanted = list(dict.fromkeys(keys))
        if not self._store.exists:
            return len(self._wanted), len(self._wanted)
        missing = len(self._store.missing(self._wanted))
        self._pass_on_notices()
        return len(self._wanted), missing

    def absent(self, views: Mapping[str, int]) -> int:
        """Return the number of missing rows of some views.

        Args:
            views: The view of each image set, by the set's name.
        """
        return len(self._store.missing(self._keys(views)))

    def load(
        self,
        views: Mapping[str, int],
        kernel: Kernel | None,
        budget: int,
        *,
        strict: bool = False,
    ) -> dict[str, Rows]:
        """Return the rows of some views, one per image, computing missing ones first.

        Args:
            views: The view of each image set, by the set's name.
            kernel: Runs the prefix; None if no row is missing.
            budget: Bytes that the cache may take.
            strict: Whether to raise an error if the rows in use and the new ones take more.

        Raises:
            ResourceError: The disk or (with ``strict``) the budget is full; computed rows are kept.
            OverflowInCache: A value is too large for the type of the rows.
            DataError: An image cannot be read, or changed after the phase began.
        """
        if kernel is not None:
            text = "waiting for another process that fills the same cache"
            waiting = {"text": text, "routine": True}
            self._store.fill(
                self._keys(views),
                kernel,
                lambda missing: self._images(views, missing, kernel.batch_size),
                budget,
                keep=self._wanted,
                strict="yes" if strict else "no",
                on_wait=lambda: self._emit("notice", waiting),
                check=self._check,
                progress=_Progress(self._emit),
            )
        self._pass_on_notices()
        return {name: self._store.rows(self.inputs[name].keys(v)) for name, v in views.items()}

    def discrepancy(self, views: Mapping[str, int], rows: Mapping[str, Rows]) -> float:
        """Return the relative difference between cached rows and the network's current output.

        The first and the last row of each image set are compared.

        Args:
            views: The view of each image set, by the set's name.
            rows: The rows of these views, by the set's name.
        """
        stored, images = [], []
        for name, view in views.items():
            ends = sorted({0, len(rows[name]) - 1})
            stored.append(rows[name].gather(torch.tensor(ends)))
            images += [self.inputs[name].example(index, view) for index in ends]
        return self._store.discrepancy(torch.cat(stored), torch.stack(images).to(self._device))

    @property
    def tolerance(self) -> float:
        """The largest :meth:`discrepancy` that the rows' type and arithmetic explain."""
        return self._store.tolerance

    def close(self) -> None:
        """Release the store, which may then be removed."""
        self._store.close()

    def _keys(self, views: Mapping[str, int]) -> list[bytes]:
        return [key for name, view in views.items() for key in self.inputs[name].keys(view)]

    def _pass_on_notices(self) -> None:
        for text in self._store.notices():
            self._emit("notice", {"text": text})

    def _images(self, views: Mapping[str, int], missing: list[int], batch_size: int) -> Loaded:
        """Yield the images of missing keys. Positions are counted over all views."""
        start = 0
        for name, view in views.items():
            inputs = self.inputs[name]
            indices = [at - start for at in missing if start <= at < start + len(inputs)]
            parts = [indices[i : i + batch_size] for i in range(0, len(indices), batch_size)]
            source = inputs.source
            try:
                for part, batch in zip(parts, source.batches(parts, view), strict=True):
                    inputs.require_unchanged(part)
                    yield [start + index for index in part], batch.inputs
            finally:
                source.close()
            start += len(inputs)


class _Progress:
    """Emits the progress of a fill, about once per second."""

    def __init__(self, emit: Emit) -> None:
        self._emit = emit
        self._started = self._reported = time.perf_counter()

    def __call__(self, done: int, total: int) -> None:
        now = time.perf_counter()
        if now - self._reported >= _PROGRESS or done == total:
            self._reported = now
            self._emit("fill", {"done": done, "total": total, "seconds": now - self._started})
