"""The feature cache: stores the output of a frozen prefix on the disk, for any training loop."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self, get_args

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from siamkit.engine.cache.layout import KEY_BYTES, default_root
from siamkit.engine.cache.rows import Rows
from siamkit.engine.cache.store import DTYPES
from siamkit.engine.cutting import Cut
from siamkit.engine.frozen_prefix import FrozenPrefix
from siamkit.engine.identity import describe, describe_network
from siamkit.engine.kernels import (
    Kernel,
    Precision,
    batch_size,
    choose,
    kernel_class,
    require_kernel,
)
from siamkit.engine.outputs import Blank, Given
from siamkit.engine.prefix_store import Loaded, PrefixStore
from siamkit.engine.sources import unpack
from siamkit.errors import ConfigError, DataError, ResourceError
from siamkit.files import path_of
from siamkit.freezing.controller import FreezeController
from siamkit.model.trace import evaluating
from siamkit.words import data_size, plural

_log = logging.getLogger("siamkit.engine")

Load = Callable[[list[int]], Tensor]
"""Returns the images ``[n, C, H, W]`` of keys, given the positions of the keys."""


class CachedRows(Dataset[Tensor]):
    """The prefix's outputs for some images, in the order of their keys: a map-style dataset.

    ``rows[3]`` is the row of one image; ``rows[1:9]``, ``rows[[4, 2]]`` and ``rows[tensor]`` are
    rows ``[n, ...]``, in float32 on the CPU. A ``DataLoader`` can read
    ``torch.utils.data.StackDataset(rows, labels)`` with ``num_workers=0``. Workers would bring no
    gain, because reading a row needs no computation.
    """

    def __init__(self, rows: Rows, require_frozen: Callable[[], None]) -> None:
        self._rows, self._require_frozen = rows, require_frozen
        self._positions = torch.arange(len(rows))

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int | slice | Sequence[int] | Tensor) -> Tensor:
        """Return one row, or rows ``[n, ...]``.

        Raises:
            ConfigError: A plan that doesn't freeze the same prefix was applied meanwhile.
            FrozenDriftError: A frozen tensor of the prefix changed.
        """
        self._require_frozen()
        positions = self._positions[index]
        rows = unpack(self._rows.gather(positions.reshape(-1)))
        return rows.reshape(*positions.shape, *rows.shape[1:])

    def __getitems__(self, indices: list[int]) -> list[Tensor]:
        """Return the rows of a batch; ``DataLoader`` calls this."""
        return list(self[indices])

    def __reduce__(self) -> Any:
        raise ConfigError(
            "cached rows cannot be copied or sent to another process",
            hint="use a DataLoader with num_workers=0, or open another FeatureCache on the same "
            "folder in the other process",
        )


class FeatureCache:
    """Stores a prefix's output by key, so that any training loop computes each image only once.

    ::

        controller.apply(plan)
        result = siamkit.engine.cut(net, stages, plan, images)
        with FeatureCache(result.cut, controller) as cache:
            rows = cache.rows(keys, lambda missing: torch.stack([dataset[i] for i in missing]))
            for batch in batches:
                loss = criterion(result.cut.suffix(rows[batch]), labels[batch])

    A *row* is the prefix's output for one image. Rows are in a *store*: a folder whose name depends
    on the prefix's weights, buffers, structure and code, its boundary, the images' shape, the type
    of the rows and the kind of arithmetic. A network that differs in any of these has another
    store. ``siamkit cache`` lists and prunes stores. Several processes can use one store: the first
    fills it, and the others wait and read. While a key's row is stored, each read gives the same
    bits.

    The cache belongs to the plan under which it was made. After a plan that freezes another prefix
    is applied, the cache raises an error; make a new cut and a new cache then.

    Args:
        cut: The cut network (:attr:`siamkit.engine.CutResult.cut`).
        controller: The controller that applied the plan before the cut.
        root: The folder of all stores; by default ``$SIAMKIT_CACHE_DIR`` or
            ``~/.cache/siamkit/features``.
        budget: The most bytes that all stores may take together. The least recently used rows are
            evicted, but none that the same call of :meth:`rows` needs.
        dtype: The type of the rows: ``torch.float16``, ``torch.float32`` or ``torch.bfloat16``. By
            default, float32 for vectors, and float16 for feature maps, which halves their size.
        kernel: The implementation of the prefix that computes rows, one of
            :data:`siamkit.engine.KERNELS`. ``auto`` picks the fastest one whose setup pays off for
            the missing images. The output of every kernel is checked against the plain network's.
        precision: The type that autocast computes in, on a GPU: ``fp32``, ``bf16`` or ``fp16``.

    Attributes:
        kernel_name: The kernel that last computed rows; None if none were missing so far.

    Raises:
        ConfigError: Cut and controller have different networks or plans, or an argument is wrong.
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
        if not isinstance(cut, Cut):
            raise ConfigError(
                "must be a cut network", where="cut", got=type(cut).__name__,
                hint="pass siamkit.engine.cut(...).cut; if it is None, run the whole network "
                "without a FeatureCache",
            )  # fmt: skip
        if not isinstance(budget, int | float) or not budget > 0:
            raise ConfigError("must be a number of bytes above 0", where="budget", got=budget)
        if precision not in get_args(Precision):
            allowed = ", ".join(get_args(Precision))
            raise ConfigError(
                "unknown precision", where="precision", got=precision, allowed=allowed
            )
        if dtype is not None and dtype not in DTYPES:
            names = ", ".join(map(str, DTYPES))
            raise ConfigError(
                "cached rows cannot have this type", where="dtype", got=dtype, allowed=names
            )
        self._cut, self._budget = cut, int(min(budget, 2**62))
        self._wanted, self._precision = kernel, precision
        self._frozen = FrozenPrefix(controller, cut)
        self._image = _example(cut)
        require_kernel(kernel, self._image.device, "kernel")
        shape = cut.prefix(self._image).shape[1:]
        if dtype is None:
            dtype = torch.float32 if len(shape) == 1 else torch.float16
        numerics = kernel_class(self._image.device, precision)
        self._root = default_root() if root is None else path_of(root, "root", "a folder")
        if self._root.exists() and not self._root.is_dir():
            raise ConfigError("is a file, not a folder", where="root", got=str(self._root))
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
        """The kernel that last computed rows; None if none were missing so far."""
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
        """Release the store, which other processes may then evict. Returned rows stay usable."""
        self._store.close()

    def rows(
        self,
        keys: Iterable[str | bytes],
        load: Load,
        progress: Callable[[int, int], None] | None = None,
    ) -> CachedRows:
        """Return the activations of images, computing missing ones first.

        Call this method once per phase or epoch with the keys of all images, not once per batch.

        A few rows are compared with the network's current output: the first and the last row that
        the call computed, and the last row whose key occurs twice in ``keys``. Of the calls that
        compute no row, only the 1st, 2nd, 4th, 8th, ... compare: one stored row, and the row with a
        key that occurs twice. This detects most keys that stand for two different images, and a
        ``load`` that returns random images. If a row differs, all rows of the store are removed,
        and DataError is raised.

        Args:
            keys: A key per image and view. Anything that changes the pixels must change the key:
                the file's content, the resizing and normalisation, the seed of a random
                augmentation.
            load: Returns the images ``[n, C, H, W]`` at the given positions in ``keys``. The images
                must have the shape and type of those that the network was cut with; they may be on
                any device. A key must always give the same image.
            progress: Called with the number of computed rows and the number of rows to compute.

        Returns:
            A dataset of rows, one per key, in order. The dataset stays usable after :meth:`close`.

        Raises:
            ConfigError: A plan that doesn't freeze the same prefix was applied meanwhile; or a key,
                an image or the kernel is invalid.
            DataError: A row differs from the network's output.
            FrozenDriftError: A frozen tensor of the prefix changed.
            ResourceError: The rows do not fit the budget or the disk. Computed rows are kept.
            OverflowInCache: A value is too large for the type of the rows.
        """
        self._frozen.require()
        keys = list(keys)
        row_keys = [_digest(key) for key in keys]
        if not row_keys:
            raise ConfigError("must hold at least one key", where="keys", got=[])
        images = _checked(load, self._image)
        computed: list[int] = []
        while True:
            missing = self._store.missing(row_keys)
            if missing:
                self._fill(row_keys, missing, images, progress)
                computed = missing
            try:
                rows = self._store.rows(row_keys)
                break
            except LookupError:  # another process evicted rows meanwhile
                continue
        for text in self._store.notices():
            _log.warning(text)
        self._check(rows, computed, images, keys, _last_repeated(row_keys))
        return CachedRows(rows, self._frozen.require)

    def _fill(
        self,
        keys: list[bytes],
        missing: list[int],
        images: Load,
        progress: Callable[[int, int], None] | None,
    ) -> None:
        count = len(set(keys))
        needed = self._store.bytes_of(count)
        if needed > self._budget:
            raise ResourceError(
                f"the activations of {plural(count, 'image')} take {data_size(needed)}, more than "
                f"the budget of {data_size(self._budget)}",
                where="budget",
                hint="use a larger budget, dtype=torch.float16 or fewer views, or cut the network "
                "at smaller activations",
            )
        kernel = self._kernel_for(missing, images)

        def parts(missing: list[int]) -> Loaded:
            for start in range(0, len(missing), kernel.batch_size):
                part = missing[start : start + kernel.batch_size]
                yield part, images(part)

        self._store.fill(
            keys, kernel, parts, self._budget,
            keep=keys, strict="others",
            on_wait=lambda: _log.warning("another process fills %s; waiting for it", self._root),
            progress=progress or (lambda done, total: None),
        )  # fmt: skip

    def _kernel_for(self, missing: list[int], images: Load) -> Kernel:
        """Return the kernel. A kernel that was chosen for fewer images is chosen again."""
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
        self,
        rows: Rows,
        computed: list[int],
        images: Load,
        keys: Sequence[str | bytes],
        repeated: int | None,
    ) -> None:
        if computed:
            positions = sorted({computed[0], computed[-1]})
            kept = np.setdiff1d(np.arange(len(rows)), computed)
            if kept.size:  # they may be of earlier code, which differs in a way that no key shows
                positions.append(int(kept[len(computed) * 7919 % kept.size]))
        else:
            self._reads += 1
            if self._reads & (self._reads - 1):  # not a power of two
                return
            positions = [self._reads * 7919 % len(rows)]
        positions += [] if repeated is None else [repeated]
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
            "the cached row differs from the network's output for the loaded image by "
            f"{apart[worst]:.1e} of the output's largest value, more than the allowed "
            f"{self._store.tolerance:.0e}; all rows of this prefix were removed from the cache",
            where=f"key {keys[positions[worst]]!r}",
            hint="anything that changes the pixels must change the key (file, preprocessing, "
            "view), 'load' must always return the same image for a key, and the network must not "
            "read variables outside of it that change",
        )


