"""Image sets: images with their labels, or with known pairs or triplets."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from siamkit.portable.geometry import Box
from siamkit.words import plural


@dataclass(frozen=True, slots=True)
class Sample:
    """One labelled image.

    Attributes:
        path: The file.
        label: The index of the image's class.
        key: The name of the image in seeds, logs and manifests: the POSIX path relative to the data
            root, and the box if there is one.
        box: The part of the file that is the image; None for the whole file.
    """

    path: Path
    label: int
    key: str
    box: Box | None = None


@dataclass(frozen=True)
class Tuples:
    """Known pairs or triplets of images, for data without labels.

    Attributes:
        rows: The indices of the images of each pair or triplet. A triplet has an anchor, a positive
            (another image of the same identity) and a negative (an image of another identity).
        same: For each pair, whether both images show one identity; None for triplets.
        folds: The fold of each pair, if the data has folds.
    """

    rows: tuple[tuple[int, ...], ...]
    same: tuple[bool, ...] | None = None
    folds: tuple[int, ...] | None = None

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def width(self) -> int:
        """The number of images in each pair or triplet."""
        return 3 if self.same is None else 2

    @property
    def noun(self) -> str:
        """``pairs`` or ``triplets``."""
        return "triplets" if self.same is None else "pairs"

    @property
    def columns(self) -> tuple[tuple[int, ...], ...]:
        """The image indices by position: for triplets, the anchors, positives and negatives."""
        return tuple(zip(*self.rows, strict=True)) or ((),) * self.width

    def __str__(self) -> str:
        if self.same is None:
            return plural(len(self), "triplet")
        same = sum(self.same)
        return f"{plural(len(self), 'pair')} ({same} same, {len(self) - same} different)"

    def take(self, chosen: Sequence[int], images: Mapping[int, int]) -> Tuples:
        """Return some of the pairs or triplets.

        Args:
            chosen: The positions in ``rows`` of the pairs or triplets to return.
            images: The new index of each image, by its present index.
        """
        return Tuples(
            tuple(tuple(images[image] for image in self.rows[i]) for i in chosen),
            None if self.same is None else tuple(self.same[i] for i in chosen),
            None if self.folds is None else tuple(self.folds[i] for i in chosen),
        )

    def pairs(self) -> Tuples:
        """Return triplets as pairs; pairs are returned unchanged.

        The anchor and the positive of a triplet are a same pair, and the anchor and the
        negative are a different pair. A pair that several triplets contain is returned once.
        """
        if self.same is not None:
            return self
        flags: dict[tuple[int, ...], bool] = {}
        for other, flag in ((1, True), (2, False)):
            for row in self.rows:
                flags[tuple(sorted((row[0], row[other])))] = flag
        return Tuples(tuple(flags), tuple(flags.values()))


@dataclass(frozen=True)
class ImageSet:
    """Images with their classes. Sets that are read from files are ordered by class and key.

    Attributes:
        samples: The images.
        classes: The class names. The label of a sample is an index into them.
        tuples: The known pairs or triplets; None for labelled images. With tuples, each class is an
            identity. If the file does not name the identities, images that a chain of same pairs
            connects are one identity.
        query: Whether each image is a query; None if all are.
        gallery: Whether each image is in the gallery; None if all are.
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
        """The number of images of each class, by class name, in class order."""
        counter = Counter(self.labels)
        return {name: counter[label] for label, name in enumerate(self.classes)}

    def __len__(self) -> int:
        return len(self.samples)

    def __str__(self) -> str:
        images = plural(len(self), "image")
        if self.tuples is not None:
            return f"{images} in {self.tuples}"
        return f"{images} of {plural(len(self.classes), 'class')}"

    @classmethod
    def of(cls, root: Path, keys_by_class: Mapping[str, Iterable[str]]) -> ImageSet:
        """Return a set built from the image keys of each class.

        Args:
            root: The folder that the keys are relative to.
            keys_by_class: The keys of the images of each class, by class name, in any order.
        """
        classes = tuple(sorted(keys_by_class))
        samples = tuple(
            Sample(root / key, label, key)
            for label, name in enumerate(classes)
            for key in sorted(keys_by_class[name])
        )
        return cls(samples, classes)

    def subset(self, chosen: Iterable[int]) -> ImageSet:
        """Return some of the images, in the same order. Classes without images are left out.

        Known pairs or triplets are left out; see :meth:`with_tuples`.
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
        """Return the known pairs or triplets at positions ``chosen``, with their images."""
        assert self.tuples is not None
        numbers, rows = list(chosen), self.tuples.rows
        images = sorted({image for number in numbers for image in rows[number]})
        renamed = {image: new for new, image in enumerate(images)}
        return replace(self.subset(images), tuples=self.tuples.take(numbers, renamed))


def together(sets: Iterable[ImageSet]) -> ImageSet:
    """Return several sets as one, one after the other.

    Known pairs or triplets and the roles of images are left out.

    Args:
        sets: The sets. A class may be in several of them.
    """
    parts = list(sets)
    classes = sorted({name for images in parts for name in images.classes})
    index = {name: label for label, name in enumerate(classes)}
    samples = (
        replace(sample, label=index[images.classes[sample.label]])
        for images in parts
        for sample in images.samples
    )
    return ImageSet(tuple(samples), tuple(classes))


def image_set_of(labels: Sequence[str]) -> ImageSet:
    """Return a set of images that are not files: one image per label, in the same order."""
    classes = tuple(sorted(set(labels)))
    index = {name: place for place, name in enumerate(classes)}
    samples = (
        Sample(Path(f"image {number}"), index[label], f"image {number}")
        for number, label in enumerate(labels)
    )
    return ImageSet(tuple(samples), classes)
