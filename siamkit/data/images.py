"""Images with what is known of them: labels, or which of them belong together."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

Box = tuple[float, float, float, float]
"""Left, top, right and bottom in pixels of the upright image; right and bottom are exclusive."""


@dataclass(frozen=True)
class Sample:
    """One labelled image.

    Attributes:
        path: The file.
        label: Index of its class.
        key: Its name in seeds, logs and manifests: its posix path relative to the data root, and
            the box if it has one.
        box: The part of the file that is the image; None for all of it.
    """

    path: Path
    label: int
    key: str
    box: Box | None = None


@dataclass(frozen=True)
class PairList:
    """Pairs of images that are known to be of one identity, or of two.

    Attributes:
        first: Index of an image, for each pair.
        second: Index of another one.
        same: Whether they are of one identity.
        folds: The fold of each pair, where the data has folds.
    """

    first: tuple[int, ...]
    second: tuple[int, ...]
    same: tuple[bool, ...]
    folds: tuple[int, ...] | None = None

    width = 2
    """Images in each."""

    def __len__(self) -> int:
        return len(self.first)

    @property
    def columns(self) -> tuple[tuple[int, ...], ...]:
        """The images by their place in a pair."""
        return self.first, self.second

    @property
    def rows(self) -> tuple[tuple[int, ...], ...]:
        """The images of each pair."""
        return tuple(zip(*self.columns, strict=True))

    def __str__(self) -> str:
        return f"{len(self)} pairs ({sum(self.same)} same, {len(self) - sum(self.same)} different)"

    def take(self, chosen: Sequence[int], images: Mapping[int, int]) -> PairList:
        """Return some of the pairs; ``images`` maps their images to their new indices."""
        return PairList(
            tuple(images[self.first[i]] for i in chosen),
            tuple(images[self.second[i]] for i in chosen),
            tuple(self.same[i] for i in chosen),
            None if self.folds is None else tuple(self.folds[i] for i in chosen),
        )


@dataclass(frozen=True)
class TripletList:
    """Triplets of images: the anchor is of the positive's identity and not of the negative's.

    Attributes:
        anchor: Index of an image, for each triplet.
        positive: Index of another one.
        negative: Index of a third.
    """

    anchor: tuple[int, ...]
    positive: tuple[int, ...]
    negative: tuple[int, ...]

    width = 3
    """Images in each."""

    def __len__(self) -> int:
        return len(self.anchor)

    @property
    def columns(self) -> tuple[tuple[int, ...], ...]:
        """The images by their place in a triplet."""
        return self.anchor, self.positive, self.negative

    @property
    def rows(self) -> tuple[tuple[int, ...], ...]:
        """The images of each triplet."""
        return tuple(zip(*self.columns, strict=True))

    def __str__(self) -> str:
        return f"{len(self)} triplets"

    def take(self, chosen: Sequence[int], images: Mapping[int, int]) -> TripletList:
        """Return some of the triplets; ``images`` maps their images to their new indices."""
        return TripletList(
            tuple(images[self.anchor[i]] for i in chosen),
            tuple(images[self.positive[i]] for i in chosen),
            tuple(images[self.negative[i]] for i in chosen),
        )

    def pairs(self) -> PairList:
        """Return the pairs that the triplets are made of, each once."""
        same = dict.fromkeys(zip(self.anchor, self.positive, strict=True), True)
        different = dict.fromkeys(zip(self.anchor, self.negative, strict=True), False)
        found = {tuple(sorted(pair)): is_same for pair, is_same in (same | different).items()}
        first, second = zip(*found, strict=True) if found else ((), ())
        return PairList(first, second, tuple(found.values()))


Tuples = PairList | TripletList


@dataclass(frozen=True)
class ImageSet:
    """Images, ordered by class and name.

    Attributes:
        samples: The images.
        classes: Class names; a sample's label indexes them.
        tuples: The pairs or triplets that are known; None where it is the labels that are. With
            them, a class is what they show to be one identity.
        query: For each image whether it is searched for; None for all.
        gallery: For each image whether it is searched; None for all.
    """

    samples: tuple[Sample, ...]
    classes: tuple[str, ...]
    tuples: Tuples | None = None
    query: tuple[bool, ...] | None = None
    gallery: tuple[bool, ...] | None = None

    @property
    def labels(self) -> list[int]:
        """The label of each image."""
        return [sample.label for sample in self.samples]

    @property
    def counts(self) -> dict[str, int]:
        """Images by class name, in class order."""
        counter = Counter(self.labels)
        return {name: counter[label] for label, name in enumerate(self.classes)}

    def __len__(self) -> int:
        return len(self.samples)

    def __str__(self) -> str:
        what = f"{len(self.classes)} classes" if self.tuples is None else str(self.tuples)
        return f"{len(self)} images {'of' if self.tuples is None else 'in'} {what}"

    @classmethod
    def of(cls, root: Path, keys_by_class: Mapping[str, Iterable[str]]) -> ImageSet:
        """Build a set from image keys (relative to ``root``) by class name; both get sorted."""
        classes = tuple(sorted(keys_by_class))
        samples = tuple(
            Sample(root / key, label, key)
            for label, name in enumerate(classes)
            for key in sorted(keys_by_class[name])
        )
        return cls(samples, classes)

    def subset(self, chosen: Iterable[int]) -> ImageSet:
        """Return some of the images, in the same order, with the classes that are left.

        Known pairs or triplets are left out: see :meth:`with_tuples`.
        """
        indices = sorted(chosen)
        labels = sorted({self.samples[i].label for i in indices})
        renamed = {label: new for new, label in enumerate(labels)}
        samples = (self.samples[i] for i in indices)
        return ImageSet(
            tuple(replace(s, label=renamed[s.label]) for s in samples),
            tuple(self.classes[label] for label in labels),
            query=None if self.query is None else tuple(self.query[i] for i in indices),
            gallery=None if self.gallery is None else tuple(self.gallery[i] for i in indices),
        )

    def with_tuples(self, chosen: Iterable[int]) -> ImageSet:
        """Return some of the known pairs or triplets, with the images that they are made of."""
        assert self.tuples is not None
        numbers, rows = list(chosen), self.tuples.rows
        images = sorted({image for number in numbers for image in rows[number]})
        renamed = {image: new for new, image in enumerate(images)}
        return replace(self.subset(images), tuples=self.tuples.take(numbers, renamed))
