"""Image folders for the benchmarks: any number of photograph-sized JPEG files, out of any images.

The pictures are scaled-up sprites and drawings, or whatever images are given. The decoder works as
hard on them as on photographs of that size, which is all that matters here. Every file is
different, for a cache that goes by content would see through copies.
"""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
from PIL import Image

ENDINGS = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif")
VAL_CLASSES, VAL_PER_CLASS = 16, 2


def build(
    source: Path, target: Path, images: int, *, per_batch_class: int, picture: tuple[int, int]
) -> Path:
    """Write ``target/train`` and ``target/val``, with disjoint classes, and return ``target``.

    Args:
        source: A folder of class folders.
        target: The folder to make; left as it is if it is there.
        images: Training images.
        per_batch_class: K; every class gets a multiple of it, where the numbers allow, so that
            an epoch shows each image once.
        picture: Width and height of the files.
    """
    if target.exists():
        return target
    found = {p: _files(p) for p in sorted(source.iterdir()) if p.is_dir()}
    # Those with most files first: they need the fewest variants.
    names = sorted((p for p in found if found[p]), key=lambda p: (-len(found[p]), p.name))
    count = class_count(images, len(names) - VAL_CLASSES, per_batch_class)
    making = target.with_name(f"{target.name}.part")
    for place, folder in enumerate(sorted(names[:count])):
        share = images // count + (place < images % count)
        _write(found[folder], making / "train" / folder.name, share, picture)
    for folder in names[count : count + VAL_CLASSES]:
        _write(found[folder], making / "val" / folder.name, VAL_PER_CLASS, picture)
    making.rename(target)
    return target


def class_count(images: int, available: int, k: int) -> int:
    """Return how many classes to deal ``images`` to: as many as go without a rest, if any do."""
    most = min(available, images // k)
    if most < 2:
        raise SystemExit(f"{images} images of {available} classes are too few")
    return next((n for n in range(most, most // 2, -1) if images % (n * k) == 0), most)


def _files(folder: Path) -> list[Path]:
    return sorted(p for p in folder.iterdir() if p.suffix.lower() in ENDINGS)


def _write(files: list[Path], folder: Path, count: int, picture: tuple[int, int]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for index, file in zip(range(count), itertools.cycle(files)):
        rng = np.random.default_rng([index, len(files)])
        with Image.open(file) as opened:
            image = opened.convert("RGBA")
        flat = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
        # A slightly different cut and brightness: from the second round on, another image.
        left, top, right, bottom = rng.uniform(0, 0.08, 4) * min(flat.size)
        box = (left, top, flat.width - right, flat.height - bottom)
        large = flat.resize(picture, Image.Resampling.BICUBIC, box)
        scale = rng.uniform(0.8, 1.0)
        bright = large.point([round(value * scale) for value in range(256)] * 3)
        bright.save(folder / f"{index:05d}.jpg", quality=90)
