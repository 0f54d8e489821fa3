"""Measure how long it takes to decode and resize a photograph, and what a fraction of it costs.

    python tests/benchmarks/decoding.py
    python tests/benchmarks/decoding.py PHOTO.jpg... --size 224 --backbone efficientnet-lite0

Large JPEGs are decoded at a fraction of their size (``siamkit/portable/decode.py``). The table
compares that with Pillow at the whole size, and with simplejpeg if it is installed, in turns: the
CPU milliseconds per image, medians over the repeats. The last columns tell how far the fraction is
from the whole image: in grey levels, and as the least cosine of the network's features. Without
photographs, the two of scikit-learn are used. Each is written in several sizes.
"""

from __future__ import annotations

import argparse
import io
import tempfile
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from statistics import median

import numpy as np
import torch
from PIL import Image

import siamkit
from siamkit.data.views import EvalView
from siamkit.portable.decode import Decoding, decode

SIZES = ((500, 375), (1280, 960), (2000, 1500), (4000, 3000))


def photos(paths: list[Path]) -> list[Image.Image]:
    """Return the given photographs; those of scikit-learn if there are none."""
    if paths:
        return [decode(path) for path in paths]
    from sklearn.datasets import load_sample_images

    return [Image.fromarray(image) for image in load_sample_images().images]


def with_simplejpeg(path: Path) -> Image.Image:
    """Decode a file with simplejpeg."""
    import simplejpeg

    return Image.fromarray(simplejpeg.decode_jpeg(path.read_bytes()))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("photos", type=Path, nargs="*")
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--backbone", default="efficientnet-lite0")
    parser.add_argument("--repeats", type=int, default=9)
    options = parser.parse_args()
    torch.set_num_threads(1)
    net = siamkit.create_model(options.backbone, head="identity", image_size=options.size)
    view, how = EvalView(net.preprocessing), Decoding.of(net.preprocessing)
    ways: dict[str, Callable[[Path], Image.Image]] = {
        "whole": decode,
        "fraction": lambda path: decode(path, how),
    }
    if find_spec("simplejpeg"):
        ways["simplejpeg, whole"] = with_simplejpeg
    names = " | ".join(f"{name}, ms" for name in ways)
    print(f"| photograph | {names} | times | grey levels | cosine |")
    print("|---" * (len(ways) + 4) + "|")
    for size in SIZES:
        spent: dict[str, list[float]] = {name: [] for name in ways}
        levels, cosines = [], []
        for photo in photos(options.photos):
            stream = io.BytesIO()
            photo.resize(size, Image.Resampling.LANCZOS).save(stream, "JPEG", quality=90)
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder) / "photo.jpg"
                path.write_bytes(stream.getvalue())
                for _ in range(options.repeats):
                    for name, way in ways.items():
                        begun = time.process_time()
                        view(way(path))
                        spent[name].append(1e3 * (time.process_time() - begun))
                whole, part = (view(ways[name](path)) for name in ("whole", "fraction"))
            std = torch.tensor(net.preprocessing.std)[:, None, None]
            levels.append(float(((whole - part) * std).abs().mean()) * 255)
            cosines.append(float(np.prod(net.embed(torch.stack([whole, part])).numpy(), 0).sum()))
        row = [median(values) for values in spent.values()]
        shown = " | ".join(f"{value:.1f}" for value in row)
        print(
            f"| {size[0]} x {size[1]} | {shown} | {row[0] / row[1]:.1f} | "
            f"{np.mean(levels):.2f} | {min(cosines):.5f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
