"""Embedding images with a trained network: the whole of it is a fixed function.

So it runs the way a frozen prefix does: with the fastest kernel that the number of images pays for,
checked on real images before it is trusted.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Protocol, TypeVar

import torch
from torch import Tensor, nn

from siamkit.data.loader import Loader, ViewDataset, default_workers
from siamkit.data.sources import ImageSet, Sample, scan
from siamkit.data.views import EvalView
from siamkit.errors import DataError, NonFiniteError
from siamkit.freezing.kernels import Choice, Precision, choose, kernel_class, run
from siamkit.freezing.proof import fingerprint
from siamkit.model.siamese import SiameseNet

BATCH_SIZE = 64
"""Images that are loaded together, unless told otherwise."""

_BATCHES_AT_ONCE = 256  # whose image numbers are spelled out for the loader

Found = TypeVar("Found", covariant=True)


class Searchable(Protocol[Found]):
    """What embeddings are looked up in, such as a :class:`siamkit.Index`."""

    def require_model(self, fingerprint: str) -> None:
        """Raise an error unless the embeddings are those of this model."""

    def search(self, embeddings: Tensor, k: int) -> Found:
        """Return the k entries most similar to each of ``embeddings [Q, E]``."""


class WholeNetwork(nn.Module):
    """A network from images to embeddings, as kernels are built from.

    Args:
        net: The network, in eval mode.
    """

    def __init__(self, net: SiameseNet) -> None:
        super().__init__()
        self.net = net

    def forward(self, images: Tensor) -> Tensor:
        """Return the embeddings ``[N, E]`` of ``images [N, C, H, W]``."""
        return self.net.forward_single(images)


@dataclass(frozen=True)
class Embedded:
    """Some images and what they became.

    Attributes:
        paths: The files.
        embeddings: ``[N, E]``, float32, on the CPU.
    """

    paths: tuple[Path, ...]
    embeddings: Tensor


class Embedder:
    """Turns images into embeddings.

    Args:
        net: The network; it is put into eval mode, and must not change from then on.
        kernel: How it runs: ``auto`` measures, or a name as in ``engine.prefix``.
        precision: The type that a GPU computes in.
        workers: Processes that load images; None for as many as this machine has use for.
    """

    def __init__(
        self,
        net: SiameseNet,
        *,
        kernel: str = "auto",
        precision: Precision = "fp32",
        workers: int | None = None,
    ) -> None:
        self.net = net.eval().requires_grad_(False)
        self._wanted, self._precision, self._workers = kernel, precision, workers
        self._device = next((p.device for p in net.parameters()), torch.device("cpu"))
        self._choice: Choice | None = None
        self._considered = 0

    @property
    def embedding_dim(self) -> int:
        """The width E of the embeddings."""
        return self.net.embedding_dim

    @cached_property
    def fingerprint(self) -> str:
        """A SHA-256 of the network's tensors and of how it takes its images.

        Embeddings can be compared with each other only where it is the same.
        """
        about = {
            "tensors": {name: fingerprint(t) for name, t in self.net.state_dict().items()},
            "normalize": self.net.normalize,
            "view": EvalView(self.net.backbone.preprocessing).identity,
        }
        return hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()

    @property
    def numerics(self) -> str:
        """The kind of device and precision, within which results agree up to rounding."""
        return kernel_class(self._device, self._precision)

    @property
    def choice(self) -> Choice | None:
        """The kernel in use and what was measured; None before the first image."""
        return self._choice

    def embed(self, images: str | Path | Sequence[str | Path]) -> Tensor:
        """Return the embeddings of image files ``[N, E]``, float32, on the CPU.

        Args:
            images: A folder, whose images at any depth are taken in the order of their paths
                (:func:`files_of`); a file; or files, in this order.

        Raises:
            DataError: An image is missing or cannot be decoded; the message names it.
            NonFiniteError: An embedding is NaN or infinite; the message names the image.
        """
        parts = [part.embeddings for part in self.stream(images)]
        return torch.cat(parts) if parts else torch.empty(0, self.embedding_dim)

    def search(
        self,
        queries: str | Path | Sequence[str | Path],
        gallery: Searchable[Found],
        k: int = 10,
    ) -> Found:
        """Return what is most similar to each image.

        Args:
            queries: Images, as for :meth:`embed`.
            gallery: Where to search: a :class:`siamkit.Index`, as ``siamkit.load_index`` returns.
            k: How many for each query.

        Returns:
            What ``gallery.search`` returns: for an index, :class:`siamkit.Neighbours`.

        Raises:
            CheckpointError: The gallery was made by another network.
            DataError: A query cannot be read.
        """
        gallery.require_model(self.fingerprint)
        return gallery.search(self.embed(queries), k)

    def stream(
        self, images: str | Path | Sequence[str | Path], *, batch_size: int = BATCH_SIZE
    ) -> Iterator[Embedded]:
        """Yield the embeddings of image files, batch by batch, in bounded memory.

        Beside one batch, what is held is the list of files.

        Args:
            images: As for :meth:`embed`.
            batch_size: Images that are loaded together and yielded together.

        Raises:
            DataError: An image is missing or cannot be decoded; the message names it.
            NonFiniteError: An embedding is NaN or infinite; the message names the image.
        """
        paths = files_of(images)
        preprocessing = self.net.backbone.preprocessing
        samples = tuple(Sample(path, 0, path.name) for path in paths)
        dataset = ViewDataset(
            ImageSet(samples, ("",)), EvalView(preprocessing), preprocessing.channels, seed=0
        )
        workers = self._workers
        if workers is None:
            workers = default_workers(len(paths), self._device)
        order = range(len(paths))
        starts = range(0, len(paths), batch_size)
        with Loader(dataset, workers, pin_memory=self._device.type == "cuda") as loader:
            left = len(paths)
            for some in _cut(starts, _BATCHES_AT_ONCE):
                batches = [order[start : start + batch_size] for start in some]
                for batch in loader.batches(batches):
                    moved = batch.images.to(self._device, non_blocking=True)
                    kernel = self._kernel(moved, left).kernel
                    embeddings = run(kernel, moved).cpu()
                    chosen = tuple(paths[i] for i in batch.indices.tolist())
                    _require_finite(embeddings, chosen)
                    yield Embedded(chosen, embeddings)
                    left -= len(batch)

    def _kernel(self, images: Tensor, count: int) -> Choice:
        """Return the kernel; a task larger than all before may pay for a better one."""
        if self._choice is None or (self._wanted == "auto" and count > self._considered):
            self._considered = count
            self._choice = choose(
                WholeNetwork(self.net), images[:8], count, wanted=self._wanted,
                precision=self._precision,
            )  # fmt: skip
        return self._choice


def files_of(images: str | Path | Sequence[str | Path]) -> list[Path]:
    """Return the image files of a folder, at any depth, by path; or the files themselves.

    Raises:
        DataError: There is no such file or folder.
    """
    if not isinstance(images, str | Path):
        return [Path(image) for image in images]
    path = Path(images)
    if not path.is_dir():
        if not path.exists():
            raise DataError("no such file or folder", where=str(path))
        return [path]
    found = scan(path)
    keys = sorted((*parts, name) for parts, names in found.folders.items() for name in names)
    return [found.root.joinpath(*key) for key in keys]


def _cut(numbers: range, size: int) -> Iterator[range]:
    for start in range(0, len(numbers), size):
        yield numbers[start : start + size]


def _require_finite(embeddings: Tensor, paths: Sequence[Path]) -> None:
    finite = torch.isfinite(embeddings).all(dim=1)
    if not finite.all():
        worst = paths[int((~finite).nonzero()[0])]
        raise NonFiniteError(
            "the network gives an embedding that is NaN or infinite",
            where=str(worst),
            hint="check the weights and the image",
        )
