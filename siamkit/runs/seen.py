"""Images that a run has used before: to train, to choose its best epoch, to fit its threshold."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from siamkit.data.digest import digest
from siamkit.data.images import ImageSet, Sample
from siamkit.data.load import load_data, split, unseen_images
from siamkit.data.opening import open_source
from siamkit.data.overlap import Content, Image, found_in
from siamkit.data.splits import Splits
from siamkit.errors import SiamkitError
from siamkit.portable.calibration import Calibration, Provenance
from siamkit.runs.held_out import HeldOut
from siamkit.spelling import argument, command
from siamkit.words import plural

if TYPE_CHECKING:
    from siamkit.runs.open import OpenRun, Which


@dataclass(frozen=True)
class Use:
    """Which images of a set a run used for one purpose, such as to train.

    Attributes:
        found: The positions, in the set, of the images that the run used.
        unknown: Why the run may have used more images of the set; empty if it used no others.
    """

    found: tuple[int, ...] = ()
    unknown: str = ""

    @property
    def number(self) -> int | None:
        """The number of images that the run used; None if it is not known."""
        return None if self.unknown else len(self.found)


@dataclass(frozen=True)
class Seen:
    """The images of a set that a run has used, by the purpose.

    Attributes:
        images: The number of images in the set.
        trained: The images that the run trained on.
        epoch: The images on which the best epoch was chosen.
        threshold: The images on which the threshold was fitted.
    """

    images: int
    trained: Use = Use()
    epoch: Use = Use()
    threshold: Use = Use()

    @property
    def chose(self) -> list[str]:
        """The choices that used some of these images: ``epoch``, ``threshold``, or both."""
        uses = {"epoch": self.epoch, "threshold": self.threshold}
        return [name for name, use in uses.items() if use.found]


def seen_by(
    run: OpenRun | None,
    images: ImageSet,
    which: Which,
    calibration: Calibration | None,
    entries: Sequence[Image] | None = None,
) -> Seen:
    """Return what a run used some images for before.

    Args:
        run: The run that made the network; None if it is unknown.
        images: The images.
        which: The run's network to evaluate, ``best`` or ``last``. Images can have chosen only the
            best.
        calibration: The network's threshold; None without one.
        entries: The images as samples, or as contents if they are in memory; None: the samples of
            ``images``.
    """
    entries = images.samples if entries is None else entries
    made = None if calibration is None else calibration.provenance
    threshold = threshold_use(run, images, made, entries)
    if run is None:
        unknown = Use(unknown=f"an embedder does not know its run; {command('evaluate', 'RUN')} "
                              "checks it")  # fmt: skip
        return Seen(len(images), unknown, unknown, threshold)
    epoch = _use(run, entries, *_run_images(run, "val")) if which == "best" else Use()
    return Seen(len(images), trained_use(run, entries), epoch, threshold)


def seen_of(run: OpenRun, held_out: HeldOut, calibration: Calibration | None) -> Seen:
    """Return what a run used its own held-out images for.

    Copies of training images among them are not looked for.

    Args:
        run: The run.
        held_out: The images, embedded by the network of its best epoch.
        calibration: The threshold of that network; None without one.
    """
    images = held_out.images
    made = None if calibration is None else calibration.provenance
    every = Use(tuple(range(len(images))))
    epoch = every if held_out.part == "val" else Use()
    return Seen(len(images), epoch=epoch, threshold=threshold_use(run, images, made))


def trained_use(run: OpenRun, entries: Sequence[Image]) -> Use:
    """Return which of some images a run trained on."""
    return _use(run, entries, *_run_images(run, "train"))


def threshold_use(
    run: OpenRun | None,
    images: ImageSet,
    made: Provenance | None,
    entries: Sequence[Image] | None = None,
) -> Use:
    """Return which of some images a threshold was fitted on.

    Args:
        run: The run that has the threshold; None if it is unknown.
        images: The images.
        made: The provenance of the threshold; None without one.
        entries: The images as samples, or as contents if they are in memory; None: the samples of
            ``images``.
    """
    if made is None:
        return Use()
    entries = images.samples if entries is None else entries
    use = _use(run, entries, *_fitted_images(run, made))
    # If files cannot be compared, an equal digest shows that all images are the same.
    if use.unknown and made.digest == digest(images):
        return Use(tuple(range(len(images))))
    return use


def _use(run: OpenRun | None, entries: Sequence[Image], known: Sequence[Sample], why: str) -> Use:
    """Return which of some images a run used, given the images that are known to be used.

    Args:
        run: The run; None if it is unknown.
        entries: The images.
        known: The images that the run used, as far as they are known.
        why: Why the run may have used more images; empty if ``known`` holds all of them.
    """
    found = found_in(entries, known)
    places = tuple(place for place, is_known in enumerate(found) if is_known)
    if len(places) == len(entries):
        return Use(places)
    if not why and None in found:
        why = "image files cannot be read"
    memory = any(isinstance(e, Content) and not f for e, f in zip(entries, found, strict=True))
    if not why and memory and not all(_is_inside(run, sample.path) for sample in known):
        why = "images in memory cannot be compared with files"
    return Use(places, why)


def _is_inside(run: OpenRun | None, path: Path) -> bool:
    """Return whether a file is in the folder of a run, which holds its images from memory."""
    return run is not None and path.is_relative_to(os.path.abspath(run.path))  # noqa: PTH100


Known = tuple[Sequence[Sample], str]
"""Images, and the reason why there may be others; empty if these are all."""


def _fitted_images(run: OpenRun | None, made: Provenance) -> Known:
    """Return the images that a threshold was fitted on."""
    if made.part in ("val", "test"):  # of the run's own data
        if run is None:
            return (), "an embedder does not know the images of its run"
        return _run_images(run, made.part)
    with suppress(SiamkitError):
        config = None if run is None else run.config.data
        other = unseen_images(made.data, None, config).images
        if digest(other) == made.digest:
            return other.samples, ""
    return (), f"the images that it was fitted on have changed or are out of reach: {made.data}"


def _run_images(run: OpenRun, part: str) -> Known:
    """Return the images of a part of a run's data, as it was in training."""
    if part != "train":
        with suppress(SiamkitError):
            if (kept := HeldOut.load(run.dir, part)) is not None:
                return kept.images.samples, ""
    before = run.digest_of(part)
    images, why = None, ""
    for read in (listed_splits, _usable):
        try:
            images = read(run).sets.get(part)
        except SiamkitError as error:
            why = why or f"the run's data cannot be read: {error.what.splitlines()[0]}"
            continue
        if digest(images) == before:
            return (images.samples if images else ()), ""
        why = "the run's data has changed since"
    return (images.samples if images else ()), why