def _example(cut: Cut) -> Tensor:
    """Return one black image ``[1, C, H, W]`` of the shape and type that a network was cut with."""
    leaf = cut.frontier.image
    assert isinstance(leaf, Blank | Given)
    like = cut.frontier.ports[leaf.port] if isinstance(leaf, Given) else leaf
    device = next((p.device for p in cut.net.parameters()), torch.device("cpu"))
    return torch.zeros(like.shape.of(1), dtype=like.dtype, device=device)


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
                "load must return one image per position, of the shape and type that the network "
                "was cut with",
                got=f"{list(loaded.shape)}, {loaded.dtype}",
                allowed=f"{list(wanted)}, {like.dtype}",
            )
        return loaded.to(like.device)

    return images


def _last_repeated(keys: Sequence[bytes]) -> int | None:
    """Return the last position whose key occurred earlier; None if no key occurs twice."""
    first = {key: at for at, key in reversed(list(enumerate(keys)))}
    return next((at for at in range(len(keys) - 1, -1, -1) if first[keys[at]] != at), None)


def _digest(key: str | bytes) -> bytes:
    """Return the store's key for a user's key; text and bytes never give the same key."""
    if isinstance(key, str):
        content = b"s" + key.encode(errors="surrogatepass")
    elif isinstance(key, bytes):
        content = b"b" + key
    else:
        raise ConfigError(
            "a key must be text or bytes", where="keys", got=key,
            hint="make the key from all that determines the pixels (file content, preprocessing, "
            "view); a bare number would stand for different images in different data sets",
        )  # fmt: skip
    return hashlib.blake2b(content, digest_size=KEY_BYTES).digest()
