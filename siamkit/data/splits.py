"""Splits: decide which images train and which are held out.

By default, whole classes are held out, because an embedding must work for classes that training
never saw. The choice is a pure function of (names, seed, fraction or fold). Names are ranked by
their hash, so adding a class moves few other classes to the other part.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path

from siamkit.data.images import ImageSet
from siamkit.errors import DataError
from siamkit.portable.folders import briefly
from siamkit.portable.looking import Facts
from siamkit.words import plural


@dataclass(frozen=True)
class Splits:
    """The images of a run.

    Attributes:
        train: The training images. Their labels are 0..C-1 for C classes.
        val: The images that pick the best epoch. Their labels also count from 0, independently of
            ``train``. They show no class of ``train``, except in a split within classes, by group,
            or given by the data.
        test: The images used neither for training nor for picking the best epoch; None if the data
            has no test split.
        how: A short description of the split into train and val.
        notices: Notices for the user.
        skipped: The unusable images that were left out: the file, the row and the reason.
        facts: The facts about each image file.
    """

    train: ImageSet
    val: ImageSet
    test: ImageSet | None
    how: str
    notices: tuple[str, ...] = ()
    skipped: tuple[tuple[str, str], ...] = ()
    facts: Mapping[Path, Facts] = field(default_factory=dict, repr=False)

    @property
    def sets(self) -> dict[str, ImageSet]:
        """The image sets by name: ``train``, ``val`` and, if there is a test split, ``test``."""
        every = {"train": self.train, "val": self.val, "test": self.test}
        return {part: images for part, images in every.items() if images is not None}


@dataclass(frozen=True)
class HoldOut:
    """The rule that chooses the names to hold out if the data has no validation split.

    The names are those of classes, groups, identities or images.

    Attributes:
        fraction: The share of the names to hold out, in (0, 1).
        seed: Any integer. Another seed holds out other names.
        folds: The number of equal parts, of which one is held out; None to hold out ``fraction``.
        fold: The number, from 0, of the part to hold out.
    """

    fraction: float = 0.5
    seed: int = 0
    folds: int | None = None
    fold: int = 0

    def of(self, names: Iterable[str], least: int = 1) -> frozenset[str]:
        """Return the names to hold out. The order of ``names`` does not matter.

        Args:
            names: Distinct names, ``2 * least`` or more.
            least: The least number of names to hold out, and the least number to keep.

        Raises:
            DataError: There are too few names for the folds.
        """
        if self.folds is None:
            return held_out(names, self.fraction, self.seed, least)
        ranked = _ranked(names, self.seed)
        most = len(ranked) // least
        if self.folds > most:
            raise DataError(
                "there are too few classes, groups or images for this number of folds",
                where="data.folds",
                got=self.folds,
                allowed=f"up to {most}",
            )
        return frozenset(ranked[self.fold :: self.folds])

    @property
    def share(self) -> float:
        """The share of all names that the smaller part gets, in (0, 0.5]."""
        held = self.fraction if self.folds is None else 1 / self.folds
        return min(held, 1 - held)

    def __str__(self) -> str:
        fold = "" if self.folds is None else f"fold {self.fold + 1} of {self.folds}, "
        return f"{fold}seed {self.seed}"


def held_out(names: Iterable[str], fraction: float, seed: int, least: int) -> frozenset[str]:
    """Return the names to hold out. The order of ``names`` does not matter.

    Args:
        names: Distinct names, ``2 * least`` or more.
        fraction: The share of the names to hold out, in (0, 1).
        seed: Any integer. Another seed holds out other names.
        least: The least number of names to hold out, and the least number to keep.
    """
    ranked = _ranked(names, seed)
    count = min(max(round(len(ranked) * fraction), least), len(ranked) - least)
    return frozenset(ranked[:count])


def _ranked(names: Iterable[str], seed: int) -> list[str]:
    return sorted(names, key=lambda name: (_rank(seed, name), name))


def _rank(seed: int, name: str) -> bytes:
    # surrogatepass: a file name may not be valid Unicode.
    return blake2b(f"{seed}/{name}".encode(errors="surrogatepass"), digest_size=8).digest()


# --- labelled images -----------------------------------------------------------------------------


def require_usable(images: ImageSet, where: str, part: str) -> None:
    """Check that images can be used for training or evaluation.

    Raises:
        DataError: There are no two images of one class, or no two classes.
    """
    if len(images.classes) < 2:
        raise DataError(
            f"{part} has only one class, so there are no negative pairs",
            where=where,
            got=next(iter(images.classes), "no image"),
            allowed="two classes or more",
            hint="use one folder or one label per class",
        )
    if max(images.counts.values()) < 2:
        raise DataError(
            f"every class of {part} has only one image, so there are no positive pairs",
            where=where,
            got=str(images),
            allowed="a class with two images or more",
            hint="give all images of one class the same folder or label",
        )


def require_queries(images: ImageSet, where: str, part: str) -> None:
    """Check that the query and gallery roles allow a search.

    Raises:
        DataError: No query has another image of its class in the gallery.
    """
    everyone = (True,) * len(images)
    query, gallery = images.query or everyone, images.gallery or everyone
    searched: dict[int, set[int]] = {}
    for index, label in enumerate(images.labels):
        if gallery[index]:
            searched.setdefault(label, set()).add(index)
    wanted = (i for i in range(len(images)) if query[i])
    if not any(searched.get(images.labels[i], set()) - {i} for i in wanted):
        raise DataError(
            f"no query of {part} has another image of its class in the gallery",
            where=where,
            got=f"{plural(sum(query), 'query')}, {plural(sum(gallery), 'image')} in the gallery",
            hint="check the columns is_query and is_gallery",
        )


def split_classes(
    images: ImageSet, where: str, choice: HoldOut, notices: list[str]
) -> tuple[ImageSet, ImageSet, str]:
    """Return (train, val, how), with held-out classes, or held-out images if classes are too few.

    Classes with one image are always in the training set. If such an image were held out, it could
    never be a query with a match.

    Args:
        images: The images.
        where: The path of the data, for error messages.
        choice: The rule that chooses the classes or images to hold out.
        notices: A list to which notices for the user are added.

    Raises:
        DataError: There are too few images to hold some out.
    """
    members: dict[str, dict[str, int]] = {name: {} for name in images.classes}
    for index, sample in enumerate(images.samples):
        members[images.classes[sample.label]][sample.key] = index
    pairs = [name for name in images.classes if len(members[name]) > 1]
    if len(pairs) >= 4:
        out = choice.of(pairs, least=2)
        val = [i for name in out for i in members[name].values()]
        train_set, val_set = _parted(images, val)
        how = f"class-disjoint: {len(train_set.classes)} classes train, {len(out)} held out"
        return train_set, val_set, f"{how} ({choice})"
    val = []
    parted = 0
    for name in pairs:
        if len(members[name]) >= 4:
            parted += 1
            val += [members[name][key] for key in choice.of(members[name], least=2)]
    if parted < 2:
        raise DataError(
            "too few images to hold some out for validation",
            where=where,
            got=", ".join(f"{name}: {len(members[name])}" for name in pairs),
            allowed="at least 4 classes of 2 images, or 2 classes of 4 images",
            hint="add images, or a validation split",
        )
    notices.append(
        f"only {len(pairs)} classes have two or more images, too few to hold out whole classes: "
        "validation uses other images of the training classes"
    )
    train_set, val_set = _parted(images, val)
    how = f"within classes: {len(train_set)} images train, {len(val_set)} held out ({choice})"
    return train_set, val_set, how


def split_groups(
    images: ImageSet, groups: Sequence[str], where: str, choice: HoldOut
) -> tuple[ImageSet, ImageSet, str]:
    """Return (train, val, how), such that no group is in both sets.

    Args:
        images: The images.
        groups: The group of each image.
        where: The path of the data, for error messages.
        choice: The rule that chooses the groups to hold out.

    Raises:
        DataError: There are too few groups, or one of the sets lacks positive or negative pairs.
    """
    names = sorted(set(groups))
    if len(names) < 2:
        raise DataError(
            "all images are in one group, so no group can be held out",
            where=where,
            got=names[0],
            hint="add groups or a validation split, or remove the column 'group'",
        )
    out = choice.of(names)
    train, val = _parted(images, [i for i, group in enumerate(groups) if group in out])
    for part, name in ((train, "the training part"), (val, "the part held out by group")):
        require_usable(part, where, name)
    shared = len(set(train.classes) & set(val.classes))
    kept = len(names) - len(out)
    trained = f"{plural(kept, 'group')} {'trains' if kept == 1 else 'train'}"
    how = f"by group: {trained}, {len(out)} held out ({choice})"
    return train, val, f"{how}; {shared} of {len(val.classes)} held-out classes also train"


def _parted(images: ImageSet, val: Collection[int]) -> tuple[ImageSet, ImageSet]:
    chosen = frozenset(val)
    return images.subset(i for i in range(len(images)) if i not in chosen), images.subset(chosen)


def lone_notice(images: ImageSet, part: str, means: str) -> list[str]:
    """Return a notice about classes with only one image, if there are any.

    Args:
        images: The images.
        part: The name of the images' part of the data.
        means: What happens to such an image: the words that follow "which" in the notice.
    """
    lone = [name for name, count in images.counts.items() if count == 1]
    if not lone:
        return []
    verb = "has" if len(lone) == 1 else "have"
    classes = plural(len(lone), f"{part} class")
    change = "add a second image, or leave the class out"
    return [f"{classes} {verb} only one image, which {means} ({change}): {briefly(lone)}"]
