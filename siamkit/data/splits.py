"""Which images train and which are held out.

Where the data doesn't say, whole classes are held out: an embedding is for classes that training
never saw, so only those tell how good it is. The choice is a pure function of (names, seed,
fraction): each name's rank is a hash, so adding a class moves few others.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path

from siamkit.config import SAMPLE
from siamkit.data.sample import sample_dir
from siamkit.data.sources import ImageSet, Scan, briefly, scan
from siamkit.errors import DataError

VAL_NAMES = ("val", "valid", "validation")


@dataclass(frozen=True)
class Splits:
    """The images of a run.

    Attributes:
        train: What trains; labels are 0..C-1.
        val: What picks the best epoch. It has classes and labels of its own, except in a split
            within classes, where they are those of ``train``.
        test: What neither of them touches, where the data has a ``test/``.
        how: How train and val were told apart, in a few words.
        notices: What the user should know before training.
    """

    train: ImageSet
    val: ImageSet
    test: ImageSet | None
    how: str
    notices: tuple[str, ...] = ()


def load_data(path: str, *, val_fraction: float, seed: int) -> Splits:
    """Find the images of ``path`` and split them.

    Args:
        path: A folder of class folders (a class is any folder that directly holds images), or of
            ``train/`` and, if there are any, ``val/`` and ``test/``; or ``sample``.
        val_fraction: Share of the classes held out, where there is no ``val/``; in (0, 1).
        seed: Seed of that choice.

    Raises:
        DataError: There are no usable images, or too few for training and validation.
    """
    found = scan(sample_dir() if path == SAMPLE else Path(path).expanduser())
    notices = list(found.notices)
    if path == SAMPLE and Path(SAMPLE).is_dir():
        notices.append("'sample' is the built-in set; write ./sample for the folder")
    names = _split_folders(found)
    train = _images(found, names.get("train"), notices)
    _check(train, found.root, "train" if names else "the data")
    given = {name: _images(found, folder, notices) for name, folder in names.items()}
    for name in ("val", "test"):
        if name in given:
            _check(given[name], found.root, f"{names[name]}/")
    if "val" in given:
        val = given["val"]
        seen = len(set(val.classes) & set(train.classes))
        how = f"as given: {len(train.classes)} classes train, {len(val.classes)} in {names['val']}/"
        how += f" ({seen} of them also in train/)" if seen else " (none of them in train/)"
    else:
        train, val, how = split(train, found.root, val_fraction, seed, notices)
    if lone := [name for name, count in train.counts.items() if count == 1]:
        notices.append(
            f"{len(lone)} training classes have one image, which is only ever a negative or its "
            f"own positive: {briefly(lone)}"
        )
    for part, images in (("validation", val), ("test", given.get("test"))):
        if images and (lone := [name for name, count in images.counts.items() if count == 1]):
            notices.append(
                f"{len(lone)} {part} classes have one image, which is searched but never a query: "
                f"{briefly(lone)}"
            )
    return Splits(train, val, given.get("test"), how, tuple(notices))


def unseen_images(path: str) -> tuple[ImageSet, str]:
    """Return the images of ``path`` to evaluate on, and which part of it they are.

    Its ``test/``, or else its ``val/``, where it has splits; all of them where it has none.

    Args:
        path: As for :func:`load_data`.

    Raises:
        DataError: There are no usable images.
    """
    found = scan(sample_dir() if path == SAMPLE else Path(path).expanduser())
    names = _split_folders(found)
    part = next((name for name in ("test", "val") if name in names), None)
    images = _images(found, names[part] if part else names.get("train"), [])
    return images, f"{names[part]}/" if part else "all"


# --- splits that the data gives ------------------------------------------------------------------


def _split_folders(found: Scan) -> dict[str, str]:
    """Return the folder of each split by ``train``, ``val`` and ``test``; empty for none."""
    kinds = {name: _kind(name) for name in sorted(found.top)}
    others = [name for name, kind in kinds.items() if kind is None]
    if others:
        nested = any(len(parts) > 1 and _kind(parts[0]) == "train" for parts in found.folders)
        if nested and {"val", "test"} & set(kinds.values()):
            raise DataError(
                "has train/ beside val/ or test/, and images in other folders too",
                where=str(found.root),
                got=briefly(others),
                hint="move those elsewhere, or into one of the splits",
            )
        return {}
    if kinds and "train" not in kinds.values():
        raise DataError(
            "has no train/ with images beside these folders",
            where=str(found.root),
            got=briefly(list(kinds)),
            hint="add train/, or rename them if they are classes",
        )
    result: dict[str, str] = {}
    for name, kind in kinds.items():
        if kind in result:
            raise DataError(
                f"{result[kind]}/ and {name}/ are both the {kind} split",
                where=str(found.root),
                hint="keep one",
            )
        result[str(kind)] = name
    return result


def _kind(folder: str) -> str | None:
    """Return ``train``, ``val`` or ``test`` for a split's folder name, None for any other."""
    name = folder.lower()
    return "val" if name in VAL_NAMES else name if name in ("train", "test") else None


