"""Check a threshold's predicted interval on identities that nothing was fitted on.

For each seed, the classes of a folder are divided into train, val and test, a third each. The
network is trained on train, the threshold is fitted on val (as at the end of every training), and
the false accepts are counted on test:

    python tests/benchmarks/threshold_transfer.py DATA --seeds 10 --epochs 2

This prints, for each seed and target, the threshold, the interval, the observed rate, and whether
the rate lies within the interval; and at the end, how often it did. ``--frozen`` embeds once with
the pretrained backbone and without training, which allows hundreds of splits.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from siamkit import api
from siamkit.data.class_folders import class_images
from siamkit.data.images import ImageSet
from siamkit.errors import DataError
from siamkit.evaluation.calibrating import fit_threshold
from siamkit.evaluation.pairs import pairs_of, scores
from siamkit.inference.embedder import Embedder
from siamkit.portable.calibration import Rate
from siamkit.portable.folders import scan

TARGETS = (("eer", None), ("accuracy", None), ("far", 1e-1), ("far", 1e-2), ("far", 1e-3))


@dataclass(frozen=True)
class Scored:
    """Scored pairs and the identities of their two images."""

    values: NDArray[np.float64]
    same: NDArray[np.bool_]
    first: NDArray[np.int64]
    second: NDArray[np.int64]


def scored(embeddings: NDArray[np.float32], labels: NDArray[np.int64]) -> Scored:
    pairs = pairs_of(labels)
    values = scores(embeddings, pairs)
    return Scored(values, pairs.same, labels[pairs.first], labels[pairs.second])


def thirds(count: int, seed: int) -> list[NDArray[np.int64]]:
    """Return the identities of train, val and test."""
    order = np.random.default_rng(seed).permutation(count)
    return [order[part * (count // 3) : (part + 1) * (count // 3)] for part in range(3)]


def seeds_of(args: argparse.Namespace) -> range:
    return range(args.first_seed, args.first_seed + args.seeds)


def frozen(images: ImageSet, args: argparse.Namespace) -> Iterator[tuple[Scored, Scored]]:
    net = api.create_model(args.backbone, head="identity", image_size=args.image_size)
    embeddings = Embedder(net).embed([sample.path for sample in images.samples]).numpy()
    labels = np.array(images.labels)
    for seed in seeds_of(args):
        _, val, test = (np.isin(labels, part) for part in thirds(len(images.classes), seed))
        yield scored(embeddings[val], labels[val]), scored(embeddings[test], labels[test])


def trained(images: ImageSet, args: argparse.Namespace) -> Iterator[tuple[Scored, Scored]]:
    labels = np.array(images.labels)
    for seed in seeds_of(args):
        with tempfile.TemporaryDirectory() as folder:
            root = Path(folder)
            parts = thirds(len(images.classes), seed)
            for name, part in zip(("train", "val", "test"), parts, strict=True):
                for index in np.flatnonzero(np.isin(labels, part)):
                    sample = images.samples[index]
                    copy = root / "data" / name / str(sample.label) / f"{index}{sample.path.suffix}"
                    copy.parent.mkdir(parents=True, exist_ok=True)
                    shutil.copyfile(sample.path, copy)
            api.fit(
                {
                    "data": {"path": str(root / "data"), "image_size": args.image_size},
                    "backbone": args.backbone,
                    "train": {"epochs": args.epochs, "seed": seed},
                    "engine": {"cache_dir": str(root / "cache")},
                    "run_dir": str(root / "run"),
                }
            )
            yield tuple(kept(root / "run", name) for name in ("val", "test"))


def kept(run: Path, part: str) -> Scored:
    from siamkit.runs.directory import RunDir
    from siamkit.runs.held_out import HeldOut

    held_out = HeldOut.load(RunDir(run), part)
    return scored(held_out.embeddings, np.array(held_out.images.labels))


def row(rate: Rate, seen: float) -> dict[str, float | bool]:
    within = bool(rate.low <= seen <= rate.high)
    return {"low": rate.low, "fitted": rate.rate, "high": rate.high, "seen": seen, "in": within}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--backbone", default="efficientnet-lite0")
    parser.add_argument("--image-size", type=int, default=64)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--frozen", action="store_true", help="embed once, without training")
    args = parser.parse_args()
    images = class_images(scan(args.data))
    print(f"{args.data.name}: {len(images)} images of {len(images.classes)} identities, a third "
          f"each to train, fit and test; {'frozen' if args.frozen else 'trained'}")  # fmt: skip
    print("seed  target    threshold   FAR: fitted [interval] -> seen         "
          "FRR: fitted [interval] -> seen")  # fmt: skip
    inside: dict[str, list[tuple[bool, bool]]] = {}
    splits = (frozen if args.frozen else trained)(images, args)
    for seed, (val, test) in zip(seeds_of(args), splits, strict=True):
        for target, far in TARGETS:
            name = target if far is None else f"far {far:g}"
            try:
                found = fit_threshold(val.values, val.same, val.first, val.second,
                                      target=target, far=far)  # fmt: skip
            except DataError as error:
                print(f"{seed:4}  {name:9} {error}")
                continue
            accepted = test.values >= found.value
            rows = [
                row(found.far, float(accepted[~test.same].mean())),
                row(found.frr, float((~accepted[test.same]).mean())),
            ]
            inside.setdefault(name, []).append((rows[0]["in"], rows[1]["in"]))
            told = "   ".join(
                f"{r['fitted']:.5f} [{r['low']:.5f}, {r['high']:.5f}] -> {r['seen']:.5f} "
                f"{'in ' if r['in'] else 'OUT'}"
                for r in rows
            )
            print(f"{seed:4}  {name:9} {found.value:.4f}   {told}", flush=True)
    for name, flags in inside.items():
        far_in, frr_in = np.sum(flags, axis=0)
        print(json.dumps({"target": name, "splits": len(flags), "far_inside": int(far_in),
                          "frr_inside": int(frr_in)}))  # fmt: skip


if __name__ == "__main__":
    main()
