"""The kind of split that pairs get: by groups, by connected images, or by identities."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from siamkit.data import tuple_splits
from siamkit.data.images import ImageSet, Sample, Tuples
from siamkit.data.splits import HoldOut
from siamkit.data.tuple_splits import require_both_kinds, split_tuples
from siamkit.errors import DataError


def pairs_of(count: int) -> ImageSet:
    """Return ``count`` identities of two images: a same pair each, and a different one to the next.

    All images are connected, so only identities can be held out, at the cost of some pairs.
    """
    samples = tuple(Sample(Path(f"{i}.png"), i // 2, f"{i}") for i in range(2 * count))
    rows = [(2 * i, 2 * i + 1) for i in range(count)]
    rows += [(2 * i, (2 * i + 2) % (2 * count)) for i in range(count)]
    same = (True,) * count + (False,) * count
    return ImageSet(samples, tuple(f"{i:02}" for i in range(count)), Tuples(tuple(rows), same))


@pytest.mark.parametrize(("size", "chosen"), [(10, "first"), (9, "second")])
def test_the_first_kind_of_at_least_half_the_intended_size_is_used(
    monkeypatch: pytest.MonkeyPatch, size: int, chosen: str
) -> None:
    """Of 40 pairs, half are to be held out, so a part of 10 pairs is fair."""
    images = pairs_of(20)
    units = {"first": size, "second": 15}
    monkeypatch.setattr(
        tuple_splits, "_units",
        lambda *_: {name: [frozenset({name})] * count for name, count in units.items()},
    )  # fmt: skip
    monkeypatch.setattr(
        tuple_splits, "_cut",
        lambda images, units, choice: (
            images.with_tuples(range(len(units), 40)), images.with_tuples(range(len(units)))
        ),
    )  # fmt: skip
    train, val, how, notices = split_tuples(images, None, "data", HoldOut(0.5, 0))
    assert how.startswith(chosen) and notices == []
    assert len(val.tuples or ()) == units[chosen]
    assert len(train.tuples or ()) == 40 - units[chosen]


choices = st.builds(
    HoldOut, st.floats(0.05, 0.95), st.integers(0, 99), st.none() | st.integers(2, 5)
)


ends = st.integers(0, 25)


@given(
    st.lists(
        st.tuples(ends, ends, st.booleans()),
        min_size=2,
        max_size=60,
        unique_by=lambda r: frozenset(r[:2]),
    ),
    choices,
    st.none() | st.lists(st.integers(0, 5), min_size=60, max_size=60),
)
def test_no_image_of_a_pair_is_ever_on_both_sides(
    rows: list[tuple[int, int, bool]], choice: HoldOut, groups: list[int] | None
) -> None:
    rows = [row for row in rows if row[0] != row[1]]
    used = sorted({end for row in rows for end in row[:2]})
    number = {end: i for i, end in enumerate(used)}
    samples = tuple(Sample(Path(str(e)), i, f"{e:02d}") for i, e in enumerate(used))
    pairs = Tuples(
        tuple((number[a], number[b]) for a, b, _ in rows), tuple(same for _, _, same in rows)
    )
    images = ImageSet(samples, tuple(f"{e:02d}" for e in used), pairs)
    named = None if groups is None else [f"g{g}" for g in groups[: len(rows)]]
    try:
        train, val, _, notices = split_tuples(images, named, "data", choice)
    except DataError:
        return
    assert not {s.key for s in train.samples} & {s.key for s in val.samples}
    for side in (train, val):
        assert any(side.tuples.same) and not all(side.tuples.same)
    left_out = len(rows) - len(train.tuples) - len(val.tuples)
    assert bool(left_out) == bool(notices)
    # Each pair still is the pair it was.
    said = {frozenset((f"{a:02d}", f"{b:02d}")): s for a, b, s in rows}
    for side in (train, val):
        for (a, b), s in zip(side.tuples.rows, side.tuples.same, strict=True):
            assert said[frozenset((side.samples[a].key, side.samples[b].key))] == s


def test_a_split_without_triplets_is_refused() -> None:
    samples = tuple(Sample(Path(f"{n}.png"), 0, str(n)) for n in range(3))
    full = ImageSet(samples, ("",), tuples=Tuples(((0, 1, 2),), None))
    require_both_kinds(full, "t.csv", "train")
    with pytest.raises(DataError, match=r"t\.csv: train needs same and different pairs"):
        require_both_kinds(full.with_tuples([]), "t.csv", "train")
