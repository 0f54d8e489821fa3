"""Draw where the time of a whole `siamkit train` goes, in this version and another one.

    git worktree add ../before COMMIT
    python tests/benchmarks/where_time_goes.py --images 256 --out time.svg ../before

The commands of both versions alternate, as in ``two_versions.py``, here with the report. Each is
divided by the times of its events: starting (imports, reading the data, building the network),
deciding (the cut, the kernel), computing the frozen part's features, training steps, the rest of
the epochs (metrics, proofs, checkpoints), finishing (held-out embeddings, threshold) and the
report. Prints the medians, and draws a bar for each version.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from html import escape
from itertools import pairwise
from pathlib import Path
from statistics import median

from defaults import images_of
from peers import data
from peers.measure import process

HERE = Path(__file__).resolve().parents[2]
COLOURS = {
    "start": "#7a7a7a", "decide": "#c99700", "features": "#1f77b4", "steps": "#2ca02c",
    "rest of epochs": "#d62728", "finish": "#9467bd", "report": "#8c564b",
}  # fmt: skip
WIDTH, HEIGHT, LEFT, TOP = 900, 46, 90, 40


def parts(tree: Path, images: Path, given: list[str]) -> dict[str, float]:
    """Run one command of the version in ``tree``, and return the seconds of each part."""
    with tempfile.TemporaryDirectory() as folder:
        command = [
            sys.executable, "-m", "siamkit", "train", str(images), "--backbone", "resnet50",
            "--no-pretrained", "--set", "data.views=1", "--run-dir", f"{folder}/run", *given,
        ]  # fmt: skip
        started = time.time()
        process(command, PYTHONPATH=str(tree), SIAMKIT_CACHE_DIR=f"{folder}/cache")
        ended = time.time()
        lines = Path(folder, "run", "events.jsonl").read_text().splitlines()
    return divided([json.loads(line) for line in lines], started, ended)


def divided(events: list[dict[str, object]], started: float, ended: float) -> dict[str, float]:
    """Return the seconds of each part of a command, from the events of its run.

    The time before an event belongs to the part that ends with it.
    """
    ends = {
        "run_start": "start", "phase_start": "decide", "engine": "decide", "fill": "features",
        "step": "steps", "run_end": "finish",
    }  # fmt: skip
    spent = dict.fromkeys(COLOURS, 0.0)
    times = [(started, ""), *((float(str(e["time"])), str(e["event"])) for e in events)]
    for (before, _), (at, name) in pairwise(times):
        spent[ends.get(name, "rest of epochs")] += at - before
    spent["report"] = ended - times[-1][0]
    return spent


def drawn(bars: dict[str, dict[str, float]]) -> str:
    """Return the picture, as SVG."""
    scale = (WIDTH - LEFT - 60) / max(sum(spent.values()) for spent in bars.values())
    lines, x = [], float(LEFT)
    for name, colour in COLOURS.items():
        lines.append(f'<rect x="{x:.0f}" y="10" width="12" height="12" fill="{colour}"/>')
        lines.append(f'<text x="{x + 17:.0f}" y="20">{escape(name)}</text>')
        x += 36 + 7 * len(name)
    for row, (title, spent) in enumerate(bars.items()):
        y, x = TOP + row * (HEIGHT + 12), float(LEFT)
        lines.append(f'<text x="0" y="{y + HEIGHT / 2 + 5:.0f}">{escape(title)}</text>')
        for name, seconds in spent.items():
            wide = seconds * scale
            lines.append(
                f'<rect x="{x:.1f}" y="{y}" width="{wide:.1f}" height="{HEIGHT}" '
                f'fill="{COLOURS[name]}"><title>{escape(name)}: {seconds:.1f} s</title></rect>'
            )
            if wide > 34:
                middle = y + HEIGHT / 2 + 5
                lines.append(
                    f'<text x="{x + 4:.1f}" y="{middle:.0f}" fill="#fff">{seconds:.1f}</text>'
                )
            x += wide
        lines.append(f'<text x="{x + 6:.0f}" y="{y + HEIGHT / 2 + 5:.0f}">'
                     f"{sum(spent.values()):.1f} s</text>")  # fmt: skip
    height = TOP + len(bars) * (HEIGHT + 12)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" '
        'font-family="sans-serif" font-size="13"><rect width="100%" height="100%" fill="#fff"/>\n'
        + "\n".join(lines)
        + "\n</svg>\n"
    )


def main() -> None:
    """Measure, print and draw."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("other", type=Path, help="a checkout of the other version")
    parser.add_argument("--images", type=int, default=256)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--data", default="sample")
    parser.add_argument("--out", type=Path, default=Path("time.svg"))
    parser.add_argument(
        "given", nargs="*", default=["--freeze-policy", "freeze-all", "--epochs", "10"],
        help="after --: flags of `siamkit train`",
    )  # fmt: skip
    options = parser.parse_args()
    trees = {"before": options.other.resolve(), "after": HERE}
    with tempfile.TemporaryDirectory() as folder:
        images = data.build(
            images_of(options.data, Path(folder)), Path(folder) / "images", options.images,
            per_batch_class=4, picture=(500, 375),
        )  # fmt: skip
        runs: dict[str, list[dict[str, float]]] = {name: [] for name in trees}
        for _ in range(options.repeats):
            for name, tree in trees.items():
                runs[name].append(parts(tree, images, options.given))
    bars = {
        name: {part: median(run[part] for run in every) for part in COLOURS}
        for name, every in runs.items()
    }
    for name, spent in bars.items():
        print(name, ", ".join(f"{part} {seconds:.1f} s" for part, seconds in spent.items()))
    options.out.write_text(drawn(bars), encoding="utf-8")
    print(f"drawn: {options.out}")


if __name__ == "__main__":
    main()
