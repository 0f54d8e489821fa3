"""Embeddings of samples, with their progress."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

import siamkit
from siamkit.api.embedding import embeddings_of
from siamkit.data.class_folders import class_images
from siamkit.data.images import Sample
from siamkit.portable.embedding import BATCH_SIZE
from siamkit.portable.folders import scan


def test_progress_begins_at_nothing_and_ends_at_all(embedder: Any, image_folder: Path) -> None:
    samples = class_images(scan(image_folder)).samples[:5]
    seen: list[tuple[int, int]] = []
    found = embeddings_of(embedder, samples, lambda done, total: seen.append((done, total)))
    assert seen[0] == (0, 5) and seen[-1] == (5, 5)
    assert [done for done, _ in seen] == sorted({done for done, _ in seen})
    wanted = embedder.embed([sample.path for sample in samples]).numpy()
    np.testing.assert_allclose(found, wanted, atol=1e-6)


def test_an_exported_model_gets_the_boxes_of_a_batch_at_once_and_embeds_them_like_its_run(
    exported_run: tuple[Path, Path], image_folder: Path, monkeypatch: Any
) -> None:
    run, folder = exported_run
    model, files = siamkit.ExportedModel(folder), class_images(scan(image_folder)).samples
    boxes = [(0, 0, 20, 20), (10, 5, 40, 40), None]
    samples = [Sample(one.path, 0, one.key, box) for one in files for box in boxes]
    assert len(samples) > 2 * BATCH_SIZE
    sizes: list[int] = []
    embed = type(model).embed
    monkeypatch.setattr(
        type(model),
        "embed",
        lambda self, images: (sizes.append(len(images)), embed(self, images))[1],
    )
    found = embeddings_of(model, samples, lambda done, total: None)
    assert sizes[:2] == [BATCH_SIZE, BATCH_SIZE] and sum(sizes) == len(samples)
    wanted = siamkit.load_embedder(run, device="cpu").embed(samples).numpy()
    np.testing.assert_allclose(found, wanted, atol=1e-4)
