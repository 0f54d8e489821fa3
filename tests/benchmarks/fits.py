"""Compare the ways to fit images into the input, by the recall of frozen features.

    python tests/benchmarks/fits.py FOLDER... --backbone timm:resnet18 --image-size 96 224

Each folder holds class folders. Every image is a query against all others; nothing is trained. The
table shows recall@1 for a centre crop with the backbone's own margin, a centre crop without margin,
padding and squashing, beside the share of the area that the crop leaves out.
"""

from __future__ import annotations

import argparse
from collections import Counter
from dataclasses import replace
from pathlib import Path

import torch
from PIL import Image

import siamkit
from siamkit.data.class_folders import class_images
from siamkit.data.images import Sample
from siamkit.inference.embedder import Embedder
from siamkit.portable.folders import scan
from siamkit.portable.geometry import kept_by_crop

FITS = {
    "crop": {},
    "crop, no margin": {"crop_pct": 1.0},
    "pad": {"fit": "pad"},
    "squash": {"fit": "squash"},
}


def samples_of(folder: Path, most: int) -> list[Sample]:
    """Return at most ``most`` images of each class."""
    seen: Counter[int] = Counter()
    chosen = []
    for sample in class_images(scan(folder)).samples:
        seen[sample.label] += 1
        if seen[sample.label] <= most:
            chosen.append(sample)
    return chosen


def recall(embeddings: torch.Tensor, labels: torch.Tensor) -> float:
    """Return recall@1 with every image as a query against all others."""
    scores = embeddings @ embeddings.T
    scores.fill_diagonal_(-2)
    return float((labels[scores.argmax(1)] == labels).float().mean())


def options_of(description: str | None) -> argparse.Namespace:
    """Return the command line of a comparison on folders."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("folders", type=Path, nargs="+")
    parser.add_argument("--backbone", default="timm:resnet18")
    parser.add_argument("--weights", help="a file of weights")
    parser.add_argument("--image-size", type=int, nargs="+", default=[96, 224])
    parser.add_argument("--per-class", type=int, default=10, help="images used of each class")
    return parser.parse_args()


def main() -> None:
    options = options_of(__doc__)
    print(f"| set | px | lost by a crop | {' | '.join(FITS)} |")
    print("|---|---|---|" + "---|" * len(FITS))
    for folder in options.folders:
        samples = samples_of(folder, options.per_class)
        labels = torch.tensor([sample.label for sample in samples])
        kept = []
        for sample in samples:
            with Image.open(sample.path) as image:
                kept.append(kept_by_crop(image.size, (1, 1)))
        for size in options.image_size:
            net = siamkit.create_model(
                options.backbone, weights=options.weights, head="identity", image_size=size
            )
            cells = []
            for how in FITS.values():
                net.preprocessing = replace(net.backbone.preprocessing, **{"fit": "crop", **how})
                cells.append(f"{recall(Embedder(net).embed(samples), labels):.3f}")
            lost = 1 - sum(kept) / len(kept)
            print(f"| {folder.name} | {size} | {lost:.0%} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
