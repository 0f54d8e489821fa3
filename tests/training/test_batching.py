from pathlib import Path
from typing import Literal

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from siamkit.config import TrainConfig
from siamkit.data.images import ImageSet, Sample, Tuples
from siamkit.errors import DataError
from siamkit.interfaces import Pairs, Triplets
from siamkit.training.batching import LossBatch, batch_notices, epoch_steps, part_of

ends = st.tuples(st.integers(0, 9), st.integers(0, 9), st.integers(0, 9))


def image_set(tuples: Tuples) -> ImageSet:
    samples = tuple(Sample(Path(str(i)), i, str(i)) for i in range(10))
    return ImageSet(samples, tuple(map(str, range(10))), tuples)


def rows_of(part: LossBatch) -> list[tuple[int, ...]]:
    assert part.tuples is not None
    columns = [c for c in vars(part.tuples).values() if c.dtype == torch.int64]
    return [tuple(part.images[i] for i in row) for row in torch.stack(columns).T.tolist()]


@given(
    st.lists(ends, min_size=1, max_size=60),
    st.integers(2, 40), st.none() | st.integers(8, 40), st.integers(0, 3), st.booleans(),
    st.sampled_from(("exact", "naive")),
)  # fmt: skip
def test_each_known_tuple_is_shown_once_an_epoch(
    rows: list[tuple[int, int, int]], batch: int, micro: int | None, epoch: int, triplets: bool,
    accumulation: Literal["exact", "naive"],
) -> None:  # fmt: skip
    batch, micro = batch * 4, None if micro is None else min(micro, batch * 4)
    config = TrainConfig(
        batch_size=batch, images_per_class=2, micro_batch=micro, accumulation=accumulation
    )
    tuples = (
        Tuples(tuple(rows))
        if triplets
        else Tuples(tuple((a, b) for a, b, _ in rows), tuple(bool(c % 2) for _, _, c in rows))
    )
    steps = epoch_steps(config, image_set(tuples), epoch)
    shown = [row for step in steps for part in step for row in rows_of(part)]
    assert sorted(shown) == sorted(tuples.rows)
    for step in steps:
        assert sum(part.size for part in step) * tuples.width <= batch
        for part in step:
            assert [i for images in part.passes for i in images] == part.images
            if accumulation == "naive":
                assert part.size * tuples.width <= (micro or batch)
            else:
                assert len(step) == 1, "one loss compares the whole batch"
                assert all(len(images) <= (micro or batch) for images in part.passes)
            assert len(set(part.images)) == len(part.images)
            assert part.size == len(rows_of(part))
    sizes = [sum(part.size for part in step) for step in steps]
    assert max(sizes) - min(sizes) <= 1


def test_epochs_differ_and_repeat() -> None:
    images = image_set(Tuples(tuple((i, i + 1) for i in range(8)), (True, False) * 4))
    config = TrainConfig(batch_size=8, images_per_class=2)
    order = [[p.images for s in epoch_steps(config, images, e) for p in s] for e in (0, 1, 0)]
    assert order[0] != order[1]
    assert order[0] == order[2]


def test_many_pairs_cost_no_more_each() -> None:
    count = 50_000  # quadratic work would take minutes
    pairs = Tuples(((0, 1),) * count, (True,) * count)
    steps = epoch_steps(TrainConfig(), image_set(pairs), 0)
    assert sum(part.size for step in steps for part in step) == count


def test_an_image_in_several_pairs_comes_once() -> None:
    part = part_of(Tuples(((4, 7), (4, 2)), (True, False)), [0, 1])
    assert part.images == [4, 7, 2]
    assert isinstance(part.tuples, Pairs)
    assert part.tuples.first.tolist() == [0, 0]
    assert part.tuples.second.tolist() == [1, 2]
    assert part.tuples.same.tolist() == [True, False]
    triplets = part_of(Tuples(((1, 2, 3),)), [0]).tuples
    assert isinstance(triplets, Triplets) and triplets.negative.tolist() == [2]


def test_labelled_images_come_in_classes() -> None:
    samples = tuple(Sample(Path(str(i)), i // 4, str(i)) for i in range(16))
    images = ImageSet(samples, ("a", "b", "c", "d"))
    config = TrainConfig(batch_size=8, images_per_class=4)
    for [part] in epoch_steps(config, images, 0):
        assert part.tuples is None
        assert part.size == len(part.images) == 8
        assert len({i // 4 for i in part.images}) == 2
    assert batch_notices(config, images) == ()


def test_what_is_computed_is_checked_on_two_images_or_more() -> None:
    """One image says nothing about what depends on its batch."""
    samples = tuple(Sample(Path(str(i)), i // 4, str(i)) for i in range(16))
    images = ImageSet(samples, ("a", "b", "c", "d"))
    for micro, count in ((None, 8), (3, 3), (1, 2)):
        config = TrainConfig(batch_size=8, images_per_class=4, micro_batch=micro)
        part = epoch_steps(config, images, 0)[0][0]
        assert part.sample == part.images[:count]


def test_a_batch_must_hold_a_triplet() -> None:
    images = image_set(Tuples(((0, 1, 2),)))
    config = TrainConfig(batch_size=4, images_per_class=2)
    assert batch_notices(config, images) == ()
    small = config.model_copy(update={"batch_size": 2})
    with pytest.raises(DataError, match=r"train\.batch_size: a batch holds no triplet, got 2"):
        batch_notices(small, images)


@given(st.lists(st.integers(2, 9), min_size=2, max_size=8), st.integers(1, 12), st.integers(0, 5))
def test_short_epochs_go_on_where_the_last_one_ended(
    sizes: list[int], most: int, epoch: int
) -> None:
    labels = [label for label, size in enumerate(sizes) for _ in range(size)]
    samples = tuple(Sample(Path(str(i)), label, str(i)) for i, label in enumerate(labels))
    images = ImageSet(samples, tuple(map(str, range(len(sizes)))))
    plain = TrainConfig(batch_size=4, images_per_class=2)
    short = plain.model_copy(update={"epoch_steps": most})
    length = len(epoch_steps(plain, images, 0))
    found = [step for e in range(epoch + 1) for step in epoch_steps(short, images, e)]
    if most >= length:
        assert epoch_steps(short, images, epoch) == epoch_steps(plain, images, epoch)
        return
    passes = -(-(epoch + 1) * most // length)
    whole = [step for n in range(passes) for step in epoch_steps(plain, images, n)]
    assert found == whole[: (epoch + 1) * most]
