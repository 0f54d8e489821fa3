from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from siamkit.data.images import ImageSet, Sample, Tuples


def make(labels: list[int]) -> ImageSet:
    samples = tuple(Sample(Path(str(i)), label, str(i)) for i, label in enumerate(labels))
    flags = tuple(i % 2 == 0 for i in range(len(labels)))
    return ImageSet(samples, tuple(f"c{i}" for i in range(10)), query=flags, gallery=flags[::-1])


@given(st.lists(st.integers(0, 9), max_size=30), st.data())
def test_a_subset_keeps_names_and_roles(labels: list[int], data: st.DataObject) -> None:
    images = make(labels)
    chosen = data.draw(st.sets(st.integers(0, len(labels) - 1))) if labels else set()
    part = images.subset(chosen)
    assert [s.key for s in part.samples] == [str(i) for i in sorted(chosen)]
    assert [part.classes[s.label] for s in part.samples] == [
        f"c{labels[i]}" for i in sorted(chosen)
    ]
    assert set(part.labels) == set(range(len(part.classes))), "no class without an image"
    assert part.query == tuple(images.query[i] for i in sorted(chosen))
    assert part.gallery == tuple(images.gallery[i] for i in sorted(chosen))


def test_tuples_bring_their_images() -> None:
    pairs = Tuples(((0, 1), (2, 3), (3, 4)), (True, False, True), (0, 1, 2))
    images = ImageSet(make([0, 0, 1, 2, 2]).samples, ("a", "b", "c"), pairs)
    part = images.with_tuples([1, 2])
    assert [sample.key for sample in part.samples] == ["2", "3", "4"]
    assert part.classes == ("b", "c")
    assert part.tuples == Tuples(((0, 1), (1, 2)), (False, True), (1, 2))
    assert str(part) == "3 images in 2 pairs (1 same, 1 different)"


def test_triplets_are_pairs_each_once() -> None:
    triplets = Tuples(((0, 1, 2), (0, 1, 3), (1, 0, 2)))
    assert triplets.pairs() == Tuples(((0, 1), (0, 2), (0, 3), (1, 2)), (True, False, False, False))


def test_the_columns_of_pairs_and_triplets() -> None:
    pairs, triplets = Tuples(((0, 1), (2, 3)), (True, False)), Tuples(((0, 1, 2), (3, 4, 5)))
    assert (pairs.width, pairs.noun, pairs.columns) == (2, "pairs", ((0, 2), (1, 3)))
    assert (triplets.width, triplets.noun) == (3, "triplets")
    assert triplets.columns == ((0, 3), (1, 4), (2, 5))
    assert Tuples((), ()).columns == ((), ()) and Tuples(()).columns == ((), (), ())
    assert str(triplets) == "2 triplets"
