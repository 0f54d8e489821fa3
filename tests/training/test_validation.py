"""The images that the training metrics are measured on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from siamkit.batches import Batch
from siamkit.data.images import ImageSet, Sample, Tuples
from siamkit.errors import NonFiniteError
from siamkit.evaluation.retrieval import retrieval_of
from siamkit.training.validation import Evaluator, _tuple_probe, probe


def images(classes: int, each: int) -> ImageSet:
    return ImageSet.of(
        Path("/"), {f"c{c:02}": [f"c{c:02}/{i}.png" for i in range(each)] for c in range(classes)}
    )


@given(st.integers(2, 20), st.integers(2, 9), st.integers(2, 20), st.integers(2, 9))
def test_the_probe_is_as_hard_to_search_as_the_validation_set(
    train_classes: int, train_each: int, val_classes: int, val_each: int
) -> None:
    found = probe(images(train_classes, train_each), images(val_classes, val_each), 0)
    assert len(set(found.labels)) == min(train_classes, val_classes)
    assert len(found) == min(train_classes, val_classes) * min(train_each, val_each)
    assert found == probe(images(train_classes, train_each), images(val_classes, val_each), 0)


@settings(deadline=None)
@given(st.integers(1, 4), st.integers(0, 300), st.integers(2, 5), st.integers(0, 20))
def test_the_probe_has_images_to_find_among_many_classes_of_one_image(
    pairs: int, alone: int, val_classes: int, seed: int
) -> None:
    names = {f"pair{c}": [f"pair{c}/{i}.png" for i in range(2)] for c in range(pairs)}
    names |= {f"alone{c}": [f"alone{c}/0.png"] for c in range(alone)}
    found = probe(ImageSet.of(Path("/"), names), images(val_classes, 2), seed)
    several = {label for label, count in Counter(found.labels).items() if count == 2}
    assert len(several) == min(pairs, val_classes)
    assert len(set(found.labels)) == min(pairs + alone, val_classes)
    embeddings = np.random.default_rng(0).standard_normal((len(found), 4))
    assert retrieval_of(embeddings, found).queries == 2 * len(several)


def test_the_probe_stays_small() -> None:
    found = probe(images(400, 6), images(400, 6), 0)
    assert len(found) <= 512 and len(set(found.labels)) * 6 == len(found)


def test_the_probe_holds_as_many_images_as_it_may() -> None:
    names = {f"pair{c}": [f"pair{c}/{i}.png" for i in range(2)] for c in range(255)}
    names |= {f"alone{c}": [f"alone{c}/0.png"] for c in range(9)}
    found = probe(ImageSet.of(Path("/"), names), images(400, 2), 0)
    assert len(found) == 512
    assert sorted(Counter(found.labels).values()) == [1] * 2 + [2] * 255


@pytest.mark.parametrize(("train", "val"), [((2, 900), (2, 600)), ((5, 900), (5, 300))])
def test_the_probe_has_two_classes_even_if_each_is_large(
    train: tuple[int, int], val: tuple[int, int]
) -> None:
    """Among images of one class, any image that is found is right."""
    found = probe(images(*train), images(*val), 0)
    assert len(set(found.labels)) >= 2 and len(found) <= 512


def test_the_probe_has_two_images_of_a_class_whatever_the_validation_set_has() -> None:
    found = probe(images(5, 4), images(3, 1), 0)
    assert list(Counter(found.labels).values()) == [2, 2, 2]
    assert len(set(probe(images(5, 4), images(1, 3), 0).labels)) == 2


@pytest.mark.parametrize(("same", "count"), [(30, 10), (30, 100), (3, 10), (0, 10), (40, 4)])
def test_both_kinds_of_pairs_keep_their_share(same: int, count: int) -> None:
    kinds = tuple(i < same for i in range(40))
    rows = tuple((2 * i, 2 * i + 1) for i in range(40))
    samples = tuple(Sample(Path(f"/{i}.png"), 0, f"{i}.png") for i in range(80))
    found = _tuple_probe(ImageSet(samples, ("",), Tuples(rows, kinds)), count, 0)
    assert found.tuples is not None and found.tuples.same is not None
    share = min(count / 40, 1)
    for kind, number in ((True, same), (False, 40 - same)):
        expected = max(1, round(share * number)) if number else 0
        assert found.tuples.same.count(kind) == expected
    assert len(set(found.tuples.rows)) == len(found.tuples.rows), "no pair is there twice"


class Numbers:
    """A source in which each image is its index."""

    def __init__(self) -> None:
        self.sizes: list[int] = []
        self.closed = 0

    def batches(self, batches: list[list[int]], view: int = 0) -> Iterator[Batch]:
        for indices in batches:
            self.sizes.append(len(indices))
            index = torch.tensor(indices)
            yield Batch(index[:, None].double(), index, index)

    def close(self) -> None:
        self.closed += 1


def test_images_are_embedded_in_order_in_passes_of_at_most_so_many() -> None:
    source, evaluator = Numbers(), Evaluator(images(2, 4), torch.device("cpu"))
    found = evaluator.embed(source, lambda inputs: 2 * inputs, 3)
    assert found.dtype == np.float32 and found[:, 0].tolist() == [2 * i for i in range(8)]
    assert (source.sizes, source.closed) == ([3, 3, 2], 1)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_embeddings_that_are_not_finite_are_an_error(bad: float) -> None:
    evaluator = Evaluator(images(2, 4), torch.device("cpu"))
    with pytest.raises(
        NonFiniteError, match=r"embeddings are NaN or infinite.*or check the weights"
    ):
        evaluator.embed(Numbers(), lambda x: torch.where(x == 7, bad, x))
