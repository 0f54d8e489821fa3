"""The feature cache: what a frozen prefix gives, kept on the disk for any training loop."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import torch
from torch import Tensor
from torch.utils.data import Dataset

from siamkit.engine.cache.layout import KEY_BYTES, default_root
from siamkit.engine.cache.rows import Rows
from siamkit.engine.cache.store import DTYPES
from siamkit.engine.cutting import Cut
from siamkit.engine.frozen_prefix import FrozenPrefix
from siamkit.engine.identity import describe, describe_network
from siamkit.engine.kernels import Kernel, Precision, batch_size, choose, kernel_class
from siamkit.engine.outputs import Given
from siamkit.engine.prefix_store import Loaded, PrefixStore
from siamkit.engine.sources import unpack
from siamkit.errors import ConfigError, DataError, ResourceError
from siamkit.freezing.controller import FreezeController
from siamkit.model.trace import evaluating

_log = logging.getLogger("siamkit.engine")

Load = Callable[[list[int]], Tensor]
"""Given positions of keys, returns their images ``[n, C, H, W]``."""


class CachedRows(Dataset[Tensor]):
    """The activations of some images, in the order of their keys: a map-style dataset.

    ``rows[3]`` is the row of one image; ``rows[1:9]``, ``rows[[4, 2]]`` and ``rows[tensor]`` are
    rows ``[n, ...]``, in float32 on the CPU. A ``DataLoader`` with ``num_workers=0`` reads
    ``torch.utils.data.StackDataset(rows, labels)``; workers would only copy what is read already.
    """

    def __init__(self, rows: Rows, require_frozen: Callable[[], None]) -> None:
        self._rows, self._require_frozen = rows, require_frozen
        self._positions = torch.arange(len(rows))

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int | slice | Sequence[int] | Tensor) -> Tensor:
        """Return one row, or rows ``[n, ...]``.

        Raises:
            ConfigError: The plan that was applied meanwhile doesn't freeze the same prefix.
            FrozenDriftError: A frozen tensor of the prefix changed.
        """
        self._require_frozen()
        positions = self._positions[index]
        rows = unpack(self._rows.gather(positions.reshape(-1)))
        return rows[0] if positions.ndim == 0 else rows

    def __getitems__(self, indices: list[int]) -> list[Tensor]:
        """Return the rows of a batch at once, as ``DataLoader`` asks for them."""
        return list(self[indices])

    def __reduce__(self) -> Any:
        raise ConfigError(
            "cached rows cannot be copied or sent to another process",
            hint="give the DataLoader num_workers=0; another process opens a FeatureCache of its "
            "own on the same folder",
        )


class FeatureCache:
    """Keeps a prefix's output by key, so that each image is computed once, for any training loop.

    ::

        controller.apply(plan)
        result = siamkit.engine.cut(net, stages, plan, images)
        with FeatureCache(result.cut, controller) as cache:
            rows = cache.rows(keys, lambda missing: torch.stack([dataset[i] for i in missing]))
            for batch in batches:
                loss = criterion(result.cut.suffix(rows[batch]), labels[batch])

    Rows lie in a *store*, a folder named by the prefix's weights and buffers, structure and code,
    by its boundary, the images' shape, the type of the rows and the kind of arithmetic: a network
    that differs in any of these has a store of its own. ``siamkit cache`` lists and prunes stores.
    Any number of processes may use one: the first fills it, the others wait and read. A key has
    one row for as long as the row is kept, equal to the bit each time it is read.

    The cache belongs to the plan under which it was made. Under a plan that freezes another prefix
    it refuses to go on; make a new cut and a new cache then.

    Args:
        cut: The cut network (:attr:`siamkit.engine.CutResult.cut`).
        controller: Applied the plan that the network was cut under.
        root: The folder of all stores; ``$SIAMKIT_CACHE_DIR`` or ``~/.cache/siamkit/features`` if
            left out.
        budget: The most bytes that all stores may take together. The least recently used rows are
            evicted, but none that the same call of :meth:`rows` asks for.
        dtype: The type of the rows, ``torch.float16`` or ``torch.float32`` (or ``bfloat16``). If
            left out, float32 for vectors and float16, which takes half the room, for feature maps.
        kernel: The kernel that computes rows, one of :data:`siamkit.engine.KERNELS`; ``auto`` takes
            the fastest whose setup the number of missing images pays for. Each is checked.
        precision: The type that autocast computes in, on a GPU: ``fp32``, ``bf16`` or ``fp16``.

    Attributes:
        kernel_name: The kernel that computed rows last; None if none were missing so far.

    Raises:
        ConfigError: Cut and controller are not of one network or one plan, or an argument is wrong.
    """

    def __init__(
        self,
        cut: Cut,
        controller: FreezeController,
        *,
        root: str | Path | None = None,
        budget: float = 20e9,
        dtype: torch.dtype | None = None,
        kernel: str = "auto",
        precision: Precision = "fp32",
    ) -> None:
        if not budget > 0:
            raise ConfigError("must be more than 0 bytes", where="budget", got=budget)
        if dtype is not None and dtype not in DTYPES:
            names = ", ".join(map(str, DTYPES))
            raise ConfigError("no type of cached rows", where="dtype", got=dtype, allowed=names)
        self._cut, self._budget = cut, int(min(budget, 2**62))
        self._wanted, self._precision = kernel, precision
        self._frozen = FrozenPrefix(controller, cut)
        self._image = _example(cut)
        with evaluating(cut.net):
            shape = cut.prefix(self._image).shape[1:]
        if dtype is None:
            dtype = torch.float32 if len(shape) == 1 else torch.float16
        numerics = kernel_class(self._image.device, precision)
        self._root = default_root() if root is None else Path(root)
        self._store = PrefixStore(
            cut,
            {**describe_network(cut, self._image), **describe(controller, cut, dtype, numerics)},
            shape, dtype, numerics, self._root,
        )  # fmt: skip
        self._kernel: Kernel | None = None
        self._chosen_for = 0
        self._reads = 0

    @property
    def kernel_name(self) -> str | None:
        """The kernel that computed rows last; None if none were missing so far."""
        return None if self._kernel is None else self._kernel.name

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let the store go: from now on others may evict it. Rows that were returned stay."""
        self._store.close()

    def rows(
        self,
        keys: Sequence[str | bytes],
        load: Load,
        progress: Callable[[int, int], None] | None = None,
    ) -> CachedRows:
        """Return the activations of images; those that are missing are computed first.

        Call it once per phase or epoch with the keys of all images, not once per batch.

        A few rows are held against what the network gives now: the first and the last of those
        that were computed, or else one of those that were there, at the 1st, 2nd, 4th, 8th ...
        call. That finds a key that stands for two images, and a ``load`` that draws at random. All
        rows of the store are removed then.

        Args:
            keys: A key per image and view. Whatever changes the pixels must change the key: the
                file's content, the resizing and normalisation, the seed of a random augmentation.
            load: Given positions in ``keys``, returns these images ``[n, C, H, W]`` as the network
                takes them: of the shape and type of the images that it was cut with, on any device.
                The same image each time.
            progress: Called with how many rows are done, and how many there are to compute.

        Returns:
            A dataset of rows, one per key, in order. It stays usable after :meth:`close`.

        Raises:
            ConfigError: The plan that was applied meanwhile doesn't freeze the same prefix; or a
                key, an image or the kernel is not what it has to be.
            DataError: A row differs from what the network gives.
            FrozenDriftError: A frozen tensor of the prefix changed.
            ResourceError: The rows don't fit the budget or the disk. What was computed is kept.
            OverflowInCache: A value is too large for the type of the rows.
        """
        self._frozen.require()
        names = [_digest(key) for key in keys]
        if not names:
            raise ConfigError("no images are asked for", where="keys", got=[])
        images = _checked(load, self._image)
        computed: list[int] = []
        while True:
            missing = self._store.missing(names)
            if missing:
                self._fill(names, missing, images, progress)
                computed = missing
            try:
                rows = self._store.rows(names)
                break
            except LookupError:  # another process evicted them meanwhile
                continue
        for text in self._store.notices():
            _log.warning(text)
        self._check(rows, computed, images, keys)
        return CachedRows(rows, self._frozen.require)

    def _fill(
        self,
        names: list[bytes],
        missing: list[int],
        images: Load,
        progress: Callable[[int, int], None] | None,
    ) -> None:
        needed = self._store.bytes_of(len(set(names)))
        if needed > self._budget:
            raise ResourceError(
                f"the activations of {len(set(names))} images take {needed / 1e6:,.1f} MB, and the "
                f"budget is {self._budget / 1e6:,.1f} MB",
                where="budget",
                hint="give a larger budget, dtype=torch.float16 or fewer views, or cut the network "
                "where its activations are smaller",
            )
        kernel = self._kernel_for(missing, images)

        def parts(missing: list[int]) -> Loaded:
            for start in range(0, len(missing), kernel.batch_size):
                part = missing[start : start + kernel.batch_size]
                yield part, images(part)

        self._store.fill(
            names, kernel, parts, self._budget,
            keep=names, strict=True,
            on_wait=lambda: _log.warning("another process fills %s; waiting for it", self._root),
            progress=progress or (lambda done, total: None),
        )  # fmt: skip

    def _kernel_for(self, missing: list[int], images: Load) -> Kernel:
        """Return the kernel; one that was chosen for few images is chosen anew for many."""
        if self._kernel is None or (self._wanted == "auto" and len(missing) > self._chosen_for):
            first = images(missing[: batch_size(self._image.device)])
            with evaluating(self._cut.net):
                choice = choose(
                    self._cut.prefix, first, len(missing),
                    wanted=self._wanted, precision=self._precision,
                )  # fmt: skip
            self._kernel, self._chosen_for = choice.kernel, len(missing)
        return self._kernel

    def _check(
        self, rows: Rows, computed: list[int], images: Load, keys: Sequence[str | bytes]
    ) -> None:
        if computed:
            positions = sorted({computed[0], computed[-1]})
        else:
            self._reads += 1
            if self._reads & (self._reads - 1):  # no power of two
                return
            positions = [self._reads * 7919 % len(rows)]
        stored = rows.gather(torch.tensor(positions))
        apart = [
            self._store.discrepancy(row[None], image[None])
            for row, image in zip(stored, images(positions), strict=True)
        ]
        worst = max(range(len(apart)), key=apart.__getitem__)
        if apart[worst] <= self._store.tolerance:
            return
        self._store.drop()
        raise DataError(
            f"the cached row differs by {apart[worst]:.1e} of its largest value from what the "
            f"network gives for the image that was loaded now, and {self._store.tolerance:.0e} is "
            "the most; all rows of this prefix were removed from the cache",
            where=f"key {keys[positions[worst]]!r}",
            hint="whatever changes the pixels must change the key (file, preprocessing, view), and "
            "'load' must give the same image for a key each time",
        )


