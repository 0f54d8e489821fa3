"""Manifests for tests."""

import hashlib
from pathlib import Path

from siamkit.interfaces import Preprocessing
from siamkit.portable.calibration import Calibration, Provenance, Rate
from siamkit.portable.manifest import (
    CARD,
    Images,
    Manifest,
    Origin,
    Quality,
    Tensors,
    seal_of,
    write_manifest,
)

SHA = hashlib.sha256(b"siamkit").hexdigest()
ABOUT = Provenance("photos", "val", "d", 10, 5, 4, 41, True, "epoch-1", "n", 1, "0.1", ("note",))
CALIBRATION = Calibration(
    "far", 1e-3, 0.5, Rate(0.1, 0.05, 0.2), Rate(0.1, 0.0, 0.3), 12.0, -5.0, ABOUT
)


def manifest_of(folder: Path, **changes) -> Manifest:
    """Return the manifest of a folder's present files."""
    names = [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()]
    values = {
        "siamkit": "0.1.0",
        "kind": "onnx",
        "precision": "float32",
        "model": "model.onnx",
        "files": {name: seal_of(folder / name) for name in names if name != "export.json"},
        "images": Images.of(Preprocessing(size=(64, 64)), 1_000_000),
        "tensors": Tensors("images", (3, 64, 64), "embeddings", 32, True),
        "calibration": CALIBRATION,
        "origin": Origin("a", "best", "epoch-1", 1, SHA, SHA, {"train": SHA}),
        "quality": (Quality("onnx", "float32", {"recall@1": 0.9, "eer": None}, 7, 0.01, 90.0),),
        "notices": ("read this",),
    }
    return Manifest(**{**values, **changes})


def folder_of(folder: Path, **changes) -> Path:
    """Write an exported folder without a real network."""
    folder.mkdir()
    (folder / "model.onnx").write_bytes(b"a network")
    (folder / CARD).write_text("# A card\n")
    write_manifest(folder, manifest_of(folder, **changes))
    return folder
