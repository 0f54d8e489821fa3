"""Write a verification set of logo-like signs: images, and pairs.csv with the columns a,b,same.

Every sign of the built-in images was drawn by six hands, so a pair of drawings asks what a pair of
logos or signatures asks: is it the same sign? Signs are compared within sheets of five, as
signatures are within writers.

    python examples/logo_pairs.py logos
"""

import csv
import itertools
import random
import shutil
import sys
from pathlib import Path

from siamkit.data.sample import sample_dir

SHEET = 5


def write(folder: Path, seed: int = 0) -> int:
    """Copy the images into ``folder`` and write its ``pairs.csv``; return the number of pairs."""
    signs = sorted(path for path in sample_dir().iterdir() if path.is_dir())
    for sign in signs:
        shutil.copytree(sign, folder / sign.name)
    draw = random.Random(seed)
    pairs = []
    for start in range(0, len(signs), SHEET):
        drawings = {
            s.name: sorted(p.name for p in s.iterdir()) for s in signs[start : start + SHEET]
        }
        for sign, names in drawings.items():
            same = list(itertools.combinations(names, 2))
            pairs += [(f"{sign}/{a}", f"{sign}/{b}", 1) for a, b in same]
            others = [
                f"{other}/{name}" for other in drawings if other != sign for name in drawings[other]
            ]
            pairs += [
                (f"{sign}/{draw.choice(names)}", b, 0) for b in draw.sample(others, len(same))
            ]
    with (folder / "pairs.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("a", "b", "same"), *pairs])
    return len(pairs)


if __name__ == "__main__":
    target = Path(sys.argv[1] if len(sys.argv) > 1 else "logos")
    print(f"{write(target)} pairs in {target / 'pairs.csv'}")
