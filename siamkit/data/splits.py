"""Which images train and which are held out.

Where the data doesn't say, whole classes are held out: an embedding is for classes that training
never saw, so only those tell how good it is. The choice is a pure function of (names, seed,
fraction or fold): each name's rank is a hash, so adding a class moves few others.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from hashlib import blake2b

from siamkit.data.folders import briefly
from siamkit.data.images import ImageSet
from siamkit.errors import DataError


@dataclass(frozen=True)
class Splits:
    """The images of a run.

    Attributes:
        train: What trains; labels are 0..C-1.
        val: What picks the best epoch. It has classes and labels of its own, except in a split
            within classes or by group, where its classes may be among those of ``train``.
        test: What neither of them touches, where the data has a test split.
        how: How train and val were split, in a few words.
        notices: What the user should know before training.
        skipped: The files that were left out as unreadable, and why.
    """

    train: ImageSet
    val: ImageSet
    test: ImageSet | None
    how: str
    notices: tuple[str, ...] = ()
    skipped: tuple[tuple[str, str], ...] = ()

    @property
    def sets(self) -> dict[str, ImageSet]:
        """The image sets by ``train``, ``val`` and, where there is one, ``test``."""
        every = {"train": self.train, "val": self.val, "test": self.test}
        return {part: images for part, images in every.items() if images is not None}


@dataclass(frozen=True)
class HoldOut:
    """What to hold out where the data doesn't say.

    Attributes:
        fraction: Share of the names, in (0, 1).
        seed: Any integer.
        folds: Hold out one of so many equal parts instead; None for a share.
        fold: Which part, from 0.
    """

    fraction: float = 0.5
    seed: int = 0
    folds: int | None = None
    fold: int = 0

    def of(self, names: Iterable[str], least: int = 1) -> frozenset[str]:
        """Return the names to hold out: a pure function, whatever their order.

        Args:
            names: Distinct names, ``2 * least`` or more.
            least: At least so many are held out, and kept.

        Raises:
            DataError: There are too few names for the folds.
        """
        if self.folds is None:
            return held_out(names, self.fraction, self.seed, least)
        ranked = _ranked(names, self.seed)
        most = len(ranked) // least
        if self.folds > most:
            raise DataError(
                "there are too few classes or groups for so many folds",
                where="data.folds",
                got=self.folds,
                allowed=f"up to {most}",
            )
        return frozenset(ranked[self.fold :: self.folds])

    @property
    def share(self) -> float:
        """The share of the smaller side, in (0, 0.5]."""
        held = self.fraction if self.folds is None else 1 / self.folds
        return min(held, 1 - held)

    def __str__(self) -> str:
        fold = "" if self.folds is None else f"fold {self.fold + 1} of {self.folds}, "
        return f"{fold}seed {self.seed}"


def held_out(names: Iterable[str], fraction: float, seed: int, least: int = 1) -> frozenset[str]:
    """Return the names to hold out: a pure function of the arguments, whatever their order.

    Args:
        names: Distinct names, ``2 * least`` or more.
        fraction: Share to hold out, in (0, 1); at least ``least`` are held out, and kept.
        seed: Any integer.
        least: See ``fraction``.
    """
    ranked = _ranked(names, seed)
    count = min(max(round(len(ranked) * fraction), least), len(ranked) - least)
    return frozenset(ranked[:count])


def _ranked(names: Iterable[str], seed: int) -> list[str]:
    return sorted(names, key=lambda name: (_rank(seed, name), name))


def _rank(seed: int, name: str) -> bytes:
    # surrogatepass: a file name need not be valid Unicode.
    return blake2b(f"{seed}/{name}".encode(errors="surrogatepass"), digest_size=8).digest()


# --- labelled images -----------------------------------------------------------------------------


def require_usable(images: ImageSet, where: str, part: str) -> None:
    """Refuse what neither trains nor measures anything.

    Raises:
        DataError: There is no pair of one class, or none of two.
    """
    if len(images.classes) < 2:
        raise DataError(
            f"{part} has only one class, so no image differs from another",
            where=where,
            got=next(iter(images.classes), "no image"),
            allowed="two classes or more",
            hint="each class needs its own folder, or its own label",
        )
    if max(images.counts.values()) < 2:
        raise DataError(
            f"every class of {part} has a single image, so no two show the same",
            where=where,
            got=f"{len(images.classes)} classes, {len(images)} images",
            allowed="two images or more a class",
            hint="is each image in a folder or under a label of its own?",
        )


def require_queries(images: ImageSet, where: str, part: str) -> None:
    """Refuse query and gallery roles with which nothing can be found.

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
            got=f"{sum(query)} queries, {sum(gallery)} in the gallery",
            hint="check the columns is_query and is_gallery",
        )


def split_classes(
    images: ImageSet, where: str, choice: HoldOut, notices: list[str]
) -> tuple[ImageSet, ImageSet, str]:
    """Return (train, val, how): classes held out, or images of every class if those are too few.

    Classes with one image always train: held out they could never be a query.

    Raises:
        DataError: There are too few images to hold any out.
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
    shown = 0
    for name in pairs:
        if len(members[name]) >= 4:
            shown += 1
            val += [members[name][key] for key in choice.of(members[name], least=2)]
    if shown < 2:
        raise DataError(
            "too few images to hold some out for validation",
            where=where,
            got=", ".join(f"{name}: {len(members[name])}" for name in pairs),
            allowed="4 classes of 2 images, or 2 classes of 4 images, or more",
            hint="add images, or a validation split",
        )
    notices.append(
        f"only {len(pairs)} classes have two images or more, too few to hold whole classes out: "
        "validation shows new images of known classes"
    )
    train_set, val_set = _parted(images, val)
    how = f"within classes: {len(train_set)} images train, {len(val_set)} held out ({choice})"
    return train_set, val_set, how


def split_groups(
    images: ImageSet, groups: Sequence[str], where: str, choice: HoldOut
) -> tuple[ImageSet, ImageSet, str]:
    """Return (train, val, how), where no group is on both sides.

    Args:
        images: The images.
        groups: The group of each.
        where: The data, for errors.
        choice: What to hold out.

    Raises:
        DataError: There are too few groups, or what is held out measures nothing.
    """
    names = sorted(set(groups))
    if len(names) < 2:
        raise DataError(
            "all images are of one group, so none can be held out",
            where=where,
            got=names[0],
            hint="add groups, a validation split, or drop the column 'group'",
        )
    out = choice.of(names)
    train, val = _parted(images, [i for i, group in enumerate(groups) if group in out])
    for part, name in ((train, "the part that trains"), (val, "the part held out by group")):
        require_usable(part, where, name)
    seen = len(set(train.classes) & set(val.classes))
    how = f"by group: {len(names) - len(out)} groups train, {len(out)} held out ({choice})"
    return train, val, f"{how}; {seen} of {len(val.classes)} held-out classes also train"


def _parted(images: ImageSet, val: Collection[int]) -> tuple[ImageSet, ImageSet]:
    chosen = frozenset(val)
    return images.subset(i for i in range(len(images)) if i not in chosen), images.subset(chosen)


def lone_notice(images: ImageSet, part: str, means: str) -> list[str]:
    """Return a notice of classes with one image, if there are any."""
    lone = [name for name, count in images.counts.items() if count == 1]
    if not lone:
        return []
    return [f"{len(lone)} {part} classes have one image, which {means}: {briefly(lone)}"]
