"""What the embedding of a trained network says against data."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from siamkit.api.suspecting import _limit
from siamkit.data.images import Sample
from siamkit.portable.decode import Decoding, decode
from siamkit.portable.inputs import files_of


class Counting:
    """A stand-in for a network: the mean colour is the embedding."""

    decoding = Decoding(3)

    def __init__(self) -> None:
        self.counts: list[int] = []

    def embed(self, images: list[Any]) -> np.ndarray[Any, Any]:
        self.counts.append(len(images))
        return np.stack([np.asarray(image).mean(axis=(0, 1)) for image in images])


def test_few_copies_are_in_memory_at_once(image_folder: Path) -> None:
    samples = [Sample(path, 0, path.name) for path in files_of(image_folder)[:19]]
    network = Counting()
    whole = np.stack([Counting().embed([decode(s.path, Counting.decoding)])[0] for s in samples])
    limit = _limit(network, samples, whole)
    assert max(network.counts) <= 8 and sum(network.counts) == 19
    assert 0.99 < limit <= 1  # each copy is compared with its own image
