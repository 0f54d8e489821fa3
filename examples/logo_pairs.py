"""Write a verification set of logo-like signs: images, pairs.csv and new.csv (a,b,same).

Six artists drew every sign of the built-in images. So a pair of drawings poses the same question as
a pair of logos or signatures: do they show the same sign? The signs are divided into twelve sheets
of five. All pairs are within a sheet, as pairs of signatures are within a writer. pairs.csv has the
pairs of eight sheets. new.csv has those of the other four: use it to evaluate a model that was
trained on pairs.csv, because this model never saw the signs of these sheets.

    python examples/logo_pairs.py logos
"""

import csv
import itertools
import random
import shutil
import sys
from pathlib import Path

from siamkit.data.sample import sample_dir

SHEET, NEW = 5, 4


def write(folder: Path, seed: int = 0) -> dict[str, int]:
    """Copy the images into ``folder``, write the tables, and return the number of pairs in each."""
    signs = sorted(path for path in sample_dir().iterdir() if path.is_dir())
    for sign in signs:
        shutil.copytree(sign, folder / sign.name)
    draw = random.Random(seed)
    draw.shuffle(signs)
    sheets = [signs[start : start + SHEET] for start in range(0, len(signs), SHEET)]
    tables = {"pairs.csv": sheets[:-NEW], "new.csv": sheets[-NEW:]}
    counts = {}
    for name, chosen in tables.items():
        rows = [row for sheet in chosen for row in pairs_of(sheet, draw)]
        with (folder / name).open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([("a", "b", "same"), *rows])
        counts[name] = len(rows)
    return counts


def pairs_of(sheet: list[Path], draw: random.Random) -> list[tuple[str, str, int]]:
    """Return all same pairs of a sheet, and equally many different pairs, drawn at random."""
    drawings = {s.name: sorted(f"{s.name}/{p.name}" for p in s.iterdir()) for s in sheet}
    same = [pair for names in drawings.values() for pair in itertools.combinations(names, 2)]
    different = [
        pair
        for one, other in itertools.combinations(drawings.values(), 2)
        for pair in itertools.product(one, other)
    ]
    chosen = draw.sample(different, len(same))
    return [(*pair, 1) for pair in same] + [(*pair, 0) for pair in chosen]


if __name__ == "__main__":
    target = Path(sys.argv[1] if len(sys.argv) > 1 else "logos")
    for name, count in write(target).items():
        print(f"{target / name}: {count} pairs")
