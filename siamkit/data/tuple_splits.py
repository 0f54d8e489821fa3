"""Splits of pairs and triplets that have no image on both sides."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from siamkit.data.images import ImageSet, Tuples
from siamkit.data.splits import HoldOut
from siamkit.data.tuple_table import connected
from siamkit.errors import DataError


def split_tuples(
    images: ImageSet, groups: Sequence[str] | None, where: str, choice: HoldOut
) -> tuple[ImageSet, ImageSet, str, list[str]]:
    """Return (train, val, how, notices): pairs or triplets with no image on both sides.

    By group where the data has groups. Or else what is connected stays together: by pairs of any
    kind if that leaves enough parts, or by same pairs alone. What would then join the two sides is
    left out. Where even that holds nothing out, the data has to say.

    Args:
        images: Images with tuples.
        groups: The group of each pair or triplet; None where the data has none.
        where: The data, for errors.
        choice: What to hold out.

    Raises:
        DataError: Nothing can be held out.
    """
    assert images.tuples is not None
    rows = images.tuples.rows
    candidates = []
    for how, units in _units(images, groups).items():
        # Folds are parts of one whole only if all of them are cut in the same way.
        every = range(choice.folds) if choice.folds else (choice.fold,)
        cuts = {fold: _cut(images, units, replace(choice, fold=fold)) for fold in every}
        if all(sets is not None for sets in cuts.values()):
            train, val = cuts[choice.fold] or (images, images)
            candidates.append((min(len(_tuples(train)), len(_tuples(val))), how, train, val))
    if not candidates:
        raise DataError(
            f"no {_tuples(images).noun} can be held out for validation",
            where=where,
            got=f"{images}, of {len(images.classes)} identities",
            allowed="pairs of both kinds on each side that share no image",
            hint="add a column 'split' (train, val, test) or 'group' (a writer, a patient)",
        )
    fair = _FAIR * choice.share * len(rows)
    _, how, train_set, val_set = next(
        (f for f in candidates if f[0] >= fair), max(candidates, key=_size)
    )
    notices = []
    if crossing := len(rows) - len(_tuples(train_set)) - len(_tuples(val_set)):
        notices.append(
            f"{crossing} of {len(rows)} {_tuples(images).noun} join the two sides and are left "
            "out; a column 'split' or 'group' can keep more of them"
        )
    return train_set, val_set, f"{how} ({choice})", notices


def _cut(
    images: ImageSet, units: Sequence[frozenset[str]], choice: HoldOut
) -> tuple[ImageSet, ImageSet] | None:
    """Return (train, val), or None where one of them lacks a kind of pairs."""
    names = sorted(frozenset().union(*units))
    if len(names) < max(2, choice.folds or 0):
        return None
    out = choice.of(names)
    val = [i for i, unit in enumerate(units) if unit <= out]
    train = [i for i, unit in enumerate(units) if not unit & out]
    sets = images.with_tuples(train), images.with_tuples(val)
    return sets if all(map(_has_both, sets)) else None


_FAIR = 0.5
"""A side with less than this share of what it should have is a poor one."""


def _size(candidate: tuple[int, str, ImageSet, ImageSet]) -> int:
    return candidate[0]


def _units(images: ImageSet, groups: Sequence[str] | None) -> dict[str, list[frozenset[str]]]:
    """Return by kind of split what each pair or triplet belongs to: it goes where all of that does.

    An image lies in the units of every pair that it is in, so it never comes on both sides.
    """
    rows = _tuples(images).rows
    if groups is not None:
        of_image: dict[int, set[str]] = {}
        for row, group in zip(rows, groups, strict=True):
            for image in row:
                of_image.setdefault(image, set()).add(group)
        return {"by group": [frozenset().union(*(of_image[i] for i in row)) for row in rows]}
    keys = [sample.key for sample in images.samples]
    identity = [images.classes[sample.label] for sample in images.samples]
    # Not by key: an identity may be called what an image is called.
    edges = [[f"image {keys[i]}" for i in row] for row in rows]
    edges += [
        [f"image {key}", f"identity {name}"] for key, name in zip(keys, identity, strict=True)
    ]
    part = connected({name for edge in edges for name in edge}, edges)
    return {
        "image-disjoint": [frozenset([part[f"image {keys[row[0]]}"]]) for row in rows],
        "identity-disjoint": [frozenset(identity[i] for i in row) for row in rows],
    }


def _tuples(images: ImageSet) -> Tuples:
    assert images.tuples is not None
    return images.tuples


def require_both_kinds(images: ImageSet, where: str, part: str) -> None:
    """Refuse pairs that are all of one kind.

    Raises:
        DataError: There are no same or no different pairs.
    """
    if not _has_both(images):
        raise DataError(
            f"{part} needs same and different pairs", where=where, got=str(images.tuples)
        )


def _has_both(images: ImageSet) -> bool:
    tuples = _tuples(images)
    if tuples.same is not None:
        return any(tuples.same) and not all(tuples.same)
    return len(tuples) > 0
