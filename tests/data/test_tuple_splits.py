"""The kind of split that pairs get: by groups, by connected images, or by identities."""

from __future__ import annotations

from pathlib import Path

import pytest

from siamkit.data import tuple_splits
from siamkit.data.images import ImageSet, Sample, Tuples
from siamkit.data.splits import HoldOut
from siamkit.data.tuple_splits import split_tuples


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
