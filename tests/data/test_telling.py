"""The images that are shown of a set: the odd ones first, then others of other classes."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from siamkit.data.telling import Traits, telling


def traits(size=(40, 40), mode="RGB", deep=False, label=0):
    return Traits(size, mode, deep, label)


def chosen(images, side=40, most=8):
    return {choice.index: choice.why for choice in telling(images, side, most)}


def plain(classes, each=3):
    return [traits(label=label) for label in range(classes) for _ in range(each)]


def test_of_equal_images_the_first_of_evenly_spread_classes_are_shown():
    assert list(chosen(plain(12), most=4)) == [0, 9, 18, 27]
    assert set(chosen(plain(12), most=4).values()) == {"the first of its class"}


def test_odd_images_come_first_and_say_why():
    images = plain(6)
    images[4] = traits((20, 200), label=1)
    images[7] = traits(mode="I;16", deep=True, label=2)
    images[11] = traits((9, 8), label=3)
    images[14] = traits(mode="RGBA", label=4)
    found = telling(images, 40, 8)
    assert [(c.index, c.why) for c in found[:4]] == [
        (4, "the most elongated, 10:1"),
        (7, "the first of more than 8 bits per channel"),
        (11, "the smallest"),
        (14, "the first in mode RGBA"),
    ]
    # The other classes follow, and classes that are shown already come last.
    assert [c.index for c in found[4:6]] == [0, 15]
    assert len({c.index for c in found}) == 8


def test_odd_images_leave_half_of_the_places_to_classes():
    images = [traits((40, 400), "I;16", True), traits((4, 4)), traits(mode="L"), *plain(5)]
    found = telling(images, 40, 4)
    assert sum(c.why == "the first of its class" for c in found) == 2


@pytest.mark.parametrize(("most", "odd"), [(1, 1), (2, 1), (3, 2), (4, 2), (5, 3), (8, 4)])
def test_odd_images_take_at_most_half_of_the_places_rounded_up(most, odd):
    images = [traits((40, 400), label=7), traits((4, 4), label=7), *plain(9)]
    images[3] = traits(mode="L")
    images[4] = traits(mode="I;16", deep=True)
    images[6] = traits(mode="P", label=1)
    found = telling(images, 40, most)
    assert sum("of its class" not in c.why for c in found) == odd


def test_images_of_one_size_have_no_smallest_one():
    assert "the smallest" not in chosen(plain(3), side=224).values()
    mixed = [traits((300, 300)), traits((250, 250))]
    assert "the smallest" not in chosen(mixed, side=224).values(), "it is not enlarged"
    assert "the smallest" in chosen(mixed, side=256).values()


@given(
    st.lists(
        st.builds(
            Traits,
            st.tuples(st.integers(1, 500), st.integers(1, 500)),
            st.sampled_from(["RGB", "L", "I;16"]),
            st.booleans(),
            st.integers(0, 4),
        ),
        min_size=1,
        max_size=30,
    ),
    st.integers(1, 12),
)
def test_as_many_images_as_asked_for_are_shown_each_once(images, most):
    found = telling(images, 64, most)
    assert len(found) == len({c.index for c in found}) == min(most, len(images))
