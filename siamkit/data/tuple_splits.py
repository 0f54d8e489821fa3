"""Splits of pairs and triplets, such that no image is in both the training and validation part."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from siamkit.data.images import ImageSet, Tuples
from siamkit.data.splits import HoldOut
from siamkit.data.tuple_table import connected
from siamkit.errors import DataError
from siamkit.words import plural


def split_tuples(
    images: ImageSet, groups: Sequence[str] | None, where: str, choice: HoldOut
) -> tuple[ImageSet, ImageSet, str, list[str]]:
    """Return (train, val, how, notices), such that no image is in both sets.

    The split is by group if the data has groups. Otherwise, images that any pair connects stay
    together. If that leaves one of the sets too small, only images of one identity stay together.
    Pairs and triplets across the two sets are left out.

    Args:
        images: The images, with known pairs or triplets.
        groups: The group of each pair or triplet; None if the data has no groups.
        where: The path of the data, for error messages.
        choice: The rule that chooses the names to hold out.

    Raises:
        DataError: No pairs or triplets can be held out.
    """
    assert images.tuples is not None
    rows = images.tuples.rows
    candidates = []
    for how, units in _units(images, groups).items():
        # All folds must be split in the same way.
        every = range(choice.folds) if choice.folds else (choice.fold,)
        cuts = {fold: _cut(images, units, replace(choice, fold=fold)) for fold in every}
        if all(sets is not None for sets in cuts.values()):
            train, val = cuts[choice.fold] or (images, images)
            candidates.append((min(len(_tuples(train)), len(_tuples(val))), how, train, val))
    if not candidates:
        raise DataError(
            f"no {_tuples(images).noun} can be held out for validation",
            where=where,
            got=f"{images}, of {plural(len(images.classes), 'identity')}",
            allowed="same and different pairs in each part, with no image in both parts",
            hint="add a column 'split' (train, val, test) or 'group' (a writer, a patient)",
        )
    fair = _FAIR * choice.share * len(rows)
    _, how, train_set, val_set = next(
        (f for f in candidates if f[0] >= fair), max(candidates, key=_size)
    )
    notices = []
    if crossing := len(rows) - len(_tuples(train_set)) - len(_tuples(val_set)):
        notices.append(
            f"left out {crossing} of {len(rows)} {_tuples(images).noun}, because they connect the "
            "training and validation parts; a column 'split' or 'group' can keep more of them"
        )
    return train_set, val_set, f"{how} ({choice})", notices


def _cut(
    images: ImageSet, units: Sequence[frozenset[str]], choice: HoldOut
) -> tuple[ImageSet, ImageSet] | None:
    """Return (train, val); None if there are too few names, or a set lacks a kind of pairs."""
    names = sorted(frozenset().union(*units))
    if len(names) < max(2, choice.folds or 0):
        return None
    out = choice.of(names)
    val = [i for i, unit in enumerate(units) if unit <= out]
    train = [i for i, unit in enumerate(units) if not unit & out]
    sets = images.with_tuples(train), images.with_tuples(val)
    return sets if all(map(_has_both, sets)) else None


_FAIR = 0.5
"""The least acceptable size of a split's smaller set, as a share of the intended number of tuples.

The first kind of split that reaches this size is used. If none does, the kind with the largest
smaller set is used."""


def _size(candidate: tuple[int, str, ImageSet, ImageSet]) -> int:
    return candidate[0]


def _units(images: ImageSet, groups: Sequence[str] | None) -> dict[str, list[frozenset[str]]]:
    """Return, for each kind of split, the units of each pair or triplet.

    A unit is a name that a split assigns to one of the two sets: a group, an identity, or a set of
    connected images. A pair or triplet goes to the set that has all units of its images, and is
    left out if there is no such set. So no image is in both sets.
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
    # Names get a prefix, because an identity and an image may have the same name.
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
    """Check that pairs are of both kinds, same and different. Triplets contain both kinds.

    Raises:
        DataError: There are no same pairs, no different pairs, or no triplets.
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
