from collections import Counter

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from siamkit.data.sampler import pk_batches, pk_shape
from siamkit.errors import DataError


@st.composite
def label_lists(draw):
    """Labels of 2 to 20 classes, at least one of them with two images, in any order."""
    counts = draw(
        st.lists(st.integers(1, 30), min_size=2, max_size=20).filter(lambda c: max(c) > 1)
    )
    labels = [label for label, count in enumerate(counts) for _ in range(count)]
    return draw(st.permutations(labels))


labels = label_lists()
sizes = st.integers(2, 40)
per_class = st.integers(1, 6)
seeds = st.integers(0, 2**32 - 1)
epochs = st.integers(0, 1000)


@given(labels, sizes, per_class, seeds, epochs)
@example([0] * 147 + [1] * 6 + [2] * 6, 32, 4, 0, 0)
@example([0, 0, 1], 64, 4, 0, 0)
def test_every_batch_is_p_classes_times_k_and_every_image_comes(labels, size, k, seed, epoch):
    args = {"batch_size": size, "images_per_class": k, "seed": seed, "epoch": epoch}
    batches = pk_batches(labels, **args)
    p, k, _ = pk_shape(labels, size, k)
    counts = Counter(labels)
    assert p >= 2
    for batch in batches:
        groups = [batch[i : i + k] for i in range(0, len(batch), k)]
        classes = [{labels[index] for index in group} for group in groups]
        assert len(batch) == p * k
        assert all(len(group) == 1 for group in classes)  # classes lie side by side
        assert len(set.union(*classes)) == p  # and none comes twice
        for group in groups:  # images only repeat where a class has too few
            assert len(set(group)) == min(k, counts[labels[group[0]]])
    assert {index for batch in batches for index in batch} == set(range(len(labels)))
    assert pk_batches(labels, **args) == batches


