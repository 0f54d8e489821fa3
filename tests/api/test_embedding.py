"""Embeddings of samples, with their progress."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from siamkit.api.embedding import embeddings_of
from siamkit.data.class_folders import class_images
from siamkit.portable.folders import scan


def test_progress_begins_at_nothing_and_ends_at_all(embedder: Any, image_folder: Path) -> None:
    samples = class_images(scan(image_folder)).samples[:5]
    seen: list[tuple[int, int]] = []
    found = embeddings_of(embedder, samples, lambda done, total: seen.append((done, total)))
    assert seen[0] == (0, 5) and seen[-1] == (5, 5)
    assert [done for done, _ in seen] == sorted({done for done, _ in seen})
    wanted = embedder.embed([sample.path for sample in samples]).numpy()
    np.testing.assert_allclose(found, wanted, atol=1e-6)
