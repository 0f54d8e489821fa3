"""What an embedder takes: files, in a fixed order, and a network from images to embeddings."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from torch import Tensor, nn

from siamkit.data.folders import scan
from siamkit.data.images import Sample
from siamkit.errors import DataError
from siamkit.model.siamese import SiameseNet

Paths = str | Path | Sequence[str | Path] | Sequence[Sample]


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


def files_of(images: Paths) -> list[Path]:
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


def samples_of(images: Paths) -> tuple[Sample, ...]:
    """Return the samples of :func:`files_of`, or those that were given."""
    if not isinstance(images, str | Path) and all(isinstance(i, Sample) for i in images):
        return tuple(i for i in images if isinstance(i, Sample))
    return tuple(Sample(path, 0, path.name) for path in files_of(images))
