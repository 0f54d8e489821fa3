"""The loader: yields batches of images from worker processes.

A view is an image after random augmentation, or after the preparation for evaluation. It depends
only on the image, the run's seed and the number of the view, not on the number of workers.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from types import TracebackType
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, default_collate

from siamkit.batches import Batch
from siamkit.data.images import ImageSet
from siamkit.data.views import EvalView, TrainView, view_seed
from siamkit.errors import ResourceError, SiamkitError
from siamkit.portable.cores import affinity
from siamkit.portable.decode import Decoding, decode
from siamkit.portable.preprocessing import MAX_PIXELS

Key = tuple[int, int]
"""The index of an image, and the number of the view."""

_MOST_WORKERS = 8
_IMAGES_PER_WORKER = 64
_PATIENCE = 1.0  # seconds


class ViewDataset(Dataset[Tensor]):
    """A torch data set of views: images after augmentation, or after preparation for evaluation.

    The key of an item is (index of the image, number of the view).

    Args:
        images: The images.
        view: Computes the views: an ``EvalView`` or a ``TrainView``.
        seed: The run's seed.
        max_pixels: The most pixels that an image may have; see :class:`.Decoding`.
    """

    def __init__(
        self,
        images: ImageSet,
        view: EvalView | TrainView,
        seed: int,
        *,
        max_pixels: int = MAX_PIXELS,
    ) -> None:
        self.images = images
        self._view = view
        self._seed = seed
        self._how = Decoding.of(view.preprocessing, max_pixels, view.part)

    def of(self, images: ImageSet) -> ViewDataset:
        """Return the same views of other images, or of some of these."""
        return ViewDataset(images, self._view, self._seed, max_pixels=self._how.max_pixels)

    def __getitem__(self, key: Key) -> Tensor:
        """Return view ``key[1]`` ``[C, H, W]`` of image ``key[0]``.

        Raises:
            DataError: The image cannot be decoded.
        """
        index, view = key
        sample = self.images.samples[index]
        image = decode(sample.path, self._how, sample.box)
        return self._view(image, self.seed(index, view) or 0)

    def seed(self, index: int, view: int) -> int | None:
        """Return the seed of a view of an image; None if all views of an image are equal."""
        if not self._view.is_random:
            return None
        return view_seed(self._seed, view, self.images.samples[index].key)

    @property
    def identity(self) -> dict[str, Any]:
        """The settings that, with the image and the seed, determine a view, as JSON values."""
        return self._view.identity


class Loader:
    """A context manager that loads batches, and ends its worker processes at exit.

    When a worker dies, torch's signal handler can raise an error anywhere in the caller's code. The
    context manager turns this error into a ResourceError.

    Args:
        dataset: The views.
        workers: The number of worker processes; 0 loads in the calling process. See
            :func:`default_workers`.
        pin_memory: Whether to use page-locked memory, for non-blocking copies to CUDA.
        check: Called each second while the loader waits for a worker; may raise to stop.
    """

    def __init__(
        self,
        dataset: ViewDataset,
        workers: int = 0,
        pin_memory: bool = False,
        check: Callable[[], None] = lambda: None,
    ) -> None:
        self._check = check
        self._labels = torch.tensor(dataset.images.labels, dtype=torch.int64)
        self._feed = _Feed()
        self._loader: DataLoader[Tensor] = DataLoader(
            _Caught(dataset),
            batch_sampler=self._feed,
            num_workers=workers,
            collate_fn=_as_is,
            pin_memory=pin_memory,
            worker_init_fn=_ignore_signals,
            persistent_workers=workers > 0,
            # Without a generator, torch would draw the workers' seeds from the caller's.
            generator=torch.Generator(),
        )

    def batches(self, batches: Iterable[Sequence[int]], view: int = 0) -> Iterator[Batch]:
        """Yield batches, in order. A new call ends an unfinished earlier iteration.

        Args:
            batches: The image indices of each batch.
            view: The number of the view to load of each image.

        Raises:
            DataError: An image cannot be decoded.
            ResourceError: A worker process died.
            SiamkitError: The iteration continues after a later call of this method.
        """
        wanted = [list(indices) for indices in batches]
        keys = [[(index, view) for index in indices] for indices in wanted]
        self._feed.content = keys
        try:
            loaded = self._started()
            for indices in wanted:
                if self._feed.content is not keys:
                    raise SiamkitError("a loader serves one iteration at a time")
                images = next(loaded)
                if isinstance(images, SiamkitError):
                    raise images
                # Labels do not come from the workers, where each tensor needs a file descriptor.
                index = torch.tensor(indices, dtype=torch.int64)
                yield Batch(images, self._labels[index], index)
        except RuntimeError as error:
            if not _worker_died(error):
                raise
            self.close()
            # Until it ignores signals, one that all processes of the run get ends a worker too.
            self._check()
            raise _dead_worker(error) from None

    def _started(self) -> Iterator[Any]:
        """Return an iterator that loads batches and calls ``check`` while it waits for a worker."""
        if self._loader.num_workers and self._loader._iterator is None:
            iterator: Any = self._loader._get_iterator()
            self._loader._iterator = iterator
            # torch waits for ever for a worker that was stopped or whose disk hangs.
            iterator._try_get_data = partial(_asking, iterator._try_get_data, self._check)
            return iterator  # type: ignore[no-any-return]
        return iter(self._loader)

    def close(self) -> None:
        """End the worker processes."""
        iterator: Any = self._loader._iterator  # None without workers, or before the first batch
        self._loader._iterator = None
        if iterator is not None:
            for worker in iterator._workers:
                _wake(worker.pid)  # a stopped worker cannot end, and torch would wait for its end
            iterator._shutdown_workers()
            # torch sends SIGTERM to workers that hang, but workers ignore this signal.
            for worker in iterator._workers:
                worker.kill()
                worker.join()

    def __enter__(self) -> Loader:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()
        if error is not None and _worker_died(error):
            self._check()
            raise _dead_worker(error) from None


def default_workers(num_images: int, device: torch.device | str = "cpu") -> int:
    """Return the number of worker processes to use, given the cores that this process may use.

    One core is left free: there is one worker per other core, but at most 8, and at most one per 64
    images. If the network runs on a CPU with one or two cores, there are no workers: a view at 224
    px takes 3 ms of CPU time there, but the forward pass of ResNet-18 60 ms, so workers would only
    compete with the training. If the network runs on an accelerator, there is at least one worker.

    Args:
        num_images: The number of images in the set.
        device: The device that the network runs on.
    """
    cores = len(affinity())
    spare = max(cores - 1, 1) if torch.device(device).type != "cpu" or cores > 2 else 0
    return min(spare, _MOST_WORKERS, -(-num_images // _IMAGES_PER_WORKER))


def _asking(
    try_get_data: Callable[[float], tuple[bool, Any]], check: Callable[[], None]
) -> tuple[bool, Any]:
    """Wait a second for a batch; if none came, call ``check``, which raises to stop."""
    came, batch = try_get_data(_PATIENCE)
    if not came:
        check()
    return came, batch


def _wake(pid: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, getattr(signal, "SIGCONT", 0))


def _worker_died(error: BaseException) -> bool:
    return isinstance(error, RuntimeError) and str(error).startswith("DataLoader worker (pid")


def _dead_worker(error: BaseException) -> ResourceError:
    return ResourceError(
        f"a worker process that loads images died: {str(error).strip().rstrip('.')}",
        hint="if memory ran out, use fewer workers (data.workers) or a smaller batch",
    )


class _Feed:
    """The batch sampler of a DataLoader for many epochs. Each epoch replaces ``content``."""

    def __init__(self) -> None:
        self.content: list[list[Key]] = []

    def __iter__(self) -> Iterator[list[Key]]:
        return iter(self.content)

    def __len__(self) -> int:
        return len(self.content)


class _Caught(Dataset[Tensor]):
    """A data set that loads whole batches, and returns siamkit's errors instead of raising them.

    torch rebuilds an exception of a worker from its type and text only, so the exception's fields
    would be lost.
    """

    def __init__(self, dataset: ViewDataset) -> None:
        self._dataset = dataset

    def __getitems__(self, keys: list[Key]) -> Tensor | SiamkitError:
        try:
            images: Tensor = default_collate([self._dataset[key] for key in keys])
            return images
        except SiamkitError as error:
            return error


def _as_is(batch: Any) -> Any:
    return batch


def _ignore_signals(_worker: int) -> None:
    # Ctrl-C, ``timeout`` and batch systems signal the whole process group. The main process then
    # finishes its step and saves, for which it still needs the workers. They end when it ends.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
