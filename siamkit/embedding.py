"""Embedding images with a trained network: the whole of it is a fixed function.

So it runs the way a frozen prefix does: with the fastest kernel that the number of images pays for,
checked on real images before it is trusted.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from siamkit.data.folders import scan
from siamkit.data.images import ImageSet, Sample
from siamkit.data.loader import Loader, ViewDataset, default_workers
from siamkit.data.views import EvalView
from siamkit.errors import DataError, NonFiniteError
from siamkit.freezing.kernels import Choice, Precision, choose, run
from siamkit.model.siamese import SiameseNet

_BATCH = 64  # images that are loaded together


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

    @property
    def choice(self) -> Choice | None:
        """The kernel in use and what was measured; None before the first image."""
        return self._choice

    def embed(self, images: str | Path | Sequence[str | Path] | Sequence[Sample]) -> Tensor:
        """Return the embeddings of image files ``[N, E]``, float32, on the CPU.

        Args:
            images: A folder, whose images at any depth are taken in the order of their paths
                (:func:`files_of`); a file; or files or samples, in this order.

        Raises:
            DataError: An image is missing or cannot be decoded; the message names it.
            NonFiniteError: An embedding is NaN or infinite; the message names the image.
        """
        parts = [part.embeddings for part in self.stream(images)]
        return torch.cat(parts) if parts else torch.empty(0, self.embedding_dim)

    def stream(
        self, images: str | Path | Sequence[str | Path] | Sequence[Sample]
    ) -> Iterator[Embedded]:
        """Yield the embeddings of image files, batch by batch, in bounded memory.

        Arguments and errors are those of :meth:`embed`.
        """
        samples = _samples(images)
        paths = [sample.path for sample in samples]
        preprocessing = self.net.backbone.preprocessing
        dataset = ViewDataset(
            ImageSet(samples, ("",)), EvalView(preprocessing), preprocessing.channels, seed=0
        )
        workers = self._workers
        if workers is None:
            workers = default_workers(len(paths), self._device)
        order = range(len(paths))
        batches = [order[start : start + _BATCH] for start in range(0, len(paths), _BATCH)]
        with Loader(dataset, workers, pin_memory=self._device.type == "cuda") as loader:
            left = len(paths)
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


def _samples(images: str | Path | Sequence[str | Path] | Sequence[Sample]) -> tuple[Sample, ...]:
    if not isinstance(images, str | Path) and all(isinstance(i, Sample) for i in images):
        return tuple(i for i in images if isinstance(i, Sample))
    return tuple(Sample(path, 0, path.name) for path in files_of(images))


def files_of(images: str | Path | Sequence[str | Path] | Sequence[Sample]) -> list[Path]:
    """Return the image files of a folder, at any depth, by path; or the files themselves.

    Raises:
        DataError: There is no such file or folder.
    """
    if not isinstance(images, str | Path):
        return [i.path if isinstance(i, Sample) else Path(i) for i in images]
    path = Path(images)
    if not path.is_dir():
        if not path.exists():
            raise DataError("no such file or folder", where=str(path))
        return [path]
    found = scan(path)
    keys = sorted((*parts, name) for parts, names in found.folders.items() for name in names)
    return [found.root.joinpath(*key) for key in keys]


def _require_finite(embeddings: Tensor, paths: Sequence[Path]) -> None:
    finite = torch.isfinite(embeddings).all(dim=1)
    if not finite.all():
        worst = paths[int((~finite).nonzero()[0])]
        raise NonFiniteError(
            "the network gives an embedding that is NaN or infinite",
            where=str(worst),
            hint="check the weights and the image",
        )
