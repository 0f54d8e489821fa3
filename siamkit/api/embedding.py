"""Embeds images with whatever embeds them: an embedder, or an exported model."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from siamkit.data.images import Sample
from siamkit.portable.arrays import array_of
from siamkit.portable.decode import decode
from siamkit.portable.embedding import BATCH_SIZE
from siamkit.portable.model import ExportedModel

if TYPE_CHECKING:
    from siamkit.inference.embedder import Embedder


def embeddings_of(
    embedder: Embedder | ExportedModel,
    samples: Sequence[Sample],
    progress: Callable[[int, int], None],
) -> NDArray[Any]:
    """Return the embeddings ``[N, E]`` of images in files, at least one.

    Args:
        embedder: The network.
        samples: The images.
        progress: Called with the number of finished images, and the number of all images.
    """
    parts: list[NDArray[Any]] = []
    progress(0, len(samples))
    for part in _parts(embedder, samples):
        parts.append(part)
        progress(sum(map(len, parts)), len(samples))
    return np.concatenate(parts)


def _parts(embedder: Embedder | ExportedModel, samples: Sequence[Sample]) -> Iterator[NDArray[Any]]:
    if isinstance(embedder, ExportedModel):
        yield from exported_embeddings(embedder, samples)
    else:
        yield from (array_of(part.embeddings) for part in embedder.stream(samples))


def exported_embeddings(embedder: ExportedModel, images: Sequence[Any]) -> Iterator[NDArray[Any]]:
    """Yield the embeddings ``[B, E]`` of images by an exported model, batch by batch.

    Args:
        embedder: The network.
        images: The images as the network takes them, or samples. The network knows no boxes, so the
            boxes of a batch are cut out before its first image is embedded.
    """
    for at in range(0, len(images), BATCH_SIZE):
        yield embedder.embed([_whole(image, embedder) for image in images[at : at + BATCH_SIZE]])


def _whole(image: Any, embedder: ExportedModel) -> Any:
    """Return an image as an exported model takes it: a file, or the decoded part in a box."""
    if not isinstance(image, Sample):
        return image
    return image.path if image.box is None else decode(image.path, embedder.decoding, image.box)
