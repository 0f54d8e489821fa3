"""Held-out embeddings: those of the best epoch's network, stored with the run.

Calibration and the report read them, so neither has to embed the images again.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from siamkit.data.images import ImageSet, Sample, Tuples
from siamkit.errors import CheckpointError
from siamkit.files import full_disk_is_ours
from siamkit.interfaces import Preprocessing
from siamkit.runs.directory import RunDir
from siamkit.spelling import command

_PREPROCESSING = TypeAdapter(Preprocessing)


@dataclass(frozen=True)
class HeldOut:
    """Held-out images and their embeddings.

    Attributes:
        part: ``val`` or ``test``.
        images: The images.
        embeddings: ``[N, E]``, float32, by the best epoch's network.
        epoch: The best epoch, from 0.
        preprocessing: The preparation of the images.
    """

    part: str
    images: ImageSet
    embeddings: Tensor
    epoch: int
    preprocessing: Preprocessing

    def save(self, run: RunDir) -> Path:
        """Write them to the run's ``embeddings/``, replacing earlier ones; return the file."""
        path = run.embeddings / f"{self.part}.safetensors"
        about = {
            "epoch": self.epoch,
            "classes": list(self.images.classes),
            "labels": self.images.labels,
            "paths": [str(sample.path) for sample in self.images.samples],
            "keys": [sample.key for sample in self.images.samples],
            "boxes": [sample.box for sample in self.images.samples],
            "query": self.images.query,
            "gallery": self.images.gallery,
            "tuples": self.images.tuples and asdict(self.images.tuples),
            "preprocessing": asdict(self.preprocessing),
        }
        temporary = path.with_name(f".{path.name}.tmp")
        with full_disk_is_ours(path):
            path.parent.mkdir(exist_ok=True)
            save_file(
                {"embeddings": self.embeddings.contiguous()},
                temporary,
                metadata={"about": json.dumps(about)},
            )
            temporary.replace(path)
        return path

    @classmethod
    def load(cls, run: RunDir, part: str) -> HeldOut | None:
        """Return the held-out images that :meth:`save` wrote, or None if the run has no such part.

        Raises:
            CheckpointError: The file is damaged.
        """
        path = run.embeddings / f"{part}.safetensors"
        if not path.is_file():
            return None
        try:
            with safe_open(path, framework="pt") as file:
                about: dict[str, Any] = json.loads(file.metadata()["about"])
                embeddings = file.get_tensor("embeddings")
            fields = ("paths", "labels", "keys", "boxes")
            samples = tuple(
                Sample(Path(path), label, key, box and tuple(box))
                for path, label, key, box in zip(*(about[f] for f in fields), strict=True)
            )
            images = ImageSet(
                samples,
                tuple(about["classes"]),
                _tuples(about["tuples"]),
                *(about[role] and tuple(about[role]) for role in ("query", "gallery")),
            )
            preprocessing = _PREPROCESSING.validate_python(about["preprocessing"])
            return cls(part, images, embeddings, about["epoch"], preprocessing)
        except (SafetensorError, OSError, ValueError, KeyError, TypeError):
            raise CheckpointError(
                "the file is damaged",
                where=str(path),
                hint=f"{command('train --resume', run.path)} writes it again",
            ) from None


def _tuples(plain: dict[str, Any] | None) -> Tuples | None:
    if plain is None:
        return None
    same, folds = (plain[name] and tuple(plain[name]) for name in ("same", "folds"))
    return Tuples(tuple(tuple(row) for row in plain["rows"]), same, folds)
