from pathlib import Path

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from siamkit.data.images import ImageSet, Sample, Tuples, image_set_of
from siamkit.data.views import EvalView
from siamkit.inference.export.images import PreparedImages, drawn, embedded, part_of
from siamkit.interfaces import Preprocessing

labels = st.lists(st.sampled_from("abcdef"), min_size=1, max_size=60)


@given(labels, st.integers(1, 70), st.integers(0, 3))
def test_drawn_images_are_distinct_and_spread_over_the_classes(names, count, seed):
    images = image_set_of(names)
    chosen = drawn(images, count, seed)
    assert len(chosen) == len(set(chosen)) == min(count, len(images))
    assert chosen == drawn(images, count, seed)
    # Each class gives its fair share: a class with fewer images than another is used up.
    numbers = np.bincount([images.labels[i] for i in chosen], minlength=len(images.classes))
    have = np.bincount(images.labels, minlength=len(images.classes))
    most = numbers.max()
    assert all(number >= min(total, most - 1) for number, total in zip(numbers, have, strict=True))


@given(labels, st.integers(2, 70))
def test_a_part_has_whole_classes_and_at_least_two(names, most):
    images = image_set_of(names)
    part = part_of(images, most, seed=0)
    if len(images) <= most:
        assert part is images
        return
    assert all(part.counts[name] == images.counts[name] for name in part.classes)
    assert len(part.classes) >= min(2, len(images.classes))
    assert len(part) <= most or len(part.classes) <= 2


def test_a_part_ends_at_the_first_class_that_does_not_fit():
    """Smaller classes behind it would fit, but then large classes would be left out more often."""
    images = image_set_of(["large"] * 9 + list("abcdef"))
    sizes = {len(part_of(images, 4, seed)) for seed in range(60)}
    # The large class comes first or second, third, fourth, or later.
    assert sizes == {10, 2, 3, 4}


def test_a_part_of_pairs_keeps_both_kinds():
    samples = tuple(Sample(Path(f"{n}.png"), n % 4, f"{n}.png") for n in range(40))
    rows = tuple((n, (n + 4) % 40) for n in range(36))
    tuples = Tuples(rows, tuple(n % 3 > 0 for n in range(36)))
    images = ImageSet(samples, ("a", "b", "c", "d"), tuples)
    part = part_of(images, 10, seed=1)
    assert len(part) <= 22  # about a quarter of the pairs, each with two images
    assert set(part.tuples.same) == {True, False}
    # A quarter of the 24 same pairs and of the 12 different ones, and at least one of each.
    assert (sum(part.tuples.same), len(part.tuples)) == (6, 9)
    least = part_of(images, 1, seed=1)
    assert (sum(least.tuples.same), len(least.tuples)) == (1, 2)
    assert part_of(images, 40, seed=1) is images


def test_a_part_of_triplets_has_as_many_as_its_share():
    samples = tuple(Sample(Path(f"{n}.png"), n % 2, f"{n}.png") for n in range(40))
    rows = tuple((n, n + 2, n + 1) for n in range(30))
    images = ImageSet(samples, ("a", "b"), Tuples(rows))
    part = part_of(images, 8, seed=1)
    # A fifth of the triplets; there are no different ones.
    assert len(part.tuples) == 6 and part.tuples.same is None


def test_as_many_images_are_held_as_fit_into_half_a_gibibyte_but_a_batch_at_least():
    def most(size, channels=3):
        values = (0.5,) * channels
        return PreparedImages(image_set_of("ab"), Preprocessing(values, values, size), 10**6).most

    assert most((224, 224)) == 2**29 // (224 * 224 * 3 * 4)
    assert most((64, 32), 1) == 2**29 // (64 * 32 * 4)
    assert most((4096, 4096)) == 32


def test_images_are_prepared_as_the_embedder_prepares_them(image_folder):
    from PIL import Image

    files = sorted(image_folder.rglob("*.png"))
    images = ImageSet(tuple(Sample(f, 0, f.name) for f in files), ("all",))
    preprocessing = Preprocessing(size=(32, 32))
    prepared = PreparedImages(images, preprocessing, 10**6)
    together = prepared.together()
    assert together.shape == (48, 3, 32, 32) and together.dtype == np.float32
    view = EvalView(preprocessing)
    with Image.open(files[37]) as image:
        assert np.array_equal(together[37], view(image.convert("RGB")).numpy())
    assert np.array_equal(prepared.cycled(50)[48:], together[:2])
    assert [len(batch) for batch in prepared.batches()] == [32, 16]


def test_every_runner_sees_every_image_once():
    batches = [np.ones((2, 1, 1, 1), np.float32), np.zeros((3, 1, 1, 1), np.float32)]
    found = embedded({"same": lambda x: x[:, 0, 0], "twice": lambda x: 2 * x[:, 0, 0]}, batches)
    assert found["same"].flatten().tolist() == [1, 1, 0, 0, 0]
    assert found["twice"].flatten().tolist() == [2, 2, 0, 0, 0]
