"""Compare the ranges of deep grey images, by the recall of frozen features.

    python tests/benchmarks/depths.py FOLDER... --backbone timm:resnet18 --image-size 96 224

Each folder holds class folders. Its images are written as grey files of 16 bits whose values have
10, 12 or 14 bits, as scanners deliver them. Every image is a query against all others; nothing is
trained. The table shows recall@1 for the same images in 8 bits, for the full range of 16 bits,
and for the range that ``data.range: auto`` finds.
"""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from fits import options_of, recall, samples_of
from PIL import Image

import siamkit
from siamkit.data.images import Sample
from siamkit.data.preparation import bits_for
from siamkit.inference.embedder import Embedder
from siamkit.portable.decode import Decoding, decode

BITS = (10, 12, 14)


def deep(samples: list[Sample], bits: int, folder: Path) -> tuple[list[Sample], int]:
    """Write grey images with values of so many bits; return them and the largest value."""
    white, largest, written = 2**bits - 1, 0, []
    for number, sample in enumerate(samples):
        grey = np.asarray(decode(sample.path, Decoding(1), sample.box)).astype(np.float64) / 255
        values = np.rint(grey * white).astype(np.uint16)
        path = folder / f"{number}.png"
        Image.fromarray(values).save(path)
        largest = max(largest, int(values.max()))
        written.append(Sample(path, sample.label, path.name))
    return written, largest


def main() -> None:
    options = options_of(__doc__)
    print("| set | px | bits | 8 bits | full | auto |\n|---|---|---|---|---|---|")
    for folder in options.folders:
        samples = samples_of(folder, options.per_class)
        labels = torch.tensor([sample.label for sample in samples])
        for size in options.image_size:
            net = siamkit.create_model(
                options.backbone,
                weights=options.weights,
                head="identity",
                in_chans=1,
                image_size=size,
            )

            def measured(images: list[Sample], value_range: int | None) -> str:
                net.preprocessing = replace(net.backbone.preprocessing, value_range=value_range)  # noqa: B023
                return f"{recall(Embedder(net).embed(images), labels):.3f}"  # noqa: B023

            eight = measured(samples, None)
            for bits in BITS:
                with tempfile.TemporaryDirectory() as place:
                    images, largest = deep(samples, bits, Path(place))
                    full, auto = measured(images, None), measured(images, bits_for(largest))
                cells = (folder.name, size, bits, eight, full, auto)
                print(f"| {' | '.join(map(str, cells))} |", flush=True)


if __name__ == "__main__":
    main()