def _example(cut: Cut) -> Tensor:
    """Return one black image ``[1, C, H, W]`` like those that a network was cut with."""
    leaf = cut.frontier.image
    if isinstance(leaf, Given):
        port = cut.frontier.ports[leaf.port]
        like = next(cut.net.parameters(), torch.empty(0))
        return torch.zeros(port.shape.of(1), dtype=port.dtype, device=like.device)
    return torch.zeros_like(leaf.make(1, {}), memory_format=torch.contiguous_format)


def _checked(load: Load, like: Tensor) -> Load:
    """Return ``load`` with its result checked and on the network's device."""

    def images(positions: list[int]) -> Tensor:
        loaded = load(list(positions))
        if not isinstance(loaded, Tensor):
            raise ConfigError(
                "load must return a tensor [n, C, H, W]", got=type(loaded).__name__,
                hint="stack the images: torch.stack([dataset[i] for i in missing])",
            )  # fmt: skip
        wanted = (len(positions), *like.shape[1:])
        if loaded.shape != wanted or loaded.dtype != like.dtype:
            raise ConfigError(
                "load must return the images that it is asked for, of the shape and type of those "
                "that the network was cut with",
                got=f"{list(loaded.shape)}, {loaded.dtype}",
                allowed=f"{list(wanted)}, {like.dtype}",
            )
        return loaded.to(like.device)

    return images


def _digest(key: str | bytes) -> bytes:
    """Return the store's key for a user's: one of text and one of bytes never meet."""
    if isinstance(key, str):
        content = b"s" + key.encode(errors="surrogatepass")
    elif isinstance(key, bytes):
        content = b"b" + key
    else:
        raise ConfigError(
            "a key must be text or bytes", where="keys", got=key,
            hint="whatever changes the pixels must change it; a number alone stands for another "
            "image in the next data set",
        )  # fmt: skip
    return hashlib.blake2b(content, digest_size=KEY_BYTES).digest()