def listed_splits(run: OpenRun) -> Splits:
    """Split all images of a run's data: one that has become unreadable hides no other image."""
    data = run.config.data
    return split(open_source(data.path, data.root, data.columns), data, run.config.train.seed)


def _usable(run: OpenRun) -> Splits:
    """Split the usable images of a run's data, as a run that leaves out unreadable images does."""
    return load_data(run.config.data, run.config.train.seed)


# --- notices -------------------------------------------------------------------------------------

_CHOSEN = {"epoch": "the best epoch", "threshold": "the threshold"}


def notices_on(seen: Seen) -> list[str]:
    """Return what a user must know about figures on images that the run has used before."""
    other = f"add a test split, or pass other images as {argument('data', flag='DATA')}"
    optimistic = f"so the figures are optimistic for other images: {other}"
    notices = [f"{text}, {optimistic}" for text in chosen_texts(seen)]
    if seen.trained.found:
        notices.append(
            f"the run trained on {len(seen.trained.found)} of the {plural(seen.images, 'image')}, "
            f"so the figures do not show what it does on others: {other}"
        )
    return [*notices, *unknown_texts(seen)]


def chosen_texts(seen: Seen) -> list[str]:
    """Return sentences such as ``these images chose the best epoch``; none for no choice."""
    chose: dict[int, list[str]] = {}
    for name in seen.chose:
        use: Use = getattr(seen, name)
        chose.setdefault(len(use.found), []).append(_CHOSEN[name])
    return [
        f"{_some(number, seen.images)} chose {' and '.join(names)}"
        for number, names in chose.items()
    ]


def unknown_texts(seen: Seen) -> list[str]:
    """Return sentences about uses of the images that cannot be checked, with the reasons."""
    what = {"trained": "trained the network", "epoch": "chose the best epoch",
            "threshold": "chose the threshold"}  # fmt: skip
    unknown: dict[str, list[str]] = {}
    for name, text in what.items():
        use: Use = getattr(seen, name)
        if use.unknown:
            unknown.setdefault(use.unknown, []).append(text)
    return [
        f"whether {'others of ' if seen.chose or seen.trained.found else ''}these images "
        f"{' or '.join(texts)} cannot be checked: {why}"
        for why, texts in unknown.items()
    ]


def _some(number: int, images: int) -> str:
    return "these images" if number == images else f"{number} of the {plural(images, 'image')}"
