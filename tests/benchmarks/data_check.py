"""Measure what many copies of one image cost in ``data check`` and at the start of ``train``.

Each set has six classes of different pictures, and COPIES copies of one picture (like an "image not
available") in classes of two. The last column holds the CPU time per image, which should not grow
with the number of copies. The start of ``train`` is measured up to the splits.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

import numpy as np
from peers.measure import process
from PIL import Image

START = """
import sys
from siamkit.config import DataConfig
from siamkit.data.load import load_data
print(load_data(DataConfig(path=sys.argv[1]), 0).how)
"""


def write(folder: Path, copies: int) -> int:
    """Write the images; return their number."""
    for kind in range(6):
        (folder / f"real{kind}").mkdir(parents=True)
        for index in range(4):
            rng = np.random.default_rng([kind, index])
            noise = rng.integers(0, 256, (6, 6, 3), dtype=np.uint8)
            image = Image.fromarray(noise).resize((64, 64), Image.Resampling.BICUBIC)
            image.save(folder / f"real{kind}" / f"{index}.png")
    content = (folder / "real0/0.png").read_bytes()
    for number in range(copies):
        target = folder / f"class{number // 2:06}" / f"{number % 2}.png"
        target.parent.mkdir(exist_ok=True)
        target.write_bytes(content)
    return copies + 24


def measure(*command: str) -> tuple[float, float]:
    """Return the CPU seconds and the peak memory in MB of a Python process."""
    done = process([sys.executable, *command])
    return done.cpu, done.peak / 2**20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--copies", type=int, nargs="+", default=[2_000, 20_000])
    options = parser.parse_args()
    print("CPU time and peak memory beyond those of the same command without copies")
    print("| images | what | time | memory | time per image |")
    print("|---|---|---|---|---|")
    base: dict[str, tuple[float, float]] = {}
    for copies in (0, *options.copies):
        with tempfile.TemporaryDirectory() as temporary:
            number = write(Path(temporary), copies)
            for what, command in (
                ("data check", ("-m", "siamkit", "data", "check", temporary)),
                ("start of train", ("-c", START, temporary)),
            ):
                if not copies:
                    measure(*command)  # the first import reads files that are not yet in memory
                    base[what] = measure(*command)
                    continue
                seconds, peak = (
                    now - then for now, then in zip(measure(*command), base[what], strict=True)
                )
                print(
                    f"| {number} | {what} | {seconds:.1f} s | {peak:.0f} MB "
                    f"| {1e3 * seconds / copies:.2f} ms |",
                    flush=True,
                )


if __name__ == "__main__":
    main()
