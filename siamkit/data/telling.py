"""Telling images: the few images of a set that show best how the set is prepared and augmented."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from siamkit.portable.geometry import Size

_LONG = 1.25
"""An image of a smaller aspect ratio is not called elongated."""


@dataclass(frozen=True)
class Traits:
    """What is known of an image from its header.

    Attributes:
        size: Width and height in pixels.
        mode: Pillow's name for the type of the pixels.
        deep: Whether the image has more than 8 bits per channel.
        label: The index of the image's class.
    """

    size: Size
    mode: str
    deep: bool
    label: int


@dataclass(frozen=True)
class Choice:
    """A chosen image: its index, and why it was chosen."""

    index: int
    why: str


def telling(traits: Sequence[Traits], side: int, most: int) -> list[Choice]:
    """Return the images to show: those that preparation changes most, then those of other classes.

    Odd images take at most half of the places: the most elongated image, the first one of more than
    8 bits, the smallest one if the network gets it enlarged, and one of each rarer type of
    pixels. The first images of classes, evenly spread over all classes, take the other places.

    Args:
        traits: The traits of each image.
        side: The longer side of the network's input in pixels.
        most: The largest number of images.
    """
    chosen: dict[int, Choice] = {}
    for choice in _odd(traits, side):
        if len(chosen) < (most + 1) // 2:
            chosen.setdefault(choice.index, choice)
    shown = {traits[index].label for index in chosen}
    first: dict[int, int] = {}
    for index, image in enumerate(traits):
        first.setdefault(image.label, index)
    new = [index for label, index in sorted(first.items()) if label not in shown]
    for index in _spread(new, most - len(chosen)):
        chosen[index] = Choice(index, "the first of its class")
    others = [index for index in range(len(traits)) if index not in chosen]
    for index in _spread(others, most - len(chosen)):
        chosen[index] = Choice(index, "another of its class")
    return list(chosen.values())


def _odd(traits: Sequence[Traits], side: int) -> Iterator[Choice]:
    every = range(len(traits))
    longest = max(every, key=lambda i: _ratio(traits[i].size))
    if (ratio := _ratio(traits[longest].size)) >= _LONG:
        yield Choice(longest, f"the most elongated, {ratio:.3g}:1")
    deep = [i for i in every if traits[i].deep]
    if deep:
        yield Choice(deep[0], "the first of more than 8 bits per channel")
    sides = [max(image.size) for image in traits]
    smallest = sides.index(min(sides))
    if sides[smallest] < min(side, max(sides)):
        yield Choice(smallest, "the smallest")
    counts = Counter(image.mode for image in traits if not image.deep)
    for mode, _ in counts.most_common()[1:]:
        yield Choice(next(i for i in every if traits[i].mode == mode), f"the first in mode {mode}")


def _ratio(size: Size) -> float:
    return max(size) / max(min(size), 1)


def _spread(values: Sequence[int], most: int) -> list[int]:
    """Return at most ``most`` of the values, evenly spread."""
    count = max(min(most, len(values)), 0)
    return [values[place * len(values) // count] for place in range(count)]