@given(labels, sizes, per_class, seeds)
def test_no_more_batches_than_needed(labels, size, k, seed):
    p, k, _ = pk_shape(labels, size, k)
    visits = [-(-count // k) for count in Counter(labels).values()]
    batches = pk_batches(labels, batch_size=size, images_per_class=k, seed=seed, epoch=0)
    assert len(batches) == max(-(-sum(visits) // p), max(visits))


def test_the_callers_random_state_is_untouched():
    np.random.seed(0)
    expected = np.random.random()
    np.random.seed(0)
    pk_batches([0, 0, 1, 1], batch_size=4, images_per_class=2, seed=0, epoch=0)
    assert np.random.random() == expected


def test_epochs_and_seeds_differ():
    labels = np.repeat(np.arange(10), 8).tolist()
    args = {"batch_size": 16, "images_per_class": 4}
    runs = {str(pk_batches(labels, **args, seed=s, epoch=e)) for s in range(3) for e in range(3)}
    assert len(runs) == 9


def test_classes_meet_different_classes():
    labels = np.repeat(np.arange(20), 8).tolist()
    met = set()
    for epoch in range(10):
        batches = pk_batches(labels, batch_size=16, images_per_class=4, seed=0, epoch=epoch)
        for batch in batches:
            classes = sorted({labels[index] for index in batch})
            met |= {(a, b) for a in classes for b in classes if a < b}
    assert len(met) > 0.75 * 190


def test_what_comes_again_is_spread_evenly():
    counts = [147, 6, 6, 50, 13, 80, 6, 30]
    labels = [label for label, count in enumerate(counts) for _ in range(count)]
    batches = pk_batches(labels, batch_size=16, images_per_class=4, seed=0, epoch=0)
    times = Counter(index for batch in batches for index in batch)
    for label in range(len(counts)):
        own = [times[index] for index in range(len(labels)) if labels[index] == label]
        assert max(own) - min(own) <= 1
    fillers = Counter(labels[index] for batch in batches for index in batch)
    assert fillers[0] == 148  # the largest class only fills up its own last batch


def test_an_epoch_of_a_balanced_set_shows_each_image_once():
    labels = np.repeat(np.arange(16), 4).tolist()
    batches = pk_batches(labels, batch_size=32, images_per_class=4, seed=0, epoch=0)
    assert sorted(index for batch in batches for index in batch) == list(range(64))


@pytest.mark.parametrize("counts, size, k, shape, notices", [
    ([8] * 20, 64, 4, (16, 4), []),
    ([8] * 10, 64, 4, (10, 4), ["batches have 10 classes x 4 images = 40 images instead of 64"]),
    ([8] * 40, 64, 5, (12, 5), ["batches have 12 classes x 5 images = 60 images instead of 64"]),
    ([3] * 40, 64, 4, (21, 3), ["batches have 3 images per class instead of 4, because no class",
                                "batches have 21 classes x 3 images = 63 images instead of 64"]),
    # No class is large: each batch but the last has two classes that no other batch has.
    ([4] + [1] * 6, 8, 4, (2, 4), ["6 of 7 classes have fewer than 4 images"]),
    ([400] + [8] * 15, 64, 4, (16, 4),
     ["an epoch shows 6400 images, 12.3 times as many as there are. It takes 100 batches"]),
    ([20] + [8] * 15, 64, 4, (16, 4), []),
    ([8, 8, 2, 1], 16, 4, (4, 4), ["2 of 4 classes have fewer than 4 images: some of these"]),
    ([8] * 4, 5, 4, (2, 4), ["batches have 2 classes x 4 images = 8 images instead of 5"]),
])  # fmt: skip
def test_the_shape_shrinks_for_small_sets_and_says_so(counts, size, k, shape, notices):
    labels = [label for label, count in enumerate(counts) for _ in range(count)]
    p, k, said = pk_shape(labels, size, k)
    assert (p, k) == shape
    assert len(said) == len(notices)
    assert all(text.startswith(start) for text, start in zip(said, notices, strict=True))


@pytest.mark.parametrize(
    ("labels", "got"),
    [
        ([], "0 classes, 0 images"),
        ([0, 0, 0], "1 class, 3 images"),
        ([0, 1, 2], "3 classes, 1 image"),
    ],
)
def test_labels_without_positives_or_negatives_are_refused(labels, got):
    with pytest.raises(DataError, match=f"two classes, and two images .*, got '{got} in the"):
        pk_batches(labels, batch_size=4, images_per_class=2, seed=0, epoch=0)


@pytest.mark.parametrize(
    ("counts", "size", "k", "change"),
    [
        ([2, 2, 2], 64, 4, "use train={'images_per_class': 2}, or add images"),
        ([4, 4, 4], 64, 4, "use batch_size=12, or add classes"),
        ([9] * 40, 63, 4, "use batch_size=60"),
        ([999, *[9] * 9], 40, 4, "raise train={'images_per_class': ...}, or lower batch_size"),
        ([4, 4, 1], 12, 4, "add images, or lower train={'images_per_class': ...}"),
    ],
)
def test_each_notice_about_batches_says_what_to_change(counts, size, k, change):
    labels = [label for label, count in enumerate(counts) for _ in range(count)]
    _, _, said = pk_shape(labels, size, k)
    assert change in " ".join(said)


@given(labels, sizes, per_class)
def test_the_notice_about_a_large_class_tells_the_length_of_an_epoch(labels, size, k):
    _, _, said = pk_shape(labels, size, k)
    batches = pk_batches(labels, batch_size=size, images_per_class=k, seed=0, epoch=0)
    shown = sum(map(len, batches))
    for notice in said:
        if notice.startswith("an epoch shows"):
            assert notice.startswith(f"an epoch shows {shown} images") and shown > 3 * len(labels)
            assert max(Counter(labels).values()) > k * (len(batches) - 1)


def test_items_are_looked_at_a_few_times_each(monkeypatch):
    looked = 0

    class Item(int):
        __slots__ = ()

        def __hash__(self):
            nonlocal looked
            looked += 1
            return int(self)

    counts = [4000] + [10] * 15  # quadratic work would look at half a million items
    items = [Item(label) for label, count in enumerate(counts) for _ in range(count)]
    batches = pk_batches(items, batch_size=64, images_per_class=4, seed=0, epoch=0)
    assert len(batches) == 1000
    assert looked < 20 * sum(map(len, batches)) // 4


@pytest.mark.parametrize("counts, size, k, told", [
    ([8] * 10, 64, 4, [
        "batches have 10 classes x 4 images = 40 images instead of 64, because there are only 10 "
        "classes: use batch_size=40, or add classes"]),
    ([8] * 40, 64, 5, [
        "batches have 12 classes x 5 images = 60 images instead of 64, because a multiple of 5 is "
        "needed: use batch_size=60"]),
    ([8] * 4, 5, 4, [
        "batches have 2 classes x 4 images = 8 images instead of 5, because a multiple of 4 is "
        "needed: use batch_size=8"]),
    ([3] * 16, 48, 4, [
        "batches have 3 images per class instead of 4, because no class has more: use "
        "train={'images_per_class': 3}, or add images"]),
    ([400] + [8] * 15, 64, 4, [
        "an epoch shows 6400 images, 12.3 times as many as there are. It takes 100 batches to show "
        "all 400 images of the largest class and repeats images of the others: use fewer images of "
        "this class, raise train={'images_per_class': ...}, or lower batch_size"]),
    ([8, 8, 2, 1], 16, 4, [
        "2 of 4 classes have fewer than 4 images: some of these images appear more than once in a "
        "batch; add images, or lower train={'images_per_class': ...}"]),
    ([4] * 300, 1204, 4, [
        "batches have 300 classes x 4 images = 1200 images instead of 1204, because there are only "
        "300 classes: use batch_size=1200, or add classes"]),
    # Images of small classes are repeated within a batch, but no class makes the epoch long.
    ([4] + [1] * 15, 64, 4, [
        "15 of 16 classes have fewer than 4 images: some of these images appear more than once in "
        "a batch; add images, or lower train={'images_per_class': ...}"]),
    # 9 batches of 8 images are three times as many as the 24 images; 10 are more than 26.
    ([18, 2, 2, 2], 8, 2, []),
    ([20, 2, 2, 2], 8, 2, [
        "an epoch shows 80 images, 3.1 times as many as there are. It takes 10 batches to show all "
        "20 images of the largest class and repeats images of the others: use fewer images of this "
        "class, raise train={'images_per_class': ...}, or lower batch_size"]),
])  # fmt: skip
def test_a_notice_says_what_to_change(counts, size, k, told):
    labels = [label for label, count in enumerate(counts) for _ in range(count)]
    assert list(pk_shape(labels, size, k)[2]) == told


@pytest.mark.parametrize("counts, got", [
    ([], "0 classes, 0 images in the largest"), ([5], "1 class, 5 images in the largest"),
    ([1, 1, 1], "3 classes, 1 image in the largest"),
])  # fmt: skip
def test_batches_need_two_classes_and_a_pair(counts, got):
    labels = [label for label, count in enumerate(counts) for _ in range(count)]
    with pytest.raises(DataError, match=f"batches need at least two classes.*got '{got}'"):
        pk_shape(labels, 64, 4)
