"""Manifests for tests."""

import hashlib
import warnings
from pathlib import Path

import torch

from siamkit.interfaces import Preprocessing
from siamkit.model.pretrained.identity import fingerprint_of
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


def real_export(folder: Path, net, **changes) -> Path:
    """Write an exported folder with the real network ``net`` in ONNX, and return the folder."""
    folder.mkdir()
    pre = net.preprocessing
    images = torch.zeros(2, pre.channels, *pre.size)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            _Embed(net).eval(), (images,), dynamo=True, verbose=False,
            input_names=["images"], output_names=["embeddings"],
            dynamic_shapes={"images": {0: torch.export.Dim.DYNAMIC}},
        )  # fmt: skip
        program.save(folder / "model.onnx")
    (folder / CARD).write_text("# A card\n")
    about = {
        "images": Images.of(pre, 1_000_000),
        "tensors": Tensors(
            "images", (pre.channels, *pre.size), "embeddings", net.embedding_dim, net.normalize
        ),
        "origin": Origin("a", "best", "epoch-1", 1, fingerprint_of(net), SHA, {"train": SHA}),
    }
    write_manifest(folder, manifest_of(folder, **{**about, **changes}))
    return folder


class _Embed(torch.nn.Module):
    def __init__(self, net) -> None:
        super().__init__()
        self.net = net

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.net(images)
