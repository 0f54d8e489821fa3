"""Tables of the images of eight people, and how the tests of data load them."""

from __future__ import annotations

import csv
from pathlib import Path

from siamkit.config import DataConfig
from siamkit.data.images import ImageSet
from siamkit.data.load import load_data
from siamkit.data.splits import Splits


def table(path: Path, header: str, rows: list[tuple[object, ...]]) -> Path:
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(header.split(","))
        writer.writerows(rows)
    return path


def load(path: Path, seed: int = 0, **options: object) -> Splits:
    return load_data(DataConfig(path=str(path), **options), seed)


def keys(images: ImageSet) -> set[str]:
    return {sample.key for sample in images.samples}


def rows_of(people: Path) -> list[tuple[str, str]]:
    return [(f"c{i}/{k}.png", f"c{i}") for i in range(8) for k in range(4)]


def pair_rows(classes: int = 8) -> list[tuple[object, ...]]:
    rows: list[tuple[object, ...]] = []
    for i in range(classes):
        rows += [(f"c{i}/0.png", f"c{i}/1.png", 1), (f"c{i}/2.png", f"c{i}/3.png", 1)]
        rows += [(f"c{i}/0.png", f"c{i}/2.png", 0)]  # a forgery is not of the same identity
    return rows