def _images(found: Scan, folder: str | None, notices: list[str]) -> ImageSet:
    images, loose = found.images(folder), found.loose(folder)
    where = str(found.root / (folder or ""))
    if not images:
        raise DataError(
            f"{loose} images lie directly in this folder, so in no class",
            where=where,
            hint="put each class's images into a folder of its own",
        )
    if loose and (notice := f"ignored {loose} images in no class folder: {where}") not in notices:
        notices.append(notice)
    return images


def _check(images: ImageSet, root: Path, part: str) -> None:
    """Refuse what neither trains nor measures anything."""
    if len(images.classes) < 2:
        raise DataError(
            f"{part} has only one class, so no image differs from another",
            where=str(root),
            got=images.classes[0],
            allowed="two classes or more",
            hint="put each class's images into a folder of its own",
        )
    if max(images.counts.values()) < 2:
        raise DataError(
            f"every class of {part} has a single image, so no two show the same",
            where=str(root),
            got=f"{len(images.classes)} classes, {len(images)} images",
            allowed="two images or more a class",
            hint="is each image in a folder of its own? A folder is a class",
        )


# --- splits made here ----------------------------------------------------------------------------


def split(
    images: ImageSet, root: Path, fraction: float, seed: int, notices: list[str]
) -> tuple[ImageSet, ImageSet, str]:
    """Return (train, val, how): classes held out, or images of every class if those are too few.

    Classes with one image always train: held out they could never be a query.

    Raises:
        DataError: There are too few images to hold any out.
    """
    keys: dict[str, list[str]] = {name: [] for name in images.classes}
    for sample in images.samples:
        keys[images.classes[sample.label]].append(sample.key)
    pairs = [name for name in images.classes if len(keys[name]) > 1]
    if len(pairs) >= 4:
        out = held_out(pairs, fraction, seed, least=2)
        train = {name: keys[name] for name in keys if name not in out}
        val = {name: keys[name] for name in out}
        how = f"class-disjoint: {len(train)} classes train, {len(val)} held out (seed {seed})"
        return ImageSet.of(root, train), ImageSet.of(root, val), how
    train, val = dict(keys), {name: [] for name in keys}
    for name in pairs:
        if len(keys[name]) >= 4:
            out = held_out(keys[name], fraction, seed, least=2)
            val[name] = sorted(out)
            train[name] = [key for key in keys[name] if key not in out]
    if sum(map(bool, val.values())) < 2:
        raise DataError(
            "too few images to hold some out for validation",
            where=str(root),
            got=", ".join(f"{name}: {len(keys[name])}" for name in pairs),
            allowed="4 classes of 2 images, or 2 classes of 4 images, or more",
            hint="add images, or a val/ folder beside train/",
        )
    notices.append(
        f"only {len(pairs)} classes have two images or more, too few to hold whole classes out: "
        "validation shows new images of known classes"
    )
    train_set, val_set = ImageSet.of(root, train), ImageSet.of(root, val)
    how = f"within classes: {len(train_set)} images train, {len(val_set)} held out (seed {seed})"
    return train_set, val_set, how


def held_out(names: Iterable[str], fraction: float, seed: int, least: int = 1) -> frozenset[str]:
    """Return the names to hold out: a pure function of the arguments, whatever their order.

    Args:
        names: Distinct names, ``2 * least`` or more.
        fraction: Share to hold out, in (0, 1); at least ``least`` are held out, and kept.
        seed: Any integer.
        least: See ``fraction``.
    """
    ranked = sorted(names, key=lambda name: (_rank(seed, name), name))
    count = min(max(round(len(ranked) * fraction), least), len(ranked) - least)
    return frozenset(ranked[:count])


def _rank(seed: int, name: str) -> bytes:
    # surrogatepass: a file name need not be valid Unicode.
    return blake2b(f"{seed}/{name}".encode(errors="surrogatepass"), digest_size=8).digest()
