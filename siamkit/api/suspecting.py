"""Suspects: what the embedding of a trained network says against the labels of data."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from siamkit.api.embedding import embeddings_of
from siamkit.config import DataConfig
from siamkit.data.copies import lossy_copy
from siamkit.data.images import ImageSet, Sample, together
from siamkit.data.opening import open_source
from siamkit.errors import DataError
from siamkit.evaluation.near_duplicates import limit_of
from siamkit.evaluation.suspicion import Suspicion, nearest_of_class, suspicion
from siamkit.inference import exported
from siamkit.portable.arrays import array_of
from siamkit.portable.decode import Decoding, decode
from siamkit.portable.geometry import Boxed
from siamkit.report.units import percent
from siamkit.runs.seen import trained_use
from siamkit.words import plural

_COPIES = 200
_COPIES_AT_ONCE = 8  # in memory, at their whole size
_UNKNOWN = 0.3
_STEP = "embed"

Embeddings = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Suspected:
    """Data with what an embedding says against it.

    Attributes:
        images: The images of all splits.
        parts: The split of each image; ``all`` if the data has no splits of its own.
        embeddings: ``[N, E]``.
        found: What the embedding says.
        how: How the network's images are decoded.
        trained_on: The number of images that the network was trained on; None if it is not known.
        notices: Notices for the user.
    """

    images: ImageSet
    parts: Sequence[str]
    embeddings: Embeddings
    found: Suspicion
    how: Decoding
    trained_on: int | None
    notices: tuple[str, ...]

    def nearest(self, image: int, label: int, most: int) -> list[tuple[int, float]]:
        """Return the nearest images of a class to an image, with their similarities."""
        labels = np.array(self.images.labels, np.int64)
        return nearest_of_class(self.embeddings, labels, image, label, most)


@dataclass(frozen=True)
class Witness:
    """A trained network.

    Attributes:
        embedder: The embedder or exported model.
        run: The run that trained it; None if it is not known.
    """

    embedder: Any
    run: Any


def witness(model: str | Path, device: str = "auto") -> Witness:
    """Open a trained network.

    Args:
        model: A run's directory, or an exported model.
        device: The device to compute on.

    Raises:
        SiamkitError: The model cannot be used.
    """
    if exported.runs_here(model):
        return Witness(exported.load_embedder(model, device=device), None)
    from siamkit.api.models import trained  # imports torch

    run, embedder = trained(model, device=device)
    return Witness(embedder, run)


def suspect(
    config: DataConfig,
    asked: Witness,
    unreadable: Collection[Boxed],
    progress: Callable[[str, int, int], None],
) -> Suspected:
    """Embed the images of all splits, and return what the embedding says against the data.

    Args:
        config: The section ``data``: where the data is.
        asked: The network.
        unreadable: Images to leave out.
        progress: Called with the name of the step, and the numbers of finished and of all images.

    Raises:
        SiamkitError: The data cannot be used, or there are fewer than two images.
    """
    embedder = asked.embedder
    source = open_source(config.path, config.root, config.columns).without(unreadable)
    images, parts = _together(source.parts())
    if len(images) < 2:
        raise DataError("two images are needed to compare them", where=source.where)
    embeddings = embeddings_of(
        embedder, images.samples, lambda done, total: progress(_STEP, done, total)
    )
    limit = _limit(embedder, images.samples, embeddings)
    labelled = images.tuples is None and len(images.classes) > 1
    labels = np.array(images.labels, np.int64)
    found = suspicion(embeddings, labels, len(images.classes), limit, labelled=labelled)
    trained = None if asked.run is None else trained_use(asked.run, images.samples).number
    notices = _notices(found, trained, labelled)
    return Suspected(images, parts, embeddings, found, embedder.decoding, trained, notices)


def _together(parts: Mapping[str, ImageSet]) -> tuple[ImageSet, list[str]]:
    """Return the images of all splits as one set, and the split of each image."""
    known = next((images.tuples for images in parts.values() if images.tuples is not None), None)
    images = replace(together(parts.values()), tuples=known)
    return images, [part for part, images in parts.items() for _ in images.samples]


def _limit(embedder: Any, samples: Sequence[Sample], embeddings: Embeddings) -> float:
    """Return the similarity from which images are near duplicates, from copies of some images."""
    chosen = np.sort(np.random.default_rng(0).permutation(len(samples))[:_COPIES])
    parts = []
    for start in range(0, len(chosen), _COPIES_AT_ONCE):
        some = [samples[i] for i in chosen[start : start + _COPIES_AT_ONCE]]
        copies = [lossy_copy(decode(one.path, embedder.decoding, one.box)) for one in some]
        parts.append(array_of(embedder.embed(copies)))
    return limit_of(embeddings[chosen], np.concatenate(parts))


def _notices(found: Suspicion, trained: int | None, labelled: bool) -> tuple[str, ...]:
    notices = []
    if not labelled:
        notices.append("the images have no classes to check, so only near duplicates were sought")
    if trained:
        notices.append(
            f"the network was trained on {plural(trained, 'of these images', 'of these images')}, "
            "so it may agree with wrong labels among them: a network that was trained on other "
            "images, or for few epochs, finds more"
        )
    noise = found.noise
    if noise is not None and noise.contradicted >= _UNKNOWN:
        notices.append(
            f"for {percent(noise.contradicted)} of the images, another class is nearer than their "
            "own: the network does not know these images well, "
            + (
                "so it cannot tell which labels are wrong"
                if noise.share is None
                else "so look at the suspects with doubt"
            )
        )
    return tuple(notices)


def as_json(suspected: Suspected, model: str | Path) -> dict[str, Any]:
    """Return what was found, as JSON values."""
    images, found = suspected.images, suspected.found
    samples, classes, labels = images.samples, images.classes, images.labels
    noise = found.noise
    return {
        "model": str(model),
        "images": len(images),
        "trained_on": suspected.trained_on,
        "labels": None
        if noise is None
        else {
            "share": noise.share,
            "precision": noise.precision,
            "contradicted": noise.contradicted,
            "suspects": [
                {
                    "key": samples[i].key,
                    "class": classes[labels[i]],
                    "suggested": classes[int(found.suggested[i])],
                    "margin": float(noise.margins[i]),
                    "cleanlab": None if found.agrees is None else bool(found.agrees[i]),
                }
                for i in noise.suspects.tolist()
            ],
        },
        "near_duplicates": {
            "limit": found.limit,
            "pairs": [
                {
                    "keys": [samples[i].key for i in (pair.first, pair.second)],
                    "classes": [classes[labels[i]] for i in (pair.first, pair.second)],
                    "parts": [suspected.parts[i] for i in (pair.first, pair.second)],
                    "score": pair.score,
                }
                for pair in found.twins
            ],
        },
        "alike": [
            {"classes": [classes[pair.first], classes[pair.second]], "share": pair.share}
            for pair in found.alike
        ],
        "divided": [
            {
                "class": classes[some.label],
                "parts": [[samples[i].key for i in part] for part in some.parts],
                "share": some.share,
            }
            for some in found.divided
        ],
        "notices": list(suspected.notices),
    }
