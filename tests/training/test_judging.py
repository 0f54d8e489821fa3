from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch

from siamkit.data.images import image_set_of
from siamkit.data.loader import ViewDataset
from siamkit.errors import DataError
from siamkit.inference.quantizing.search import TOLERANCE
from siamkit.model.quantized import ROWS
from siamkit.training.judging import (
    DIFFERENT,
    LEAST,
    MOST,
    Judge,
    distance,
    fall,
    judged_images,
    pooled,
    sample_of,
)


def test_the_distance_is_that_of_centred_features() -> None:
    rng = np.random.default_rng(0)
    features = rng.normal(size=(20, 8)) + 100  # far from the origin, where all cosines are near 1
    assert distance(features, features) == pytest.approx(0, abs=1e-12)
    assert distance(features, features[::-1]) > 0.5


def test_the_number_of_images_grows_with_the_work_and_is_bounded() -> None:
    assert judged_images(1) == judged_images(600) == LEAST
    assert judged_images(64 * 32 - 1) == 32 and judged_images(64 * 32) == judged_images(4000) == 64
    assert judged_images(10**6) == MOST


@pytest.mark.parametrize(("classes", "each", "most"), [(300, 5, 256), (10, 100, 256), (3, 4, 4)])
def test_a_sample_is_spread_over_the_classes(classes: int, each: int, most: int) -> None:
    images = image_set_of([f"class{n // each}" for n in range(classes * each)])
    part = sample_of(images, most, 0)
    assert most / 2 < len(part) <= most
    assert len(part.classes) == min(classes, most // 2)
    assert min(part.counts.values()) >= 2, "each class has something to find"
    assert sample_of(images, most, 0) == part != sample_of(images, most, 1)


def test_large_classes_fill_the_places_that_small_ones_leave() -> None:
    images = image_set_of([f"one{n}" for n in range(20)] + ["two"] * 30 + ["three"] * 900)
    part = sample_of(images, 400, 0)
    assert part.counts["two"] == 30 and len(part.classes) == 22
    assert len(part) == 400 and part.counts["three"] == 350


def test_a_small_set_is_taken_whole() -> None:
    images = image_set_of(["a", "a", "b"])
    assert sample_of(images, 4, 0) is images


def test_classes_of_one_image_come_last() -> None:
    images = image_set_of([f"one{n}" for n in range(50)] + ["two", "two", "three", "three"])
    part = sample_of(images, 6, 0)
    assert {"two", "three"} < set(part.classes) and len(part) <= 6


def test_a_class_has_a_query_and_an_image_of_the_gallery() -> None:
    images = image_set_of([f"class{n // 20}" for n in range(200)])
    roles = [n % 20 == 7 for n in range(200)]
    images = dataclasses.replace(
        images, query=tuple(roles), gallery=tuple(not role for role in roles)
    )
    part = sample_of(images, 20, 0)
    assert part.query is not None and sum(part.query) == 10 and len(part) == 20


def test_a_metric_may_fall_by_chance() -> None:
    assert fall(0.80, 0.78, 100) == 0
    assert fall(0.80, 0.70, 100) == pytest.approx(0.075)
    assert fall(0.80, 0.78, 10_000) == pytest.approx(0.0175)
    assert fall(0.5, 0.6, 100) == 0


def test_maps_are_pooled_over_their_positions_and_vectors_stay() -> None:
    maps = torch.arange(24.0).reshape(2, 3, 2, 2)
    assert pooled(maps).tolist() == maps.mean((2, 3)).tolist()
    assert pooled(maps.flatten(2)).tolist() == maps.mean((2, 3)).tolist()
    assert pooled(maps[:, :, 0, 0]).tolist() == maps[:, :, 0, 0].tolist()
    assert pooled(maps.half()).dtype == np.float32


class Views(ViewDataset):
    """Images whose pixels are their place; the largest number that are alive is counted."""

    def __init__(self, count: int) -> None:
        self.images = image_set_of([str(n // 2) for n in range(count)])
        self.decoded: list[int] = []

    def __getitem__(self, key: tuple[int, int]) -> torch.Tensor:
        self.decoded.append(key[0])
        return torch.full((3, 2, 2), float(key[0]))


def no_metric(_: Any) -> dict[str, float]:
    raise DataError("no class has two images")


def test_the_output_is_computed_in_batches() -> None:
    views, sizes = Views(ROWS + 3), []

    def part(images: torch.Tensor) -> torch.Tensor:
        sizes.append(len(images))
        return images

    judged = Judge(views, "recall@1", no_metric).output(part)
    assert sizes == [ROWS, 3]
    assert judged.features[:, 0].tolist() == list(range(ROWS + 3))
    assert judged.seconds > 0


def test_the_larger_of_the_metrics_fall_and_the_distance_counts() -> None:
    rng = np.random.default_rng(0)
    before = rng.normal(size=(400, 8)).astype(np.float32)
    after = before + 0.1 * rng.normal(size=before.shape).astype(np.float32)
    views = Views(400)
    apart = distance(before, after) / DIFFERENT * TOLERANCE
    assert Judge(views, "m", no_metric).loss(before, after) == pytest.approx(apart)
    recalls = {before.tobytes(): 0.9, after.tobytes(): 0.5}
    judge = Judge(views, "m", lambda features: {"m": recalls[features.tobytes()]})
    assert judge.loss(before, after) == pytest.approx(0.4 - 0.25 / 20)
    assert judge.loss(before, np.full_like(before, np.nan)) == 1.0
