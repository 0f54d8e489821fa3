"""The contact sheet of ``siamkit data check --model``: suspicious labels, images and classes."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Protocol

from siamkit.data.images import ImageSet
from siamkit.data.originals import original
from siamkit.evaluation.near_duplicates import Twins
from siamkit.evaluation.suspicion import Suspicion
from siamkit.portable.decode import Decoding
from siamkit.report.sheet.model import Group, Picture, Row, Sheet, Tone, in_its_shape
from siamkit.report.units import percent
from siamkit.words import plural

_LABELS, _OTHERS, _OF_EACH = 30, 15, 3


class Suspects(Protocol):
    """Data with what an embedding says against it."""

    @property
    def images(self) -> ImageSet:
        """The images."""

    @property
    def found(self) -> Suspicion:
        """What the embedding says."""

    @property
    def how(self) -> Decoding:
        """How the network's images are decoded."""

    @property
    def notices(self) -> tuple[str, ...]:
        """Notices for the reader."""

    def nearest(self, image: int, label: int, most: int) -> list[tuple[int, float]]:
        """Return the nearest images of a class to an image, with their similarities."""


def suspects_sheet(suspects: Suspects, data: str, model: str) -> Sheet:
    """Return the contact sheet of what an embedding says against data."""
    drawing = _Drawing(suspects)
    about = [("data", f"{data}: {suspects.images}"), ("network", model)]
    noise = suspects.found.noise
    if noise is not None and noise.share is not None:
        about.append(("wrong labels", f"about {percent(noise.share)}, if they are random"))
    groups = [drawing.labels(), drawing.twins(), drawing.alike(), drawing.divided()]
    shown = [group for group in groups if group.rows]
    return Sheet(
        "siamkit data check",
        "Suspects" if shown else "No suspects",
        "What the network's embedding says against the data. The network may be wrong: decide by "
        "looking.",
        about,
        shown,
        suspects.notices,
    )


class _Drawing:
    def __init__(self, suspects: Suspects) -> None:
        self._suspects, self._found = suspects, suspects.found
        self._samples, self._labels = suspects.images.samples, suspects.images.labels
        self._classes = suspects.images.classes

    def labels(self) -> Group:
        noise = self._found.noise
        indices = [] if noise is None else noise.suspects.tolist()
        note = "" if noise is None or noise.precision is None else (
            f"The first picture is the suspect. About {percent(noise.precision)} of the suspects "
            "have a wrong label, if wrong labels are random; the first ones most likely."
        )  # fmt: skip
        rows = [self._label_row(index) for index in indices[:_LABELS]]
        return Group(_heading("Suspicious labels", len(indices), len(rows)), note, rows)

    def _label_row(self, index: int) -> Row:
        own, suggested = self._labels[index], int(self._found.suggested[index])
        title = f"{self._classes[own]}: looks like {self._classes[suggested]}"
        agrees = self._found.agrees
        opinion = "" if agrees is None else (
            ": cleanlab suspects it too" if agrees[index] else ": cleanlab does not suspect it"
        )  # fmt: skip
        pictures = [self._picture(index, "suspect", "wrong")]
        for label, most in ((suggested, 2), (own, 2)):
            for image, score in self._suspects.nearest(index, label, most):
                pictures.append(self._picture(image, f"{self._classes[label]}, {score:.2f}"))
        return Row(title, f"{self._samples[index].key}{opinion}", pictures)

    def twins(self) -> Group:
        pairs = self._found.twins
        # A pair of two classes is a wrong label, or makes two classes hard to tell apart.
        order = sorted(pairs, key=lambda pair: not self._crosses(pair))
        rows = [self._twins_row(pair) for pair in order[:_OTHERS]]
        crossing = sum(map(self._crosses, pairs))
        note = (
            f"Pairs that are as similar as an image and its compressed copy "
            f"({self._found.limit:.3f} or more); {crossing} of them in two classes, shown first."
        )
        return Group(_heading("Near duplicates", len(pairs), len(rows)), note, rows)

    def _crosses(self, pair: Twins) -> bool:
        return self._labels[pair.first] != self._labels[pair.second]

    def _twins_row(self, pair: Twins) -> Row:
        ends = (pair.first, pair.second)
        names = list(dict.fromkeys(self._classes[self._labels[i]] for i in ends))
        keys = " and ".join(self._samples[i].key for i in ends)
        return Row(
            " and ".join(names), f"{keys}: {pair.score:.3f}", [self._picture(i) for i in ends]
        )

    def alike(self) -> Group:
        found = self._found.alike
        rows = [
            Row(
                f"{self._classes[pair.first]} and {self._classes[pair.second]}",
                f"{percent(pair.share)} of the images look as much like the other class",
                [
                    self._picture(image, self._classes[label])
                    for label in (pair.first, pair.second)
                    for image in self._members(label)
                ],
            )
            for pair in found[:_OTHERS]
        ]
        note = "Two names for one class, or classes that this network cannot tell apart."
        return Group(_heading("Classes that look like one", len(found), len(rows)), note, rows)

    def divided(self) -> Group:
        found = self._found.divided
        rows = [
            Row(
                self._classes[some.label],
                f"{len(some.parts[0])} and {plural(len(some.parts[1]), 'image')}",
                [
                    self._picture(image, f"part {number}")
                    for number, part in enumerate(some.parts, 1)
                    for image in part[:_OF_EACH]
                ],
            )
            for some in found[:_OTHERS]
        ]
        note = (
            "Other classes are nearer to each part than the other part is: two classes under one "
            "name, or a class with two sides."
        )
        return Group(_heading("Classes that look like two", len(found), len(rows)), note, rows)

    def _members(self, label: int) -> Iterable[int]:
        return [i for i, of in enumerate(self._labels) if of == label][:_OF_EACH]

    def _picture(self, index: int, caption: str = "", tone: Tone = "plain") -> Picture:
        image: Any = original(self._samples[index], self._suspects.how).image
        return in_its_shape(image, caption, tone)


def _heading(title: str, number: int, shown: int) -> str:
    return f"{title}: {number}" + (f", of which {shown} are shown" if shown < number else "")
