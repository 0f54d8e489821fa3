"""The exported model: a trained network that embeds and compares images, without torch."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from ..checks import whole_number
from ..errors import CheckpointError
from ..files import path_of
from .arrays import array_of
from .calibration import Calibration, Verdict
from .cosine import cosine, directions, require_direction, require_finite
from .decode import Decoding, prepare, quiet, with_decoded
from .embedding import BATCH_SIZE
from .inputs import (
    files_of,
    images_of,
    is_prepared,
    of_both,
    require_one_each,
    require_prepared,
    sides_of,
)
from .manifest import Manifest, read_files, read_manifest
from .pictures import picture_of
from .prepare import Preparer
from .preprocessing import Preprocessing
from .sessions import KERNELS, open_session

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from .gallery import Gallery, Neighbours

    Floats = NDArray[np.float32]

ImageLike = str | Path | Image.Image | np.ndarray[Any, Any]
Images = ImageLike | Iterable[ImageLike]

_THREADS = min(8, os.cpu_count() or 1)  # that decode images
_FEW = 2  # images that are decoded one after the other, since threads take longer to start


@dataclass(frozen=True)
class EmbeddedFiles:
    """Image files, and their embeddings.

    Attributes:
        paths: The N files.
        embeddings: The embeddings ``[N, E]`` of the files, float32.
    """

    paths: tuple[Path, ...]
    embeddings: Floats


class ExportedModel:
    """A model that ``siamkit export`` wrote: embeds images, verifies pairs, searches galleries.

    Every file of the folder is compared with the manifest, and the network that was compared is the
    network that runs. Several threads may use one model at the same time.

    Args:
        folder: The folder.
        threads: The threads of one forward pass; None: as many as cores may be used.

    Attributes:
        folder: The folder.
        manifest: The content of ``export.json``.

    Raises:
        ConfigError: There is no exported model in the folder, it was exported for torch, or a
            package is missing.
        CheckpointError: A file is damaged, was edited, or is of another version or export.
    """

    def __init__(self, folder: str | Path, *, threads: int | None = None) -> None:
        self.folder = path_of(folder, "folder", "an exported model")
        count = None if threads is None else whole_number(threads, "threads", least=1)
        self.manifest: Manifest = read_manifest(self.folder)
        files = read_files(self.folder, self.manifest)
        self._run = open_session(self.manifest, files, str(self.folder), count)
        self._prepare = Preparer(self.manifest.images.preprocessing)

    def __repr__(self) -> str:
        """Return a description with the format, the run and the threshold."""
        made, calibration = self.manifest, self.manifest.calibration
        verifies = (
            "no threshold, so pairs cannot be verified"
            if calibration is None
            else f"same at a similarity of {calibration.threshold:.4f} or more"
        )
        return (
            f"ExportedModel: {made.kind} {made.precision}, {self.embedding_dim} dimensions, of the "
            f"run {made.origin.run!r}, in {self.folder}\n  {verifies}"
        )

    @property
    def embedding_dim(self) -> int:
        """The width E of the embeddings."""
        return self.manifest.tensors.width

    @property
    def fingerprint(self) -> str:
        """A SHA-256 that says whose embeddings can be compared; see :attr:`.Manifest.fingerprint`.

        A float32 model has the fingerprint of its run, whose indexes it can search.
        """
        return self.manifest.fingerprint

    @property
    def numerics(self) -> str:
        """The package and the precision. Embeddings of one kind are equal up to rounding."""
        return f"{self.kernel_name}-{self.manifest.precision}"

    @property
    def kernel_name(self) -> str:
        """The package that runs the network."""
        return KERNELS[self.manifest.kind]

    @property
    def calibration(self) -> Calibration:
        """The threshold, and the map from scores to probabilities.

        Raises:
            CheckpointError: The run had none when it was exported.
        """
        if self.manifest.calibration is None:
            raise CheckpointError(
                "the exported model has no threshold",
                where=str(self.folder),
                hint="run 'siamkit calibrate RUN', then export the run again",
            )
        return self.manifest.calibration

    @property
    def preprocessing(self) -> Preprocessing:
        """How decoded images are prepared."""
        return self.manifest.images.preprocessing

    @property
    def decoding(self) -> Decoding:
        """How image files are decoded."""
        images = self.manifest.images
        return Decoding.of(images.preprocessing, images.max_pixels)

    def embed(self, images: Images) -> Floats:
        """Return the embeddings ``[N, E]`` of images, float32.

        Args:
            images: The images, in one of these forms. Files: a folder (its images at any depth,
                sorted by path), a file, or several files. Images in memory, which are prepared like
                files, but decoded whole where a large JPEG file is decoded at a fraction of its
                size: one or several Pillow images or uint8 arrays ``[H, W, C]``, a uint8 array
                ``[N, H, W, C]``, or a uint8 tensor ``[N, C, H, W]``. Prepared images: a float
                tensor ``[N, C, H, W]`` that was prepared as the manifest says. An iterator is read
                to its end.

        Raises:
            DataError: An image is missing or cannot be decoded. The message names the image.
            NonFiniteError: An embedding is NaN or infinite. The message names the image.
        """
        return self._embedded(images_of(images, self.embedding_dim))

    def stream(
        self, images: str | Path | Sequence[str | Path], *, batch_size: int = BATCH_SIZE
    ) -> Iterator[EmbeddedFiles]:
        """Yield the embeddings of image files, batch by batch, in bounded memory.

        Args:
            images: A folder, a file, or several files.
            batch_size: The number of images per forward pass, and per result.

        Raises:
            ConfigError: ``batch_size`` is not positive.
            DataError: An image is missing or cannot be decoded. The message names the image.
            NonFiniteError: An embedding is NaN or infinite. The message names the image.
        """
        size = whole_number(batch_size, "batch_size", least=1)
        return self._batches(files_of(images), size)

    def _batches(self, paths: Sequence[Path], size: int) -> Iterator[EmbeddedFiles]:
        for start in _starts(paths, size):
            some = paths[start : start + size]
            yield EmbeddedFiles(tuple(some), self._embed(some, start))

    def similarity(self, a: Images, b: Images) -> Floats:
        """Return the cosine similarities ``[A, B]`` of each image of ``a`` with each one of ``b``.

        Similarities are in [-1, 1]. An embedding of zeros has a similarity of 0 with every image.

        Args:
            a: Images as for :meth:`embed`, or embeddings ``[A, E]``.
            b: Images as for :meth:`embed`, or embeddings ``[B, E]``.

        Raises:
            SiamkitError: As for :meth:`embed`.
        """
        sides = sides_of(a, b, self.embedding_dim)
        one, other = map(directions, of_both(self._embedded, sides))
        return cosine(one @ other.T)

    def verify(self, a: Images, b: Images) -> Verdict:
        """Decide whether two images show the same class.

        Args:
            a: One image as for :meth:`embed`, or its embedding ``[1, E]``.
            b: The other image, or its embedding ``[1, E]``.

        Raises:
            CheckpointError: The exported model has no threshold.
            DataError: ``a`` or ``b`` is not exactly one image, an embedding consists of zeros, or
                as for :meth:`embed`.
        """
        calibration = self.calibration
        sides = sides_of(a, b, self.embedding_dim)
        require_one_each(*sides)
        # One by one, as siamkit does: the last bits of an embedding depend on the batch.
        vectors = np.concatenate(of_both(self._embedded, sides))
        require_direction(vectors, ("a", "b"))
        one, other = directions(vectors)
        return calibration.verdict(float(cosine(np.atleast_1d(one @ other)).item()))

    def search(self, queries: Images, gallery: str | Path | Gallery, k: int = 10) -> Neighbours:
        """Return the images of an index that are most similar to each query, by exact search.

        Args:
            queries: Images as for :meth:`embed`.
            gallery: The folder of an index that ``siamkit index`` built with this model or, if this
                model is in float32, with its run; or the opened :class:`.Gallery`.
            k: The number of results per query.

        Raises:
            CheckpointError: The index is damaged, or was built with another network.
            DataError: A query cannot be read.
        """
        from .gallery import Gallery  # takes a while to import, and verify() needs none

        opened_gallery = gallery if isinstance(gallery, Gallery) else Gallery(gallery)
        opened_gallery.require_model(self.fingerprint)
        return opened_gallery.search(self.embed(queries), k)

    def _embedded(self, items: Any) -> Floats:
        """Return the embeddings of images; embeddings are returned unchanged."""
        if isinstance(items, np.ndarray):
            return items
        prepared = is_prepared(items)
        if prepared:
            require_prepared(items, self.manifest.tensors.shape)
            items = array_of(items)
        embed: Callable[[Any, int], Floats] = self._embed_prepared if prepared else self._embed
        parts = [embed(items[at : at + BATCH_SIZE], at) for at in _starts(items, BATCH_SIZE)]
        return np.concatenate(parts) if parts else np.empty((0, self.embedding_dim), np.float32)

    def _embed(self, items: Sequence[ImageLike], start: int) -> Floats:
        """Return the embeddings of some images; the first one is number ``start`` of the call."""
        names = [
            str(item) if isinstance(item, str | Path) else f"image {number}"
            for number, item in enumerate(items, start)
        ]
        return self._checked(np.stack(self._inputs(items, names)), names)

    def _embed_prepared(self, images: Any, start: int) -> Floats:
        names = [f"image {number}" for number in range(start, start + len(images))]
        return self._checked(np.ascontiguousarray(images, np.float32), names)

    def _checked(self, inputs: Floats, names: Sequence[str]) -> Floats:
        """Return the network's embeddings of prepared images ``[N, C, H, W]``."""
        embeddings = self._run(inputs)
        if embeddings.shape != (len(inputs), self.embedding_dim):
            raise CheckpointError(
                "the network returns embeddings of another shape",
                where=str(self.folder),
                got=str(embeddings.shape),
                allowed=f"({len(inputs)}, {self.embedding_dim})",
            )
        require_finite(embeddings, names)
        return embeddings

    def _inputs(self, items: Sequence[ImageLike], names: Sequence[str]) -> list[Floats]:
        # An image that comes several times is prepared once. Pillow reads a file when its pixels
        # are needed, and two threads would read one file at the same time.
        first: dict[int, tuple[ImageLike, str]] = {}
        for item, name in zip(items, names, strict=True):
            first.setdefault(id(item), (item, name))
        prepared = dict(zip(first, self._prepared(list(first.values())), strict=True))
        return [prepared[id(item)] for item in items]

    def _prepared(self, named: Sequence[tuple[ImageLike, str]]) -> list[Floats]:
        with quiet():
            if len(named) <= _FEW:
                return [self._input(*pair) for pair in named]
            from .threads import in_threads  # takes a while to import

            return list(in_threads(lambda pair: self._input(*pair), named, _THREADS))

    def _input(self, item: ImageLike, name: str) -> Floats:
        how = self.decoding
        if isinstance(item, str | Path):
            return with_decoded(Path(item), how, None, self._prepare)
        picture = picture_of(item, name)
        return self._prepare(prepare(picture, how, where=name))


def _starts(items: Sequence[Any], size: int) -> range:
    return range(0, len(items), size)
